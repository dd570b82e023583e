"""Interpolation on noiseless Gaussian features: maximum margin against ridge, simulated and in the limit."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

from simulator import metrics, networks, sweep, theory, trials
from simulator.catalogue import CATALOGUE
from simulator.data import GaussianFeatures
from simulator.plots import figures
from simulator.studies import prediction, protocol
from simulator.studies.settings import Settings, check_test_size, setting
from simulator.studies.study import Study, Verdict
from simulator.threats import ConsistentLInf

SAMPLES = 1000
"""The number of training examples for which `epsilon` is given: the limit depends on epsilon sqrt(ratio n) alone."""


@dataclass(frozen=True, kw_only=True)
class InterpolationSettings(Settings):
    """Axes ratio, penalty, epsilon, trial."""

    ratio: tuple[float, ...] = setting("d / n: dimensions per training example", above=0)
    penalty: tuple[float, ...] = setting("lambda of robust ridge logistic regression; 0 is the maximum margin", low=0)
    epsilon: tuple[float, ...] = setting("radius of the consistent l_inf threat, as at n = 1000", low=0)
    n: int = setting("training examples", low=2)
    test: int = setting("test examples per trial", low=1)

    def check(self) -> None:
        check_test_size("test", self.test)

    def dim(self, ratio: float) -> int:
        """The dimension at a ratio."""
        return max(2, round(ratio * self.n))


_DEFAULT: dict[str, Any] = {
    "ratio": (1.5, 2.0, 4.0, 6.0, 8.0),
    "penalty": (0.0, 0.01, 0.1, 1.0),
    "epsilon": (0.0, 0.02, 0.05),
    "n": 200,
    "trials": 5,
    "test": 5000,
}
_SCALES = {
    "smoke": InterpolationSettings(
        **{**_DEFAULT, "ratio": (2.0,), "penalty": (0.0, 0.1), "n": 40, "trials": 2, "test": 500}
    ),
    "default": InterpolationSettings(**_DEFAULT),
    "paper": InterpolationSettings(
        **{
            **_DEFAULT,
            "ratio": (0.5, 1.0, 1.5, 2.0, 4.0, 6.0, 7.0, 8.0),
            "penalty": (0.0, 0.001, 0.01, 0.1, 0.3, 1.0, 10.0),
            "n": SAMPLES,
            "trials": 15,
            "test": 10_000,
        }
    ),
}


def grid(settings: InterpolationSettings) -> sweep.Grid:
    """The axes of the study."""
    axes = {name: getattr(settings, name) for name in ("ratio", "penalty", "epsilon")}
    return sweep.Grid(axes, settings.trials, static=("ratio", "penalty"), inner="epsilon")


def _limits(settings: InterpolationSettings, ratio: float, penalty: float) -> np.ndarray:
    """Standard error, robust error and cosine of every epsilon in the limit [epsilon, 3]; nan if not solved."""

    def of(epsilon: float) -> tuple[float, float, float]:
        budget = epsilon * (ratio * SAMPLES) ** 0.5
        found = theory.ridge_limit(ratio, budget, penalty) if penalty else theory.feature_limit(ratio, budget)
        return *found.errors(budget), found.cosine

    return np.array([of(epsilon) for epsilon in settings.epsilon])


def cell(settings: InterpolationSettings) -> sweep.Cell:
    """Solve for one classifier, and measure it on fresh examples under the exact attack."""

    def run(coords, key):
        ratio, penalty = coords["ratio"], coords["penalty"]
        data_key, test_key = jr.split(key)
        task = GaussianFeatures(settings.dim(ratio))
        # The radius at which epsilon sqrt(d) is what it is at n = 1000.
        threat = ConsistentLInf(coords["epsilon"] * (ratio * SAMPLES / task.dim) ** 0.5)
        x, y = task.sample(data_key, settings.n)
        points = x * y.astype(x.dtype)[:, None]
        if penalty:
            found = theory.ridge_logistic(points, threat, penalty, prediction.GAP)
        else:
            found = theory.max_margin(points, threat, prediction.GAP)
        network = networks.from_weights([(found.weight[None], jnp.zeros(1))])
        measured = metrics.evaluate(test_key, network, task, threat, protocol.exact_attack, n=settings.test)
        here = jnp.argmin(jnp.abs(jnp.asarray(settings.epsilon, x.dtype) - coords["epsilon"]))
        limits = jnp.asarray(_limits(settings, ratio, penalty), x.dtype)[here]
        of_sample = theory.feature_errors(found.weight, task.direction, threat)
        predicted = {"theory": tuple(of_sample), "limit": tuple(limits[:2])}
        return {
            **{name: measured[name] for error in prediction.ERRORS for name in (error, f"{error}_se_test")},
            **{
                f"{error}_{suffix}": value
                for suffix, values in predicted.items()
                for error, value in zip(prediction.ERRORS, values, strict=True)
            },
            "alignment_limit": limits[2],
            "alignment": found.weight[0] / jnp.linalg.norm(found.weight),
            "gap": found.gap,
            "outcome": found.outcome,
        }

    return run


def verdict(result: xr.Dataset) -> Verdict:
    """At every ratio and radius above 0 some penalty has a smaller robust error than the maximum margin."""
    agreed, words = prediction.agreement(result)
    penalties, radii = result["penalty"].values, result["epsilon"].values
    if 0 not in penalties or not (penalties > 0).any() or not (radii > 0).any() or result["trial"].size < 2:
        return Verdict(False, f"{words}; needs penalty 0 and another, a radius above 0 and 2 trials to test the claim")
    # Which penalty is the best is read off the limit, not off the sample it is then measured on.
    best = trials.over_trials(result, "robust_error_limit")[0].sel(penalty=penalties[penalties > 0]).idxmin("penalty")
    gain = result["robust_error"].where(result["status"] == "ok")
    gain = gain.sel(penalty=0) - gain.sel(penalty=best)
    mean, sem = gain.mean("trial"), gain.std("trial", ddof=1) / gain.sizes["trial"] ** 0.5
    robust = radii[radii > 0]
    least = (mean / sem).sel(epsilon=robust)
    off, _, _ = trials.over_trials(result, "robust_error")
    away = float(abs(off - trials.over_trials(result, "robust_error_limit")[0]).max())
    return Verdict(
        agreed and bool((least > 2).all()),
        f"{words}; the best penalty of the limit lowers the robust error of the maximum margin by between "
        f"{float(mean.sel(epsilon=robust).min()):+.3f} and {float(mean.sel(epsilon=robust).max()):+.3f}, at least "
        f"{float(least.min()):.1f} paired standard errors; mean errors are at most {away:.3f} from the limit",
    )


def notes(settings: InterpolationSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of the store."""
    return {
        "classifier": "an interior-point method or Newton's on the dual, "
        f"to a relative duality gap of {prediction.GAP:g} (`gap`)",
        "attack": "training and evaluation: exact (a linear classifier)",
        "theory": "*_theory: closed form at the classifier of the sample; *_limit: n and d large, from the system of "
        "Donhauser et al. (2021), nan where it was not solved",
        "scale_of_epsilon": f"radius epsilon sqrt({SAMPLES} / n) at n = {settings.n}",
        "selection": "none: every penalty is reported",
        "interval": "standard error over trials; *_se_test over test examples",
    }


STUDY = Study(
    name="theory-interpolation",
    claim=CATALOGUE["theory-interpolation"].claim,
    shows=CATALOGUE["theory-interpolation"].shows,
    scales=_SCALES,
    grid=grid,
    cell=cell,
    figure=partial(
        figures.prediction,
        along="ratio",
        lines="penalty",
        rows="epsilon",
        title="Noiseless features, consistent l_inf perturbations: maximum margin (λ = 0) and ridge",
    ),
    verdict=verdict,
    notes=notes,
    core=CATALOGUE["theory-interpolation"].core,
)
