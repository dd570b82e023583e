"""Depth and width on the spheres: the gap, the unstable share and the looseness of COAP's bound."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import xarray as xr

from simulator import sweep, trials
from simulator.catalogue import CATALOGUE
from simulator.defences import DEFENCES
from simulator.plots import figures
from simulator.studies import protocol, two_tasks
from simulator.studies.protocol import PAIR
from simulator.studies.settings import setting
from simulator.studies.study import Study, Verdict
from simulator.studies.two_tasks import TASKS, THESIS, TwoTasksSettings
from simulator.threats import L2


@dataclass(frozen=True, kw_only=True)
class DeepSettings(TwoTasksSettings):
    """Axes task, depth, width, defence, n, dim, epsilon, trial."""

    depth: tuple[int, ...] = setting("hidden layers", low=1)
    width: tuple[int, ...] = setting("neurons of every hidden layer", low=1)
    most: int = setting(
        "hidden neurons in all: larger networks are left out, since COAP's cost grows as their cube", low=1
    )


_DEFAULT: dict[str, Any] = {
    **THESIS,
    **protocol.QUICKLY,
    "task": ("spheres",),
    "depth": (1, 2, 3, 4),
    "width": (10, 100, 300),
    "most": 600,
    "defence": ("adversarial", "coap", "ibp"),
    "spheres_epsilon": (0.3, 1.0),
    "linear_epsilon": (4.0,),
    "learning_rates": (0.01, 0.001),
    "every": 150,
    "trials": 3,
    "test": 200,
}
_PAPER: dict[str, Any] = {
    **_DEFAULT,
    **protocol.THOROUGHLY,
    "task": TASKS,
    "defence": DEFENCES,
    "width": (10, 100, 300, 1000),
    "most": 4000,
    "learning_rates": (0.1, 0.01, 0.001),
    "trials": 15,
    "test": 2000,
}
_SMOKE: dict[str, Any] = {
    **_DEFAULT,
    **two_tasks.SMOKE,
    "depth": (1, 2),
    "width": (10,),
    "spheres_epsilon": (1.0,),
    "every": 20,
}


def grid(settings: DeepSettings) -> sweep.Grid:
    """The axes of the study, without the networks that are too large."""
    return two_tasks.grid(
        settings, "depth", "width", wanted=lambda coords: coords["depth"] * coords["width"] <= settings.most
    )


def cell(settings: DeepSettings) -> sweep.Cell:
    """Train one network, in the span of what a trial draws, and measure it."""

    def run(coords, key, problem):
        return protocol.outcome(
            settings, protocol.training_loss(coords["defence"]), key, problem, L2(coords["epsilon"])
        )

    return two_tasks.staged(settings, lambda coords: (coords["width"],) * coords["depth"], run)


def verdict(result: xr.Dataset) -> Verdict:
    """Looseness and gap at the largest radius, from one hidden layer to the deepest run, at every width."""
    missing = protocol.lacks(result)
    if missing is not None or result["depth"].size < 2:
        return missing or Verdict(False, "needs two depths to test the claim")
    chosen = trials.first_run(result.isel(task=0), "n", "dim").isel(epsilon=-1)
    held, parts = [], []
    for width in result["width"].values:
        here = chosen.sel(width=width)
        gap, sem = (values.dropna("depth") for values in trials.paired_difference(here, "robust_error", **PAIR))
        if gap["depth"].size < 2:
            continue
        ends = tuple(int(depth) for depth in gap["depth"].values[[-1, 0]])
        rise, rise_sem = trials.paired_difference(here, "robust_error", **PAIR, depth=ends)
        loose, _, _ = trials.over_trials(here.sel(defence="coap"), "looseness")
        first, last = (float(loose.sel(depth=depth)) for depth in ends[::-1])
        held.append(last > first and float(rise) > 2 * float(rise_sem))
        parts.append(
            f"{float(gap[0]):+.3f} to {float(gap[-1]):+.3f} (paired s.e. {float(sem[-1]):.3f}) and {first:.2f} to "
            f"{last:.2f} at width {width}, up to {ends[0]} layers"
        )
    if not held:
        return Verdict(False, "needs a width that was run at two depths to test the claim")
    sentence = f"from one hidden layer to the deepest, gap and looseness go from {'; '.join(parts)}"
    return Verdict(all(held), f"{sentence}; {result['trial'].size} trials")


STUDY = Study(
    name="deep",
    claim=CATALOGUE["deep"].claim,
    shows=CATALOGUE["deep"].shows,
    scales={"smoke": DeepSettings(**_SMOKE), "default": DeepSettings(**_DEFAULT), "paper": DeepSettings(**_PAPER)},
    grid=grid,
    cell=cell,
    figure=partial(
        figures.errors,
        along="depth",
        rows=("task", "width"),
        title="Depth on the spheres",
        panels={
            "standard_error": "standard error",
            "robust_error": "robust error",
            "certified_error": "certified error",
            "unstable": "unstable neurons (share)",
            "looseness": "looseness of COAP's bound",
        },
    ),
    verdict=verdict,
    notes=lambda settings: protocol.notes(settings, L2(1.0), (2, 2)),
    core=CATALOGUE["deep"].core,
)
