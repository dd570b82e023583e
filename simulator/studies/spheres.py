"""Paper 2306.06995, synthetic part: concentric spheres in 10 dimensions, one axis at a time.

Four studies of one form: `segments` (figure 2a), `budget` (3a), `margin` (4a) and `linf` (6); `unstable` has their
neurons.  The radii of the spheres are not published, only their difference: `inner` is an axis, and every claim has to
hold for all of its values.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import xarray as xr
from jaxtyping import PRNGKeyArray

from simulator import metrics, networks, span, sweep, trials
from simulator.catalogue import CATALOGUE
from simulator.data import ConcentricSpheres
from simulator.plots import figures
from simulator.studies import protocol
from simulator.studies.protocol import PAIR, Protocol
from simulator.studies.settings import SettingsError, setting
from simulator.studies.study import SCALES, Published, Study
from simulator.threats import L2, LInf, Segments, Threat

PAPER = "De Bartolomeis et al., arXiv 2306.06995"
PAPER_TRIALS = 5
"""Runs behind every mean the paper shows."""
INNER = (1.0, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class SpheresSettings(Protocol):
    """Concentric spheres whose radii differ by `margin`; the last two fields matter to `segments` alone."""

    epsilon: tuple[float, ...] = setting("radius of the threat, in training and evaluation", low=0)
    margin: tuple[float, ...] = setting("gamma: the difference of the radii", above=0)
    inner: tuple[float, ...] = setting("radius of the inner sphere (y = +1), which the paper does not state", above=0)
    dim: tuple[int, ...] = setting("dimension of the data", low=2)
    width: int = setting("hidden neurons", low=1)
    k: tuple[int, ...] = setting("orthonormal segments of the threat; 0 for a ball", low=0)

    def check(self) -> None:
        super().check()
        if max(self.k) > min(self.dim):
            raise SettingsError(f"k has {max(self.k)}, but there are only dim = {min(self.dim)} orthonormal segments")


@dataclass(frozen=True)
class Scene:
    """What distinguishes the four studies."""

    name: str
    axis: str
    """Along which the errors are drawn and the claim is made."""
    threat: Callable[[Any, sweep.Coords, jax.Array], Threat]
    """(settings, coordinates, key) -> the set."""
    values: dict[str, Any]
    """Settings of the paper."""
    smoke: dict[str, Any]
    title: str
    published: tuple[Published, ...] = field(default=())
    wanted: Callable[[Any, sweep.Coords], bool] = lambda settings, coords: True
    """(settings, coordinates) -> whether to run a cell: the main line, and what is compared with it."""


PROTOCOL: dict[str, Any] = {
    "defence": ("standard", "adversarial", "coap", "crown-ibp", "ibp"),
    "learning_rates": (0.1, 0.01, 0.001),
    "selection": "validation",
    "momentum": 0.95,
    "epochs": 150,
    "batch": 0,
    "every": 5,
    "n": (500,),
    "width": 100,
    "test": 10_000,
    **protocol.THOROUGHLY,
    "margin": (20.0,),
    "inner": INNER,
    "dim": (10,),
    "k": (0,),
    "trials": PAPER_TRIALS,
}
DEFAULT: dict[str, Any] = {"test": 2000, **protocol.QUICKLY}
SMOKE: dict[str, Any] = {
    "defence": ("adversarial", "coap"),
    "learning_rates": (0.1,),
    "epochs": 20,
    "n": (50,),
    "width": 20,
    **protocol.BRIEFLY,
    "inner": (1.0,),
    "trials": 2,
}
STATIC = ("defence", "n", "dim")
LEAVES = ("inner", "margin", "k", "epsilon")


def grid(scene: Scene, settings: SpheresSettings) -> sweep.Grid:
    """The axes of the study."""
    axes = {name: getattr(settings, name) for name in (*STATIC, *LEAVES)}
    return sweep.Grid(axes, settings.trials, STATIC, wanted=partial(scene.wanted, settings))


def cell(scene: Scene, settings: SpheresSettings) -> sweep.Cell:
    """Train one network and measure it."""

    def run(coords, key):
        problem, set_key, fit_key = draw(settings.width, coords, key)
        threat = scene.threat(settings, coords, set_key)
        signal = jax.vmap(problem.task.signal)(problem.x, problem.y)
        return {
            **protocol.outcome(settings, protocol.training_loss(coords["defence"]), fit_key, problem, threat),
            "set_alignment": jnp.mean(jax.vmap(lambda s: _reach(threat, s))(signal)),
        }

    return run


def draw(width: int, coords: sweep.Coords, key: PRNGKeyArray) -> tuple[span.Problem, PRNGKeyArray, PRNGKeyArray]:
    """What a trial draws: data and network; and the keys of the set and of what comes after."""
    data_key, init_key, set_key, fit_key = jr.split(key, 4)
    task = ConcentricSpheres(coords["dim"], coords["inner"], coords["inner"] + coords["margin"])
    network = networks.mlp(init_key, task.dim, (width,))
    return span.problem(task, network, *task.sample(data_key, coords["n"])), set_key, fit_key


def _reach(threat: Threat, signal: jax.Array) -> jax.Array:
    """sup over the set of <s, delta> / (|s| |delta|), the paper's alignment of a threat: 1 for a ball of any norm."""
    return metrics.cosine(signal, threat.worst(signal))[0] if isinstance(threat, Segments) else jnp.ones(())


def segments(key: PRNGKeyArray, coords: sweep.Coords, most: int) -> Segments:
    """The first k of the `most` random orthonormal segments of a trial; the others are shrunk to the point 0."""
    directions = Segments.random(key, coords["dim"], most, coords["epsilon"]).directions
    return Segments(coords["epsilon"], jnp.where((jnp.arange(most) < coords["k"])[:, None], directions, 0))


Rows = dict[tuple[str, str], tuple[float, ...]]
"""(variable, defence) -> published values, one for each position."""


def published(figure: str, along: str, positions: tuple[float, ...], rows: Rows, **at) -> tuple[Published, ...]:
    """The curves of a published figure, each to be compared with every one of our inner radii."""
    source = f"{PAPER}, Fig {figure} (digitised, about 0.002; its inner radius is not stated)"
    return tuple(
        Published(
            variable,
            {"defence": defence, "n": 500, "dim": 10, "inner": inner, **at},
            along,
            dict(zip(positions, values, strict=True)),
            source,
            PAPER_TRIALS,
        )
        for (variable, defence), values in rows.items()
        for inner in INNER
    )


_K = tuple(range(1, 11))
LINF = tuple(round(value / 10**0.5, 6) for value in (1.0, 2.0, 2.5, 3.0))

_FIG_2A: Rows = {
    ("standard_error", "coap"): (0, 0.001, 0.001, 0.005, 0.009, 0.017, 0.026, 0.065, 0.104, 0.223),
    ("standard_error", "adversarial"): (0.016, 0.002, 0.003, 0.004, 0.004, 0.004, 0.002, 0.001, 0.001, 0),
    ("robust_error", "coap"): (0, 0.001, 0.002, 0.007, 0.014, 0.028, 0.055, 0.129, 0.243, 0.460),
    ("robust_error", "adversarial"): (0.003, 0.004, 0.008, 0.007, 0.008, 0.012, 0.016, 0.015, 0.016, 0.011),
}
_FIG_6A: Rows = {
    ("standard_error", "coap"): (0, 0, 0.011, 0.053),
    ("standard_error", "adversarial"): (0, 0, 0, 0),
    ("robust_error", "coap"): (0, 0.001, 0.086, 0.239),
    ("robust_error", "adversarial"): (0, 0, 0, 0),
}
_FIG_6B: Rows = {
    ("standard_error", "coap"): (0, 0, 0.016),
    ("robust_error", "coap"): (0, 0.017, 0.082),
    ("robust_error", "adversarial"): (0, 0, 0),
}
MARGINS = (30.0, 24.0, 20.0)


SCENES = (
    Scene(
        name="segments",
        axis="k",
        threat=lambda settings, coords, key: segments(key, coords, max(settings.k)),
        values={"epsilon": (14.0, 11.0, 8.0, 5.0), "k": _K},
        smoke={"epsilon": (8.0, 5.0), "k": (1, 10)},
        # The last radius is the published one; what larger ones change is asked at the largest k alone.
        wanted=lambda settings, coords: (
            coords["epsilon"] == settings.epsilon[-1]
            or (coords["k"] == max(settings.k) and coords["defence"] in PAIR["defence"])
        ),
        title="k random orthonormal segments of length ε = 5 on both sides",
        published=published("2a", "k", _K, _FIG_2A, margin=20.0, epsilon=5.0),
    ),
    Scene(
        name="budget",
        axis="epsilon",
        threat=lambda settings, coords, key: L2(coords["epsilon"]),
        values={"epsilon": (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0)},
        smoke={"epsilon": (1.0, 4.0)},
        title="l2 ball",
    ),
    Scene(
        name="margin",
        axis="margin",
        threat=lambda settings, coords, key: L2(coords["epsilon"]),
        values={"epsilon": (4.0,), "margin": MARGINS},
        smoke={"epsilon": (4.0,), "margin": (30.0, 20.0)},
        title="l2 ball of radius 4, from a large margin to a small one",
    ),
    Scene(
        name="linf",
        axis="epsilon",
        threat=lambda settings, coords, key: LInf(coords["epsilon"]),
        values={"epsilon": (*LINF, 1.8, 2.5, 2.9), "margin": MARGINS},
        wanted=lambda settings, coords: coords["margin"] == settings.margin[-1] or coords["epsilon"] == LINF[2],
        smoke={"epsilon": (LINF[0], LINF[-1]), "margin": (20.0,)},
        title="l∞ ball, margin 20",
        published=(
            *published("6a", "epsilon", LINF, _FIG_6A, margin=20.0, k=0),
            *published("6b", "margin", MARGINS, _FIG_6B, epsilon=LINF[2], k=0),
        ),
    ),
)


def _study(scene: Scene) -> Study:
    scales = ({**PROTOCOL, **DEFAULT, **SMOKE}, {**PROTOCOL, **DEFAULT}, PROTOCOL)
    settings = [SpheresSettings(**{**scale, **scene.values}) for scale in scales]
    smoke = SpheresSettings(**{**scales[0], **scene.values, **scene.smoke})
    return Study(
        name=scene.name,
        claim=CATALOGUE[scene.name].claim,
        shows=CATALOGUE[scene.name].shows,
        scales=dict(zip(SCALES, (smoke, *settings[1:]), strict=True)),
        grid=partial(grid, scene),
        cell=partial(cell, scene),
        figure=partial(figures.errors, along=scene.axis, rows=("inner",), title=f"Spheres, {scene.title}"),
        verdict=lambda result: protocol.gap_grows(_main(scene, result), scene.axis, "inner"),
        notes=lambda chosen: protocol.notes(chosen, _kind(scene, chosen)),
        published=scene.published,
        remarks=_remarks,
        core=CATALOGUE[scene.name].core,
        numbers=2,
    )


def _remarks(result: xr.Dataset) -> list[str]:
    """What becomes of the two defences of the papers as the radius grows beyond the published ones."""
    if not set(PAIR["defence"]) <= set(result["defence"].values) or result["epsilon"].size < 2:
        return []
    chosen = trials.first_run(result, "n", "dim").isel(k=-1, margin=-1)
    mean, sem, _ = trials.over_trials(chosen, "robust_error")
    rows = []
    for inner in mean["inner"].values:
        here = [values.sel(inner=inner).sortby("epsilon") for values in (mean, sem)]
        coap, adversarial = (
            ", ".join(
                f"{middle:.3f} ± {spread:.3f}"
                for middle, spread in zip(*(v.sel(defence=name).values for v in here), strict=True)
            )
            for name in PAIR["defence"]
        )
        rows.append(f"with inner = {inner:g} COAP {coap}; adversarial {adversarial}")
    radii = ", ".join(f"{value:.3g}" for value in sorted(result["epsilon"].values))
    where = f"k = {int(result['k'].values[-1])}, " if int(result["k"].values[-1]) else ""
    return [
        "Not explained by the radii of the spheres, which are not published: the difference is there for every value "
        "of `inner`. What matters is how large the threat is against the margin: robust errors over radii of "
        f"{radii} ({where}margin = {result['margin'].values[-1]:g}) are {'; '.join(rows)}."
    ]


def _main(scene: Scene, result: xr.Dataset) -> xr.Dataset:
    """The main line of a study: the last value of every axis but its own and `inner`."""
    return result.isel(dict.fromkeys({"margin", "k", "epsilon"} - {scene.axis}, -1))


def _kind(scene: Scene, settings: SpheresSettings) -> Threat:
    """A set of the kind the study uses."""
    coords = {"epsilon": 1.0, "k": max(settings.k), "dim": settings.dim[0]}
    return scene.threat(settings, coords, jr.key(0))


STUDIES = tuple(_study(scene) for scene in SCENES)
