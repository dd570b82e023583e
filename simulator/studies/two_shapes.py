"""Both tasks under an l2 ball, the linear one along the signal too: what `gap-report` and `attribution` share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import xarray as xr
from jaxtyping import PRNGKeyArray

from simulator import span, sweep, trials
from simulator.studies import protocol, two_tasks
from simulator.studies.settings import setting
from simulator.studies.two_tasks import THESIS, TwoTasksSettings
from simulator.threats import L2, SignalDirected, Threat

SHAPES = ("ball", "signal")
MOST = 8.0
"""The largest effective budget that is looked for, as a multiple of the radius."""


@dataclass(frozen=True, kw_only=True)
class TwoShapesSettings(TwoTasksSettings):
    """Axes task, shape, defence, n, dim, epsilon, trial; on the spheres the ball alone."""

    shape: tuple[str, ...] = setting("where the budget may go: anywhere (l2), or along the signal", choices=SHAPES)
    signal_epsilon: tuple[float, ...] = setting("radii along the signal on the linear data", low=0)
    width: int = setting("hidden neurons", low=1)

    def epsilon_of(self, task: str, defence: str) -> tuple[float, ...]:
        """The radii a defence is run at on a task, in either shape."""
        ball = super().epsilon_of(task, defence)
        further = self.signal_epsilon if task == "linear" else ()
        return (*ball, *(radius for radius in further if radius not in ball))


DEFAULT: dict[str, Any] = {
    **THESIS,
    **protocol.QUICKLY,
    "shape": SHAPES,
    "spheres_epsilon": (0.5, 0.75, 1.0),
    "linear_epsilon": (4.0, 4.5, 5.0),
    "signal_epsilon": (4.5, 5.0, 5.5),
    "width": 100,
    "test": 2000,
}
"""The problems and their recipe as in the thesis, appendix C.2."""
SMOKE: dict[str, Any] = {
    **two_tasks.SMOKE,
    "spheres_epsilon": (0.5, 1.0),
    "linear_epsilon": (4.0,),
    "signal_epsilon": (5.0,),
    "width": 10,
}


def grid(settings: TwoShapesSettings, **trailing) -> sweep.Grid:
    """The axes and which of their cells belong together; `trailing` as in `two_tasks.grid`."""
    radii = {
        ("spheres", "ball"): settings.spheres_epsilon,
        ("linear", "ball"): settings.linear_epsilon,
        ("linear", "signal"): settings.signal_epsilon,
    }
    return two_tasks.grid(
        settings,
        "shape",
        wanted=lambda cell: cell["epsilon"] in radii.get((cell["task"], cell["shape"]), ()),
        **trailing,
    )


def staged(
    settings: TwoShapesSettings, run: Callable[[sweep.Coords, PRNGKeyArray, span.Problem, Threat], dict]
) -> sweep.Staged:
    """The cell that draws a problem and runs `run(coords, key, problem, threat)`.

    All shapes, radii and defences of a trial have its data, its initial network and its test examples.
    """

    def with_threat(coords: sweep.Coords, key: PRNGKeyArray, problem: span.Problem) -> dict:
        threat = {"ball": L2, "signal": SignalDirected}[coords["shape"]](coords["epsilon"])
        return run(coords, key, problem, threat)

    return two_tasks.staged(settings, lambda coords: (settings.width,), with_threat)


def places(result: xr.Dataset) -> Iterable[tuple[str, str, xr.Dataset]]:
    """(task, shape, its part of the result) of everything that was run, at its own radii and the first n and dim."""
    for task in result["task"].values:
        for shape in result["shape"].values:
            here = result.sel(task=task, shape=shape)
            run = (here["status"] != "not_run").any([name for name in here["status"].dims if name != "epsilon"])
            if bool(run.any()):
                yield str(task), str(shape), trials.first_run(here.isel(epsilon=run.values), "n", "dim")


def notes(settings: TwoShapesSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of a store."""
    known = protocol.notes(settings, L2(1.0))
    return {
        **known,
        "attack": f"along the signal exact; in the ball {known['attack']}",
        "effective_budget": "bisection to 1/512 of epsilon, of the radius at which the mean worst loss over the "
        f"training set (along the signal exact, in the ball by the training attack) reaches the certified one; inf "
        f"where {MOST:g} epsilon does not reach it",
    }
