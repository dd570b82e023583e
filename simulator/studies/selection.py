"""How much the rule that selects the learning rate moves each curve: all rates are kept, and every rule applied."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import xarray as xr

from simulator import sweep, trials
from simulator.catalogue import CATALOGUE
from simulator.plots import figures
from simulator.studies import protocol, two_tasks
from simulator.studies.settings import setting
from simulator.studies.study import Study, Verdict
from simulator.studies.two_tasks import THESIS, TwoTasksSettings
from simulator.threats import L2

RULES = {
    "validation robust error": ("validation_robust_error", "validation_standard_error"),
    "test robust error": ("robust_error", "standard_error"),
    "validation certified error": ("validation_certified_error", "validation_standard_error"),
    "validation standard error": ("validation_standard_error", "validation_robust_error"),
    "training loss": ("train_loss", "validation_standard_error"),
}
"""Rule -> score and tie-break, the smallest first.  The papers' is the test robust error, ours the validation one."""
OURS, PAPERS = "validation robust error", "test robust error"
NEAR = 0.02
"""What "moves no curve" means in the claim."""


@dataclass(frozen=True, kw_only=True)
class SelectionSettings(TwoTasksSettings):
    """Axes task, defence, n, dim, epsilon, trial; the variables have the learning rate as their own dimension.

    `selection` says what the validation sample is; every rule is applied afterwards.
    """

    width: int = setting("hidden neurons", low=1)


_DEFAULT: dict[str, Any] = {
    **THESIS,
    **protocol.QUICKLY,
    "defence": ("standard", "adversarial", "coap"),
    "spheres_epsilon": (0.2, 0.4, 0.6, 0.8, 1.0),
    "linear_epsilon": (0.2, 0.4, 0.8, 1.0, 3.0, 3.5, 4.0, 4.5, 5.0),
    "every": 150,
    "width": 100,
    "trials": 5,
    "test": 2000,
}
_PAPER: dict[str, Any] = {**_DEFAULT, **protocol.THOROUGHLY, "trials": 15, "test": 10_000}
_SMOKE: dict[str, Any] = {
    **_DEFAULT,
    **two_tasks.SMOKE,
    "spheres_epsilon": (0.2, 1.0),
    "linear_epsilon": (1.0, 5.0),
    "learning_rates": (0.1, 0.001),
    "every": 20,
    "width": 10,
}


def grid(settings: SelectionSettings) -> sweep.Grid:
    """The axes of the study."""
    return two_tasks.grid(settings, shared_dims=("learning_rate",), coords={"learning_rate": settings.learning_rates})


def cell(settings: SelectionSettings) -> sweep.Cell:
    """Train a network with every learning rate and measure all of them, on the test and on the validation sample."""

    def run(coords, key, problem):
        # The same keys as in `l2-budget`: with the same settings the same networks.
        keys, threat = tuple(jr.split(key, 3)), L2(coords["epsilon"])

        def with_rate(rate):
            fit, held_out = protocol.candidate(
                settings, protocol.training_loss(coords["defence"]), keys, problem, threat, rate
            )
            return {
                **protocol.evaluated(settings, keys[2], fit.network, problem, threat),
                **{f"validation_{name}": held_out[name] for name in ERRORS},
                "train_loss": fit.history["loss"][-1],
                "unfinished": fit.diverged,
            }

        found = jax.lax.map(with_rate, jnp.array(settings.learning_rates))
        # A rate that diverges is what a selection has to cope with; a cell fails only if nothing else is left.
        return {**found, "diverged": jnp.all(found.pop("unfinished"))}

    return two_tasks.staged(settings, lambda coords: (settings.width,), run)


ERRORS = ("standard_error", "robust_error", "certified_error")


def by_rule(result: xr.Dataset) -> xr.Dataset:
    """The result with a dimension "rule" in place of "learning_rate": what each of `RULES` selects in every cell."""
    chosen = {
        rule: result.isel(learning_rate=trials.least(result, "learning_rate", *names)) for rule, names in RULES.items()
    }
    return xr.concat(
        [one.drop_vars("learning_rate") for one in chosen.values()], xr.IndexVariable("rule", list(chosen))
    )


def verdict(result: xr.Dataset) -> Verdict:
    """How far the papers' rule moves the means of robust error from ours, and how far a fixed rate would."""
    missing = protocol.lacks(result, ())
    if missing is not None:
        return missing
    ruled = by_rule(result)
    move = _moved(ruled, OURS, PAPERS)
    fixed = result["robust_error"].where(result["status"] == "ok").mean("trial")
    spread = fixed.max("learning_rate") - fixed.min("learning_rate")
    others = [
        f"{rule} {float(abs(_moved(ruled, OURS, rule)).max()):.3f}" for rule in RULES if rule not in (OURS, PAPERS)
    ]
    sentence = (
        f"the mean robust error moves by at most {float(abs(move).max()):.3f} from a selection on a validation sample "
        f"to one on the test sample; from the former to one by {', '.join(others)}; between the best and the worst "
        f"fixed learning rate by up to {float(spread.max()):.3f}; {result['trial'].size} trials"
    )
    return Verdict(bool((abs(move) <= NEAR).where(move.notnull(), True).all()), sentence)


def _moved(ruled: xr.Dataset, first: str, second: str) -> xr.DataArray:
    return trials.paired_difference(ruled, "robust_error", rule=(second, first))[0]


def notes(settings: SelectionSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of a store."""
    return {
        **protocol.notes(settings, L2(1.0)),
        "selection": f"none in the store: all learning rates; rules applied afterwards: {', '.join(RULES)}; validation "
        f"sample of {settings.test}",
    }


STUDY = Study(
    name="selection",
    claim=CATALOGUE["selection"].claim,
    shows=CATALOGUE["selection"].shows,
    scales={
        "smoke": SelectionSettings(**_SMOKE),
        "default": SelectionSettings(**_DEFAULT),
        "paper": SelectionSettings(**_PAPER),
    },
    grid=grid,
    cell=cell,
    figure=lambda result, published: figures.selection(by_rule(result), result),
    verdict=verdict,
    notes=notes,
    core=CATALOGUE["selection"].core,
)
