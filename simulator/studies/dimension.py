"""The card's own sweep: alignment and errors over radius, dimension and sample size on linearly separable data."""

from dataclasses import dataclass
from typing import Any

import jax.random as jr
import numpy as np
import xarray as xr

from simulator import metrics, networks, span, sweep, trials
from simulator.catalogue import CATALOGUE
from simulator.data import LinearlySeparable
from simulator.plots import figures
from simulator.studies import prediction, protocol
from simulator.studies.protocol import PAIR, Protocol
from simulator.studies.settings import setting
from simulator.studies.study import Study, Verdict
from simulator.threats import L2, SignalDirected

THREATS = ("ball", "signal")


@dataclass(frozen=True, kw_only=True)
class DimensionSettings(Protocol):
    """Axes threat, defence, n, dim, epsilon, trial."""

    threat: tuple[str, ...] = setting("an l2 ball, or the segment along the signal", choices=THREATS)
    epsilon: tuple[float, ...] = setting("radius of the threat, in training and evaluation", low=0)
    dim: tuple[int, ...] = setting("dimension of the data", low=2)
    width: int = setting("hidden neurons", low=1)
    margin: float = setting("gamma: half the class separation", above=0)
    noise: float = setting("sigma of every coordinate but the signal", low=0)


_DEFAULT: dict[str, Any] = {
    "threat": THREATS,
    "defence": ("adversarial", "coap"),
    "epsilon": (1.0, 2.0, 3.0, 4.0, 5.0),
    "learning_rates": (0.1, 0.01, 0.001),
    "selection": "validation",
    "momentum": 0.95,
    "epochs": 150,
    "batch": 0,
    "every": 150,
    "n": (20, 50, 200),
    "dim": (10, 100, 1000, 10_000),
    "margin": 6.0,
    "noise": 1.0,
    "width": 100,
    "trials": 3,
    "test": 1000,
    **protocol.QUICKLY,
}
_PAPER: dict[str, Any] = {
    **_DEFAULT,
    "defence": ("standard", "adversarial", "coap", "crown-ibp", "ibp"),
    "dim": (10, 100, 1000, 10_000, 100_000),
    "trials": 15,
    "test": 10_000,
    **protocol.THOROUGHLY,
}
_SMOKE: dict[str, Any] = {
    **_DEFAULT,
    "epsilon": (1.0, 5.0),
    "learning_rates": (0.01,),
    "epochs": 20,
    "every": 20,
    "n": (20,),
    "dim": (10, 200),
    "width": 10,
    "trials": 2,
    **protocol.BRIEFLY,
}


def grid(settings: DimensionSettings) -> sweep.Grid:
    """The axes of the study."""
    static = ("threat", "defence", "n", "dim")
    axes = {name: getattr(settings, name) for name in (*static, "epsilon")}
    return sweep.Grid(axes, settings.trials, static)


def cell(settings: DimensionSettings) -> sweep.Cell:
    """Train one network, in the span of what a trial draws, and measure it and its first layer."""

    def prepare(coords, key):
        data_key, init_key, _ = jr.split(key, 3)
        task = LinearlySeparable(coords["dim"], settings.margin, settings.noise)
        network = networks.mlp(init_key, task.dim, (settings.width,))
        problem = span.fewest(span.problem(task, network, *task.sample(data_key, coords["n"])))
        return problem, prediction.noise_margin(problem.task, problem.x, problem.y)

    def run(coords, key, drawn):
        problem, noise_margin = drawn
        *_, fit_key = jr.split(key, 3)
        direction, epsilon = problem.task.direction, coords["epsilon"]
        threat = L2(epsilon) if coords["threat"] == "ball" else SignalDirected(epsilon, direction)

        def layers(fit):
            start, end = (network.layers[0].weight for network in (problem.network, fit.network))
            return {
                "alignment_layer": metrics.layer_alignment(end, direction),
                "alignment_change": metrics.layer_alignment(end - start, direction),
            }

        return {
            **protocol.outcome(settings, protocol.training_loss(coords["defence"]), fit_key, problem, threat, layers),
            **prediction.beside(noise_margin, problem.task, threat, coords["defence"]),
        }

    return sweep.Staged(prepare, run)


def verdict(result: xr.Dataset) -> Verdict:
    """Where the gap lives: its largest value under each threat, and in how many places it is beyond 2 paired s.e."""
    missing = protocol.lacks(result)
    if missing is not None or not set(THREATS) <= set(result["threat"].values):
        return missing or Verdict(False, "needs the threats ball and signal; run both to test the claim")
    gap, sem = trials.paired_difference(result, "robust_error", **PAIR)
    beyond = gap > 2 * sem
    counts = {name: int(beyond.sel(threat=name).sum()) for name in THREATS}
    places = {name: int(gap.sel(threat=name).notnull().sum()) for name in THREATS}
    parts = [f"{_largest(gap, sem, name)}, beyond 2 at {counts[name]} of {places[name]} places" for name in THREATS]
    share = {name: counts[name] / max(1, places[name]) for name in THREATS}
    sentence = f"COAP minus adversarial robust error is {'; '.join(parts)}; {result['trial'].size} trials"
    return Verdict(share["signal"] > share["ball"], sentence)


def _largest(gap: xr.DataArray, sem: xr.DataArray, threat: str) -> str:
    values = gap.sel(threat=threat)
    position = np.unravel_index(np.nanargmax(values), values.shape)
    at = {name: int(index) for name, index in zip(values.dims, position, strict=True)}
    top, spread = values.isel(at), sem.sel(threat=threat).isel(at)
    where = ", ".join(f"{name} = {top[name].item():g}" for name in at)
    return f"with the {threat} at most {float(top):+.3f} (paired s.e. {float(spread):.3f}; {where})"


STUDY = Study(
    name="dimension",
    claim=CATALOGUE["dimension"].claim,
    shows=CATALOGUE["dimension"].shows,
    scales={
        "smoke": DimensionSettings(**_SMOKE),
        "default": DimensionSettings(**_DEFAULT),
        "paper": DimensionSettings(**_PAPER),
    },
    grid=grid,
    cell=cell,
    figure=figures.dimension,
    verdict=verdict,
    notes=lambda settings: {
        **protocol.notes(settings, L2(1.0)),
        "theory": f"*_theory: {prediction.NOTE}",
        "alignment_layer": "|W s| / |W|_F of the first layer W and the signal s; _change: of what training added to W",
    },
    core=CATALOGUE["dimension"].core,
)
