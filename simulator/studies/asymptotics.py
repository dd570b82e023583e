"""How close solved samples of growing size come to the proportional limits: spread and bias over dimension."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

from simulator import sweep, theory, trials
from simulator.catalogue import CATALOGUE
from simulator.data import GaussianFeatures, LinearlySeparable
from simulator.plots import figures
from simulator.studies import prediction
from simulator.studies.settings import Settings, setting
from simulator.studies.study import Study, Verdict
from simulator.threats import L2, ConsistentLInf, SignalDirected

MODELS = ("separable", "mixture", "features")
SLOPE, SLACK = -0.5, 0.15
"""How the spread over trials falls with the dimension, and how far from that it may be."""


@dataclass(frozen=True, kw_only=True)
class AsymptoticsSettings(Settings):
    """Axes model, dim, trial."""

    model: tuple[str, ...] = setting(
        "separable data and a signal-directed threat, a mixture and an l2 ball, or noiseless features and consistent "
        "l_inf",
        choices=MODELS,
    )
    dim: tuple[int, ...] = setting("dimension of the data", low=4)
    ratio: float = setting("d / n: dimensions per training example", above=0.6)
    margin: float = setting("gamma of the separable data, and the norm of the mixture's mean", above=0)
    epsilon: float = setting("radius of the signal-directed threat and of the ball", low=0)
    linf: float = setting("radius of the consistent l_inf threat times sqrt(d)", low=0)


_DEFAULT: dict[str, Any] = {
    "model": MODELS,
    "dim": (100, 300, 1000, 3000),
    "ratio": 4.0,
    "margin": 2.0,
    "epsilon": 0.5,
    "linf": 1.5,
    "trials": 60,
}
_SCALES = {
    "smoke": AsymptoticsSettings(**{**_DEFAULT, "dim": (40, 160), "trials": 6}),
    "default": AsymptoticsSettings(**_DEFAULT),
    "paper": AsymptoticsSettings(**{**_DEFAULT, "dim": (100, 300, 1000, 3000, 6000), "trials": 100}),
}


def grid(settings: AsymptoticsSettings) -> sweep.Grid:
    """The axes of the study."""
    axes = {"model": settings.model, "dim": settings.dim}
    return sweep.Grid(axes, settings.trials, static=("model", "dim"))


def cell(settings: AsymptoticsSettings) -> sweep.Cell:
    """Solve one sample and give its errors in closed form: only the training points are random."""
    of_model = {"separable": _separable, "mixture": _mixture, "features": _features}

    def run(coords, key):
        dim = coords["dim"]
        n = max(2, round(dim / settings.ratio))
        found, limit = of_model[coords["model"]](settings, key, dim, n)
        return {
            **dict(zip(prediction.ERRORS, found, strict=True)),
            **{
                f"{name}_limit": jnp.asarray(value, found[0].dtype)
                for name, value in zip(prediction.ERRORS, limit, strict=True)
            },
            # A cell that was not solved is left out, loudly.
            "diverged": ~jnp.isfinite(found[0]),
        }

    return run


def _separable(settings: AsymptoticsSettings, key, dim: int, n: int):
    task = LinearlySeparable(dim, settings.margin)
    threat = SignalDirected(settings.epsilon)
    of = [prediction.noise_margin(task, *task.sample(key, n)), prediction.limit(task, n, dim)]
    return [theory.maximum_margin_errors(margin, task, threat, threat) for margin in of]


def _mixture(settings: AsymptoticsSettings, key, dim: int, n: int):
    mean = jnp.zeros(dim).at[0].set(settings.margin)
    z = jr.normal(key, (n, dim)) + mean[None]
    points, _, axes = theory.in_span(z, L2(0.0), mean[None])
    # A ball does not move the maximum-margin direction.
    cosine = (axes[0] @ _solved(theory.max_margin(points, L2(0.0)))) / settings.margin
    limit = theory.mixture_limit(dim / n, settings.margin)
    # In the plane of the mean and the classifier.
    plane, weight = jnp.eye(2, dtype=z.dtype), jnp.stack([cosine, jnp.sqrt(1 - cosine**2)])
    errors = theory.mixture_errors(
        weight, jnp.zeros((), z.dtype), settings.margin * plane[0], plane, L2(settings.epsilon)
    )
    return errors, limit.errors(settings.margin, settings.epsilon)


def _features(settings: AsymptoticsSettings, key, dim: int, n: int):
    task, threat = GaussianFeatures(dim), ConsistentLInf(settings.linf / dim**0.5)
    x, y = task.sample(key, n)
    found = theory.max_margin(x * y.astype(x.dtype)[:, None], threat, prediction.GAP)
    limit = theory.feature_limit(dim / n, settings.linf)
    errors = theory.feature_errors(_solved(found), task.direction, threat)
    return errors, limit.errors(settings.linf)


def _solved(found: theory.Classifier):
    """Its weight; nan where the solve failed, so that nothing is made of it."""
    return jnp.where(found.outcome == theory.Outcome.SOLVED, found.weight, jnp.nan)


def slope_of_spread(result: xr.Dataset, name: str) -> xr.DataArray:
    """Of the logarithm of the standard deviation over trials, over that of the dimension [model]."""
    values = result[name].where(result["status"] == "ok")
    deviation = values.std("trial", ddof=1)
    fit = np.log(deviation).assign_coords(dim=np.log(result["dim"].values)).polyfit("dim", 1)
    return fit["polyfit_coefficients"].sel(degree=1)


def verdict(result: xr.Dataset) -> Verdict:
    """Spread falls like d^-1/2, and the largest dimension has the limit within 5 standard errors."""
    if result["dim"].size < 2 or result["trial"].size < 2:
        return Verdict(False, "needs two dimensions and two trials to test the claim")
    slopes = xr.concat([slope_of_spread(result, name) for name in prediction.ERRORS], "error")
    last = result.isel(dim=-1)
    off = []
    for name in prediction.ERRORS:
        mean, sem, _ = trials.over_trials(last, name)
        off.append(abs(mean - trials.over_trials(last, f"{name}_limit")[0]) / sem)
    worst = float(xr.concat(off, "error").max())
    low, high = float(slopes.min()), float(slopes.max())
    held = bool((abs(slopes - SLOPE) <= SLACK).all()) and worst <= prediction.MOST_DEVIATIONS
    return Verdict(
        held,
        f"over {result['trial'].size} trials the spread of the errors of {result['model'].size} models falls like "
        f"d^{low:.2f} to d^{high:.2f}; at d = {int(last['dim'])} their means are at most {worst:.1f} standard errors "
        "from the limit",
    )


def notes(settings: AsymptoticsSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of the store."""
    return {
        "classifier": "robust maximum margin by an interior-point method, "
        f"to a relative duality gap of 1e-4, with the l_inf threat {prediction.GAP:g}; other cells count as diverged",
        "attack": "none: errors are the closed forms at the solved classifier",
        "theory": f"*_limit: n and d large at d / n = {settings.ratio:g}",
        "selection": "none",
        "interval": "standard error over trials",
    }


STUDY = Study(
    name="asymptotics",
    claim=CATALOGUE["asymptotics"].claim,
    shows=CATALOGUE["asymptotics"].shows,
    scales=_SCALES,
    grid=grid,
    cell=cell,
    figure=figures.asymptotics,
    verdict=verdict,
    notes=notes,
    core=CATALOGUE["asymptotics"].core,
)
