"""What a certified loss adds to the worst loss of the same network along training, and the budget that is worth."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import xarray as xr

from simulator import bounds, gap, span, sweep, train, trials
from simulator.catalogue import CATALOGUE
from simulator.networks import Network
from simulator.plots import figures
from simulator.studies import protocol, two_shapes
from simulator.studies.study import Study, Verdict
from simulator.studies.two_shapes import MOST, TwoShapesSettings
from simulator.threats import Threat


@dataclass(frozen=True, kw_only=True)
class GapReportSettings(TwoShapesSettings):
    """Axes task, shape, defence, n, dim, epsilon, trial; `every` is also the distance of two points of the history."""


_DEFAULT: dict[str, Any] = {
    **two_shapes.DEFAULT,
    "defence": ("adversarial", "coap", "crown-ibp", "ibp"),
    "every": 10,
    "trials": 5,
}
_PAPER: dict[str, Any] = {**_DEFAULT, **protocol.THOROUGHLY, "every": 5, "trials": 15, "test": 10_000}
_SMOKE: dict[str, Any] = {**_DEFAULT, **two_shapes.SMOKE}

VIEWS = ("clean", "attack", "exact", *gap.BOUNDS)
"""The methods whose losses and margins are kept; "exact" is nan in the ball, where none is known."""
_HISTORIES = (
    *(f"{quantity}_{view}" for quantity in ("loss", "margin") for view in VIEWS),
    *(f"budget_{name}" for name in gap.BOUNDS),
    *("budget_median", "budget_unreached", "unstable", "triangle_area"),
)


def grid(settings: GapReportSettings) -> sweep.Grid:
    """The axes of the study."""
    return two_shapes.grid(
        settings,
        dims={f"{name}_history": ("epoch",) for name in _HISTORIES},
        coords={"epoch": train.recorded_epochs(settings.epochs, settings.every)},
    )


def cell(settings: GapReportSettings) -> sweep.Cell:
    """Train and measure as every study does, then train at the selected rate once more and record the gap."""

    def run(coords, key, problem, threat):
        loss = protocol.training_loss(coords["defence"])
        found = protocol.outcome(settings, loss, key, problem, threat)
        keys, rate = tuple(jr.split(key, 3)), found["selected_learning_rate"]
        fit, _ = protocol.candidate(settings, loss, keys, problem, threat, rate, report(problem, threat))
        return {**found, **{f"{name}_history": fit.history[name] for name in _HISTORIES}}

    return two_shapes.staged(settings, run)


def report(problem: span.Problem, threat: Threat):
    """What is recorded along training, all on the training set.

    `loss_*` and `margin_*`: mean worst loss and margin by every one of `VIEWS`; `budget_*`: the effective budget of
    every bound, in the units of the data; of COAP's bound also `budget_median`, the median of the examples' own
    effective budgets, and `budget_unreached`, the share of examples whose budget is inf; `unstable` and
    `triangle_area`: of COAP's relaxation, means over neurons and examples.
    """
    signal = jax.vmap(problem.task.signal)(problem.x, problem.y)
    threats = jax.vmap(threat.at)(problem.x, signal)
    most, attack = MOST * jnp.asarray(threat.radius), protocol.training_attack

    def each(network, threat, x, y):
        boxes = bounds.preactivations(network, threat, x, "coap")
        own = gap.effective_budgets(network, threat, x, y, attack, most, ("coap",))["coap"]
        area, unstable = gap.triangle_area(boxes, x.dtype), bounds.unstable_share(boxes, x.dtype)
        return gap.worst(network, threat, x, y, attack), own, {"triangle_area": area, "unstable": unstable}

    def measure(network: Network) -> dict:
        views, own, neurons = jax.vmap(lambda *example: each(network, *example))(threats, problem.x, problem.y)
        whole = gap.mean_budgets(network, threats, problem.x, problem.y, attack, most)
        unknown = jnp.full((), jnp.nan, problem.x.dtype)
        return {
            **{
                f"loss_{view}": jnp.exp(gap.log_mean(views[view].log_loss)) if view in views else unknown
                for view in VIEWS
            },
            **{f"margin_{view}": jnp.mean(views[view].margin) if view in views else unknown for view in VIEWS},
            **{f"budget_{name}": value for name, value in whole.items()},
            **{name: jnp.mean(value) for name, value in neurons.items()},
            "budget_median": jnp.median(own),
            "budget_unreached": jnp.mean(jnp.isinf(own).astype(own.dtype)),
        }

    return measure


def relative(part: xr.Dataset, variable: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over trials of a budget as a multiple of epsilon, and its standard error."""
    known = part.assign(budget=part[variable] / part["epsilon"].where(part["epsilon"] > 0))
    mean, sem, _ = trials.over_trials(known, "budget")
    return mean, sem


def verdict(result: xr.Dataset) -> Verdict:
    """Whether COAP's excess is largest before training and less than half of that after it, on every problem."""
    missing = protocol.lacks(result, ("coap",))
    if missing is not None:
        return missing
    held, parts = [], []
    for task, shape, place in two_shapes.places(result.sel(defence=["coap"])):
        mean, _ = relative(place.sel(defence="coap"), "budget_coap_history")
        excess = mean.dropna("epsilon") - 1
        if not excess["epsilon"].size:
            return Verdict(False, f"needs a radius above 0 on the task {task} that was run, to test the claim")
        start, end = excess.isel(epoch=0), excess.isel(epoch=-1)
        held.append(bool(((start >= excess.max("epoch")) & (end < start / 2)).all()))
        last = excess.isel(epsilon=-1)
        top = int(last.argmax("epoch"))
        parts.append(
            f"{float(last[0]) + 1:.2f} epsilon before training, {float(last[top]) + 1:.2f} at most (epoch "
            f"{int(last['epoch'][top])}) and {float(last[-1]) + 1:.2f} after it on the task {task} ({shape}, epsilon = "
            f"{float(last['epsilon']):g})"
        )
    sentence = f"COAP's effective budget is {'; '.join(parts)}; {result['trial'].size} trials"
    return Verdict(all(held), sentence)


STUDY = Study(
    name="gap-report",
    claim=CATALOGUE["gap-report"].claim,
    shows=CATALOGUE["gap-report"].shows,
    scales={
        "smoke": GapReportSettings(**_SMOKE),
        "default": GapReportSettings(**_DEFAULT),
        "paper": GapReportSettings(**_PAPER),
    },
    grid=grid,
    cell=cell,
    figure=lambda result, published: figures.gap_report(list(two_shapes.places(result))),
    verdict=verdict,
    notes=lambda settings: {
        **two_shapes.notes(settings),
        "history": "on the training set, of a training at the selected learning rate",
    },
    core=CATALOGUE["gap-report"].core,
)
