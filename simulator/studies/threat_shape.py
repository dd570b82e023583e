"""The same budget spent along the signal, across it, in a ball, or on random segments: which shape hurts whom."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.random as jr
import xarray as xr

from simulator import span, sweep, trials
from simulator.catalogue import CATALOGUE
from simulator.defences import DEFENCES
from simulator.plots import figures
from simulator.studies import protocol, two_tasks
from simulator.studies.protocol import PAIR
from simulator.studies.settings import SettingsError, setting
from simulator.studies.study import Study, Verdict
from simulator.studies.two_tasks import THESIS, TwoTasksSettings
from simulator.threats import L2, Orthogonal, Segments, SignalDirected, Threat

SHAPES = ("signal", "orthogonal", "ball", "segments")


@dataclass(frozen=True, kw_only=True)
class ThreatShapeSettings(TwoTasksSettings):
    """Axes task, shape, defence, n, dim, epsilon, trial."""

    shape: tuple[str, ...] = setting(
        "where the budget may go: along the signal, orthogonally to it, anywhere (l2), or along k segments",
        choices=SHAPES,
    )
    width: int = setting("hidden neurons", low=1)
    k: int = setting("random orthonormal segments of the shape 'segments'", low=1)

    def check(self) -> None:
        super().check()
        least = min(dim for task in self.task for dim in self.dim_of(task))
        if self.k > least:
            raise SettingsError(f"k is {self.k}, but there are only dim = {least} orthonormal segments")


_DEFAULT: dict[str, Any] = {
    **THESIS,
    **protocol.QUICKLY,
    "shape": SHAPES,
    "defence": ("standard", "adversarial", "coap"),
    "spheres_epsilon": (0.3, 1.0, 2.0, 4.0),
    "linear_epsilon": (2.0, 3.0, 4.0, 5.0),
    "every": 15,
    "k": 10,
    "width": 100,
    "trials": 4,
    "test": 1000,
}
_PAPER: dict[str, Any] = {**_DEFAULT, **protocol.THOROUGHLY, "defence": DEFENCES, "trials": 15, "test": 10_000}
_SMOKE: dict[str, Any] = {
    **_DEFAULT,
    **two_tasks.SMOKE,
    "shape": ("signal", "orthogonal"),
    "spheres_epsilon": (2.0,),
    "linear_epsilon": (4.0,),
    "epochs": 15,
    "width": 10,
}


def cell(settings: ThreatShapeSettings) -> sweep.Cell:
    """Train one network, in the span of what a trial draws, and measure it."""

    def prepare(coords, key):
        data_key, init_key, set_key, _ = jr.split(key, 4)
        directions = Segments.random(set_key, coords["dim"], settings.k, 1.0).directions
        own = directions if coords["shape"] == "segments" else None
        return two_tasks.draw(settings, coords, data_key, init_key, (settings.width,), own)

    def run(coords, key, problem):
        *_, fit_key = jr.split(key, 4)
        threat = shaped(coords["shape"], coords["epsilon"], problem)
        return protocol.outcome(settings, protocol.training_loss(coords["defence"]), fit_key, problem, threat)

    return sweep.Staged(prepare, run)


def shaped(shape: str, radius: jax.Array | float, problem: span.Problem) -> Threat:
    """The set of a shape; those tied to the signal take each example's own (`Threat.at`)."""
    if shape == "segments":
        return Segments(radius, problem.directions)
    return {"ball": L2, "signal": SignalDirected, "orthogonal": Orthogonal}[shape](radius)


def verdict(result: xr.Dataset) -> Verdict:
    """Whether the gap with the budget along the signal is above the gap with it across, on both tasks."""
    missing = protocol.lacks(result)
    if missing is not None or not {"signal", "orthogonal"} <= set(result["shape"].values):
        return missing or Verdict(False, "needs the shapes signal and orthogonal; run both to test the claim")
    held, parts = [], []
    for task in result["task"].values:
        chosen = trials.first_run(result.sel(task=task), "n", "dim")
        gaps = trials.paired_difference(chosen, "robust_error", **PAIR)
        gap, sem = (values.dropna("epsilon", how="all") for values in gaps)
        if not gap["epsilon"].size:
            return Verdict(False, f"needs a radius that both defences were run at on the task {task} to test the claim")
        more, more_sem = trials.paired_difference(chosen, "robust_error", **PAIR, shape=("signal", "orthogonal"))
        more, more_sem = more.dropna("epsilon"), more_sem.dropna("epsilon")
        held.append(bool((more > 2 * more_sem).any()) and not bool((more < -2 * more_sem).any()))
        largest = [_largest(gap.sel(shape=shape), sem.sel(shape=shape)) for shape in result["shape"].values]
        named = [f"{shape} {words}" for shape, words in zip(result["shape"].values, largest, strict=True)]
        parts.append(f"on the task {task}: {', '.join(named)}")
    sentence = f"the largest COAP minus adversarial robust error is {'; '.join(parts)}; {result['trial'].size} trials"
    return Verdict(all(held), sentence)


def _largest(gap: xr.DataArray, sem: xr.DataArray) -> str:
    at = int(gap.argmax("epsilon"))
    return f"{float(gap[at]):+.3f} (s.e. {float(sem[at]):.3f})"


STUDY = Study(
    name="threat-shape",
    claim=CATALOGUE["threat-shape"].claim,
    shows=CATALOGUE["threat-shape"].shows,
    scales={
        "smoke": ThreatShapeSettings(**_SMOKE),
        "default": ThreatShapeSettings(**_DEFAULT),
        "paper": ThreatShapeSettings(**_PAPER),
    },
    grid=lambda settings: two_tasks.grid(settings, "shape"),
    cell=cell,
    figure=partial(
        figures.errors,
        along="epsilon",
        rows=("task", "shape"),
        title="One budget, spent in different ways",
    ),
    verdict=verdict,
    notes=lambda settings: {
        **protocol.notes(settings, L2(1.0)),
        "attack": f"exact along the signal and segments; elsewhere {protocol.notes(settings, L2(1.0))['attack']}",
    },
    core=CATALOGUE["threat-shape"].core,
)
