"""Mixtures of an attack and a bound, over their coefficient: whether the conclusion of 2022 survives them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.random as jr
import xarray as xr

from simulator import span, sweep, trials
from simulator.catalogue import CATALOGUE
from simulator.defences import MIXTURES
from simulator.plots import figures
from simulator.studies import protocol, two_tasks
from simulator.studies.protocol import PAIR
from simulator.studies.settings import setting
from simulator.studies.study import Study, Verdict
from simulator.studies.two_tasks import THESIS, TwoTasksSettings
from simulator.threats import L2, LInf, SignalDirected, Threat

SHAPES = ("ball", "box", "signal")
ENDS = ("adversarial", "coap", "ibp")
"""What mixtures are compared with; they have no coefficient."""


@dataclass(frozen=True, kw_only=True)
class ModernDefencesSettings(TwoTasksSettings):
    """Axes task, shape, defence, n, dim, epsilon, coefficient, trial.

    Defences without a coefficient stand at the first one.
    """

    defence: tuple[str, ...] = setting("ways to train", choices=(*ENDS, *MIXTURES))
    shape: tuple[str, ...] = setting(
        "the l2 ball of radius epsilon, the largest l_inf box inside of it, or perturbations along the signal",
        choices=SHAPES,
    )
    coefficient: tuple[float, ...] = setting("weight of the bound in a mixture", low=0, high=1)
    width: int = setting("hidden neurons", low=1)


_DEFAULT: dict[str, Any] = {
    **THESIS,
    **protocol.QUICKLY,
    "defence": (*ENDS, *MIXTURES),
    "shape": SHAPES,
    "coefficient": (0.01, 0.1, 0.3, 0.6, 1.0),
    "spheres_epsilon": (1.0,),
    "linear_epsilon": (4.5,),
    "linear_dim": (300,),
    "learning_rates": (0.01, 0.001),
    "every": 150,
    "width": 100,
    "trials": 5,
    "test": 500,
}
_PAPER: dict[str, Any] = {
    **_DEFAULT,
    **protocol.THOROUGHLY,
    "coefficient": (0.01, 0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0),
    "spheres_epsilon": (0.3, 1.0, 2.0),
    "linear_epsilon": (3.5, 4.5, 5.5),
    "linear_dim": (1000,),
    "learning_rates": (0.1, 0.01, 0.001),
    "trials": 15,
    "test": 10_000,
}
_SMOKE: dict[str, Any] = {
    **_DEFAULT,
    **two_tasks.SMOKE,
    "task": ("spheres",),
    "defence": ("adversarial", "coap", "mtl-ibp"),
    "shape": ("ball", "box"),
    "coefficient": (0.1, 0.6),
    "epochs": 15,
    "every": 15,
    "width": 10,
}


def grid(settings: ModernDefencesSettings) -> sweep.Grid:
    """The axes of the study; a defence without a coefficient is run once.

    Perturbations along the signal are run on the linear data alone: on the spheres they leave no gap (`threat-shape`).
    """
    plain = two_tasks.grid(settings, "shape")
    axes = {**plain.axes, "coefficient": settings.coefficient}

    def wanted(cell: sweep.Coords) -> bool:
        mixes = cell["defence"] in MIXTURES or cell["coefficient"] == settings.coefficient[0]
        placed = cell["shape"] != "signal" or cell["task"] == "linear"
        return mixes and placed and (plain.wanted is None or plain.wanted(cell))

    return sweep.Grid(axes, settings.trials, static=plain.static, wanted=wanted)


def threat_of(shape: str, radius: jax.Array | float, dim: int) -> Threat:
    """The set of a shape; the box is the largest one inside of the ball of that radius."""
    return {"ball": L2, "box": lambda r: LInf(r / dim**0.5), "signal": SignalDirected}[shape](radius)


def cell(settings: ModernDefencesSettings) -> sweep.Cell:
    """Train one network, in the span of what a trial draws where the threat allows it, and measure it."""

    def prepare(coords, key):
        data_key, init_key, _ = jr.split(key, 3)
        widths = (settings.width,)
        if coords["shape"] != "box":
            return two_tasks.draw(settings, coords, data_key, init_key, widths)
        # A box depends on the coordinates, which the span has not.
        return two_tasks.drawn(settings, coords, data_key, init_key, widths)

    def run(coords, key, problem: span.Problem):
        if coords["defence"] in MIXTURES:
            loss = MIXTURES[coords["defence"]](protocol.training_attack, coords["coefficient"])
        else:
            loss = protocol.training_loss(coords["defence"])
        threat = threat_of(coords["shape"], coords["epsilon"], coords["dim"])
        return protocol.outcome(settings, loss, jr.split(key, 3)[2], problem, threat)

    return sweep.Staged(prepare, run)


def most_certified(place: xr.Dataset, defence: str) -> xr.Dataset:
    """A mixture at the coefficient below 1 at which it certifies most, by the mean over trials of that sample."""
    here = place.sel(defence=defence, coefficient=place["coefficient"] < 1)
    mean, _, count = trials.over_trials(here, "certified_error")
    return here.isel(coefficient=int(mean.where(count > 0, 2.0).argmin("coefficient")))


def verdict(result: xr.Dataset) -> Verdict:
    """Whether, where COAP has a larger robust error than adversarial training, every mixture that was run has too, at
    the coefficient below 1 at which it certifies most: each by more than 2 paired standard errors."""
    missing = protocol.lacks(result)
    mixtures = [name for name in result["defence"].values if name in MIXTURES]
    if missing is not None or not mixtures or not bool((result["coefficient"] < 1).any()):
        needed = f"needs one of {', '.join(MIXTURES)} at a coefficient below 1; run it to test the claim"
        return missing or Verdict(False, needed)
    held, parts = [], []
    for where in trials.places(result, "task", "shape", "epsilon"):
        place = trials.first_run(result.sel(where), "n", "dim")
        first = place.isel(coefficient=0, drop=True)
        gap, sem = (float(one) for one in trials.paired_difference(first, "robust_error", **PAIR))
        if not gap > 2 * sem:
            continue
        words = []
        for name in mixtures:
            best = most_certified(place, name)
            both = xr.concat([best.drop_vars("coefficient"), first.sel(defence="adversarial")], "defence")
            more, more_sem = (
                float(one) for one in trials.paired_difference(both, "robust_error", defence=(name, "adversarial"))
            )
            held.append(more > 2 * more_sem)
            words.append(f"{name} {more:+.3f} (s.e. {more_sem:.3f}) at {float(best['coefficient']):g}")
        at = f"{where['task']}, {where['shape']}, epsilon = {where['epsilon']:g}"
        parts.append(f"{at}: COAP {gap:+.3f} (s.e. {sem:.3f}), {', '.join(words)}")
    if not held:
        return Verdict(
            False, "COAP's robust error is nowhere above adversarial training's, so there is nothing to survive"
        )
    sentence = f"robust error minus adversarial training's, {'; '.join(parts)}"
    return Verdict(all(held), f"{sentence}; {result['trial'].size} trials")


STUDY = Study(
    name="modern-defences",
    claim=CATALOGUE["modern-defences"].claim,
    shows=CATALOGUE["modern-defences"].shows,
    scales={
        "smoke": ModernDefencesSettings(**_SMOKE),
        "default": ModernDefencesSettings(**_DEFAULT),
        "paper": ModernDefencesSettings(**_PAPER),
    },
    grid=grid,
    cell=cell,
    figure=figures.fronts,
    verdict=verdict,
    notes=lambda settings: {
        **protocol.notes(settings, L2(1.0)),
        "attack": f"exact along the signal; elsewhere {protocol.notes(settings, L2(1.0))['attack']}",
        "trained_in": "the span of each trial's data and initial weights; under boxes the coordinates of the data",
        "coefficient": "of the verdict: that below 1 with the smallest certified error on the test sample, by mixture",
    },
    core=CATALOGUE["modern-defences"].core,
)
