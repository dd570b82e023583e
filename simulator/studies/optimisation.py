"""The gap between COAP and adversarial training over recipes: what is the objective's, what is where training stopped.

Four published settings, and every recipe that changes one thing about the papers' base recipe: each at all learning
rates, looked at after several numbers of epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import xarray as xr

from simulator import metrics, networks, span, sweep, train, trials
from simulator.catalogue import CATALOGUE
from simulator.data import ConcentricSpheres, LinearlySeparable, Task
from simulator.defences import loss_of, without_warmup
from simulator.plots import figures
from simulator.studies import protocol
from simulator.studies.protocol import PAIR, Evaluation
from simulator.studies.settings import SettingsError, setting
from simulator.studies.study import Study, Verdict
from simulator.threats import L2, Segments, SignalDirected, Threat

FACTORS = ("momentum", "batch", "width", "init_scale")
"""What a recipe changes at most one of; the first value of each is the base."""
STOP = 150
"""The papers' number of epochs."""


@dataclass(frozen=True)
class Published:
    """A published setting."""

    task: Callable[[], Task]
    n: int
    epsilon: float
    threat: Callable[[jax.Array, span.Problem], Threat]
    """(radius, problem) -> the set."""
    segments: int = 0
    """Random orthonormal segments of the threat."""
    widest: int = 1000
    """The widest network that is trained: the exact search along segments costs the square of the width."""


PROBLEMS = {
    "spheres": Published(lambda: ConcentricSpheres(100, 1.0, 12.0), 50, 1.0, lambda radius, problem: L2(radius)),
    "linear": Published(
        lambda: LinearlySeparable(1000, 6.0, 1.0), 50, 4.5, lambda radius, problem: SignalDirected(radius)
    ),
    "linear-ball": Published(lambda: LinearlySeparable(1000, 6.0, 1.0), 50, 4.5, lambda radius, problem: L2(radius)),
    "segments": Published(
        lambda: ConcentricSpheres(10, 10.0, 30.0),
        500,
        5.0,
        lambda radius, problem: Segments(radius, problem.directions),
        segments=10,
        widest=100,
    ),
}
"""Thesis Fig 3.7b (l2 ball), Fig 4.1 (along the signal), Fig 3.7a (l2 ball), and paper 2, Fig 2a (inner radius not
stated)."""


@dataclass(frozen=True, kw_only=True)
class OptimisationSettings(Evaluation):
    """Axes problem, defence, width, batch, epsilon, learning_rate, momentum, init_scale, trial; epoch besides."""

    problem: tuple[str, ...] = setting("published setting: task, n, radius, shape of threat", choices=tuple(PROBLEMS))
    defence: tuple[str, ...] = setting("ways to train", choices=without_warmup)
    learning_rate: tuple[float, ...] = setting("of SGD", above=0)
    momentum: tuple[float, ...] = setting("of SGD; the first value is the base", low=0, high=0.999)
    batch: tuple[int, ...] = setting("examples per step, 0 for all; the first value is the base", low=0)
    width: tuple[int, ...] = setting("hidden neurons; the first value is the base", low=1)
    init_scale: tuple[float, ...] = setting("factor of the initial weights; the first value is the base", above=0)
    epoch: tuple[int, ...] = setting("epochs after which the network is measured", low=1)

    def check(self) -> None:
        super().check()
        least = min(PROBLEMS[name].n for name in self.problem)
        if max(self.batch) > least:
            raise SettingsError(f"batch has {max(self.batch)}, but the smallest n is {least}: give batch <= n, or 0")


_DEFAULT: dict[str, Any] = {
    "problem": tuple(PROBLEMS),
    "defence": ("standard", "adversarial", "coap"),
    "learning_rate": (0.1, 0.01, 0.001),
    "momentum": (0.95, 0.0),
    "batch": (0, 10),
    "width": (100, 10, 1000),
    "init_scale": (1.0, 0.1, 3.0),
    "epoch": (15, 50, 150, 500, 1500),
    "trials": 3,
    "test": 1000,
    **protocol.QUICKLY,
}
_PAPER: dict[str, Any] = {
    **_DEFAULT,
    "learning_rate": (0.1, 0.03, 0.01, 0.003, 0.001),
    "trials": 15,
    "test": 10_000,
    **protocol.THOROUGHLY,
}
_SMOKE: dict[str, Any] = {
    **_DEFAULT,
    "problem": ("spheres",),
    "learning_rate": (0.01,),
    "batch": (0,),
    "width": (10,),
    "init_scale": (1.0,),
    "epoch": (5, 10),
    "trials": 2,
    **protocol.BRIEFLY,
}


def grid(settings: OptimisationSettings) -> sweep.Grid:
    """The axes of the study: of the factors at most one is off its base."""
    static = ("problem", "defence", "width", "batch")
    radii = sorted({PROBLEMS[name].epsilon for name in settings.problem})
    leaves = {name: getattr(settings, name) for name in ("learning_rate", "momentum", "init_scale")}

    def wanted(coords: sweep.Coords) -> bool:
        changed = sum(coords[name] != getattr(settings, name)[0] for name in FACTORS)
        chosen = PROBLEMS[coords["problem"]]
        return changed <= 1 and coords["epsilon"] == chosen.epsilon and coords["width"] <= chosen.widest

    return sweep.Grid(
        {**{name: getattr(settings, name) for name in static}, "epsilon": radii, **leaves},
        settings.trials,
        static,
        wanted=wanted,
        shared_dims=("epoch",),
        coords={"epoch": settings.epoch},
    )


def cell(settings: OptimisationSettings) -> sweep.Cell:
    """Train one network, in the span of what a trial draws, and measure it after every number of epochs."""

    def prepare(coords, key):
        data_key, init_key, set_key, *_ = jr.split(key, 5)
        chosen = PROBLEMS[coords["problem"]]
        task = chosen.task()
        network = networks.mlp(init_key, task.dim, (coords["width"],))
        own = Segments.random(set_key, task.dim, chosen.segments, 1.0).directions if chosen.segments else None
        return span.fewest(span.problem(task, network, *task.sample(data_key, chosen.n), own))

    def run(coords, key, problem):
        *_, batch_key, test_key = jr.split(key, 5)
        threat = PROBLEMS[coords["problem"]].threat(coords["epsilon"], problem)
        start = jax.tree.map(lambda leaf: coords["init_scale"] * leaf, problem.network)
        scaled = span.Problem(problem.task, start, problem.x, problem.y, problem.directions)
        recipe = train.Recipe(
            coords["learning_rate"], coords["momentum"], epochs=max(settings.epoch), batch=coords["batch"]
        )
        loss = loss_of(coords["defence"], protocol.training_attack)
        (then, losses), diverged = protocol.snapshots(scaled, batch_key, threat, loss, recipe, settings.epoch)
        measured = jax.lax.map(lambda net: protocol.evaluated(settings, test_key, net, problem, threat), then)
        # A recipe that diverges is a finding of this study, not a failure of its cell: it errs everywhere from then on.
        return {**measured, "train_loss": losses, "unfinished": jnp.broadcast_to(diverged, losses.shape)}

    return sweep.Staged(prepare, run)


def at_best_rate(result: xr.Dataset) -> xr.Dataset:
    """The result without the axis learning_rate: in every cell and at every epoch, the rate with the smallest robust
    error on the test sample, ties by standard error, then by order."""
    best = trials.least(result, "learning_rate", "robust_error", "standard_error")
    return result.isel(learning_rate=best).drop_vars("learning_rate")


def recipes(result: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Name -> coordinates of every recipe that was run: the base, and each change of one factor."""
    base = {name: result[name].values[0] for name in FACTORS}
    changed = {f"{name} {value:g}": {**base, name: value} for name in FACTORS for value in result[name].values[1:]}
    return {"base": base, **changed}


def verdict(result: xr.Dataset) -> Verdict:
    """The gap where the papers stopped and at the end, for the base recipe and for every change of it."""
    missing = protocol.lacks(result)
    if missing is not None:
        return missing
    if "spheres" not in result["problem"].values or result["epoch"].size < 2:
        return Verdict(False, "needs the problem spheres and two numbers of epochs to test the claim")
    best = at_best_rate(result)
    stop, end = _stop(result), int(result["epoch"].values[-1])
    held, parts = [], []
    for case in result["problem"].values:
        here = best.sel(problem=case, epsilon=PROBLEMS[case].epsilon)
        gaps = {name: _gap(here.sel(at), stop, end) for name, at in recipes(result).items()}
        early, late, sem = gaps["base"]
        least, most = (choose(gaps, key=lambda name: gaps[name][1]) for choose in (min, max))
        parts.append(
            f"{case} {early:+.3f} after {stop} epochs and {late:+.3f} (paired s.e. {sem:.3f}) after {end}, there "
            f"between {gaps[least][1]:+.3f} ({least}) and {gaps[most][1]:+.3f} ({most}) over the recipes"
            + "".join(_masked(name, here.sel(at).sel(epoch=end)) for name, at in recipes(result).items())
        )
        if case == "spheres":
            held = [late > 2 * sem and late >= early / 2 for early, late, sem in gaps.values()]
    sentence = (
        f"COAP minus adversarial robust error, each at its best learning rate, is on the problem {'; '.join(parts)}"
    )
    return Verdict(all(held), f"{sentence}; {result['trial'].size} trials")


MASKED = 0.1
"""A share of examples without a gradient beyond which the error under an attack is no measure of robustness."""


def _masked(name: str, end: xr.Dataset) -> str:
    """A warning if attacks had no gradient at many examples of a network that is no constant classifier."""
    net = end.sel(defence="adversarial")
    share = net["alignment_attack_undefined"].where((net["status"] == "ok") & (net["standard_error"] < MASKED)).max()
    if not float(share) > MASKED:
        return ""
    return (
        f" (adversarial training with {name}: no gradient at {float(share):.0%} of the examples of a trial, so that "
        f"its robust error is a lower bound far from its certified error, {float(net['certified_error'].mean()):.2f})"
    )


def _stop(result: xr.Dataset) -> int:
    """The recorded epoch nearest to where the papers stopped."""
    return int(min(result["epoch"].values, key=lambda epoch: abs(epoch - STOP)))


def _gap(best: xr.Dataset, stop: int, end: int) -> tuple[float, float, float]:
    """The gap at both epochs, and the paired standard error of the second."""
    gap, sem = trials.paired_difference(best, "robust_error", **PAIR)
    return float(gap.sel(epoch=stop)), float(gap.sel(epoch=end)), float(sem.sel(epoch=end))


def notes(settings: OptimisationSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of a store."""
    steps, starts = settings.attack_steps, settings.attack_starts
    return {
        "attack": f"final: exact along the signal and segments, else apgd-margin, {steps} steps, {starts} starts; "
        f"training: exact there, else apgd-margin, {protocol.TRAINING_STEPS} steps from the example",
        "certified_by": f"best of {', '.join(metrics.CERTIFIERS)} per example",
        "selection": "none in the store: every learning rate; in figure and verdict the rate with the smallest robust "
        "error (ties: standard error) on the test sample, per cell and epoch",
        "interval": "standard error over trials; differences between defences are paired by trial",
    }


STUDY = Study(
    name="optimisation",
    claim=CATALOGUE["optimisation"].claim,
    shows=CATALOGUE["optimisation"].shows,
    scales={
        "smoke": OptimisationSettings(**_SMOKE),
        "default": OptimisationSettings(**_DEFAULT),
        "paper": OptimisationSettings(**_PAPER),
    },
    grid=grid,
    cell=cell,
    figure=lambda result, published: figures.optimisation(result, at_best_rate(result), _stop(result)),
    verdict=verdict,
    notes=notes,
    core=CATALOGUE["optimisation"].core,
    # 2: attacks on networks that blew up no longer stand still.
    numbers=2,
)
