"""One gradient step of one neuron: where COAP's step is the worse one, in theory, in simulation, and by the theorem."""

import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

from simulator import losses, networks, sweep, theory, trials
from simulator.catalogue import CATALOGUE
from simulator.data import LinearlySeparable
from simulator.plots import figures
from simulator.studies import prediction
from simulator.studies.protocol import PAIR
from simulator.studies.settings import Settings, setting
from simulator.studies.study import Study, Verdict
from simulator.threats import SignalDirected

ENOUGH = 50
"""Unstable examples that a sample should hold for its mean derivative to be compared."""


@dataclass(frozen=True, kw_only=True)
class OneNeuronSettings(Settings):
    """Axes defence, slope, spread, epsilon, trial."""

    defence: tuple[str, ...] = setting("whose gradient step is taken", choices=PAIR["defence"])
    slope: tuple[float, ...] = setting(
        "a gamma theta_1, the logit that the signal adds: how steep the neuron is", above=0
    )
    spread: tuple[float, ...] = setting(
        "sigma |theta_rest| / (gamma theta_1): noise of the neuron over its signal", above=0
    )
    epsilon: tuple[float, ...] = setting("radius over the margin gamma", above=0, high=0.999)
    threshold: float = setting("-b / (a gamma theta_1): where f = 0, in units of the signal's activation", above=0)
    step: float = setting("step size in units of theta_1 / (a gamma)", above=0, high=0.5)
    margin: float = setting("gamma: half the class separation", above=0)
    noise: float = setting("sigma of every coordinate but the signal", above=0)
    dim: int = setting("dimension of the data", low=2)
    n: int = setting("examples behind a gradient", low=2)


_DEFAULT: dict[str, Any] = {
    "defence": PAIR["defence"],
    "slope": (0.1, 2.0, 10.0),
    "spread": tuple(float(f"{value:.3g}") for value in np.geomspace(0.2, 20, 21)),
    "epsilon": tuple(round(0.05 * index, 2) for index in range(1, 20)),
    "threshold": 0.5,
    "step": 0.1,
    "margin": 6.0,
    "noise": 1.0,
    "dim": 20,
    "n": 5000,
    "trials": 5,
}
_SCALES = {
    "smoke": OneNeuronSettings(
        **{**_DEFAULT, "slope": (2.0,), "spread": (0.5, 2.0), "epsilon": (0.3, 0.8), "n": 500, "trials": 2}
    ),
    "default": OneNeuronSettings(**_DEFAULT),
    "paper": OneNeuronSettings(**{**_DEFAULT, "n": 50_000, "trials": 15}),
}


def grid(settings: OneNeuronSettings) -> sweep.Grid:
    """The axes of the study."""
    axes = {name: getattr(settings, name) for name in ("defence", "slope", "spread", "epsilon")}
    return sweep.Grid(axes, settings.trials, static=("defence",), inner="epsilon")


def cell(settings: OneNeuronSettings) -> sweep.Cell:
    """One step from the same neuron: by the mean gradient of a sample, and by that of the population."""
    task = LinearlySeparable(settings.dim, settings.margin, settings.noise)

    def prepare(coords, key):
        del coords
        data_key, place_key = jr.split(key)
        rest = jr.normal(place_key, (settings.dim,)).at[0].set(0)
        return *task.sample(data_key, settings.n), rest / jnp.linalg.norm(rest)

    def run(coords, key, drawn):
        del key
        x, y, rest = drawn
        along = 1 / task.margin
        across = coords["spread"] * task.margin * along / task.noise
        a = coords["slope"] / (task.margin * along)
        b = -settings.threshold * coords["slope"]
        epsilon = coords["epsilon"] * task.margin
        neuron = along, across, a, b
        sampled = _sampled_slope(coords["defence"], neuron, rest, x, y, SignalDirected(epsilon, task.direction))
        slopes = theory.one_neuron_slopes(*neuron, task, epsilon)
        predicted, deviation = getattr(slopes, coords["defence"])
        size = settings.step * along / (a * task.margin)
        regions = theory.one_neuron_regions(coords["epsilon"], coords["spread"], task.margin, task.noise)

        def after(slope, suffix=""):
            found = theory.one_neuron_errors(along - size * slope, across, a, b, task, epsilon)
            return {f"{name}{suffix}": value for name, value in zip(prediction.ERRORS, found, strict=True)}

        return {
            **after(sampled),
            **after(predicted, "_theory"),
            "derivative": sampled,
            "derivative_theory": predicted,
            "derivative_se_theory": deviation / settings.n**0.5,
            "unstable_theory": slopes.unstable,
            # The theory is one of a positive signal weight.
            "signal_weight": along - size * sampled,
            "diverged": along - size * sampled <= 0,
            **{name: value.astype(along.dtype) for name, value in regions._asdict().items()},
        }

    return sweep.Staged(prepare, run)


def _sampled_slope(defence: str, neuron, rest, x, y, threat: SignalDirected):
    """The mean over examples of the derivative of the loss by the signal weight.

    By automatic differentiation of the losses that everything else trains with.
    """
    along, across, a, b = neuron
    # Not `attacked`: on an unstable positive the worst points reach up to the kink, where a fixed one has no slope.
    loss = losses.exact if defence == "adversarial" else losses.certified(defence)

    def of_example(x, y):
        def at(signal_weight):
            network = networks.one_neuron((across * rest).at[0].set(signal_weight), a, b)
            return loss(network, threat, x, y)

        return jax.grad(at)(along)

    return jnp.mean(jax.vmap(of_example)(x, y))


def gaps(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """R(COAP) - R(AT) after the step: simulated, its paired standard error, and predicted."""
    simulated, sem = trials.paired_difference(result, "robust_error", **PAIR)
    predicted, _ = trials.paired_difference(result, "robust_error_theory", **PAIR)
    return simulated, sem, predicted


def verdict(result: xr.Dataset) -> Verdict:
    """Slopes agree; the signs that are clear agree; and the effect is there outside of what the theorem covers."""
    if not set(PAIR["defence"]) <= set(result["defence"].values) or result["trial"].size < 2:
        return Verdict(False, "needs the defences coap and adversarial and at least 2 trials to test the claim")
    count = json.loads(result.attrs["settings"])["n"]
    off = abs(result["derivative"] - result["derivative_theory"]) / result["derivative_se_theory"]
    # Fewer unstable examples than that do not average out to a normal variable.
    off = off.where(result["unstable_theory"] * count >= ENOUGH)
    if not int(off.count()):
        return Verdict(
            False, f"no place has {ENOUGH} unstable examples of {count} to compare; raise n to test the claim"
        )
    simulated, sem, predicted = gaps(result)
    clear = abs(simulated) > 2 * sem
    wrong = int((clear & (np.sign(simulated) != np.sign(predicted))).sum())
    positive = predicted > 0
    covered = result["theorem"].isel(defence=0, trial=0) > 0
    proven = result["proof"].isel(defence=0, trial=0) > 0
    outside = int((positive & ~covered).sum())
    sentence = (
        f"of {int(off.count())} sampled derivatives the one furthest from the population's is {float(off.max()):.1f} "
        f"standard errors of {count} examples away; COAP's step is the worse one at {int(positive.sum())} of "
        f"{positive.size} places, {int((positive & covered).sum())} of them covered by the theorem and "
        f"{int((positive & proven).sum())} by its proof; of {int(clear.sum())} places where the simulated difference "
        f"is beyond 2 standard errors over trials, {wrong} have the other sign"
    )
    return Verdict(
        float(off.max()) <= prediction.MOST_DEVIATIONS and outside > int((positive & covered).sum()), sentence
    )


def notes(settings: OneNeuronSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of the store."""
    return {
        "step": f"theta_1 = 1/gamma, moved by {settings.step} theta_1/(a gamma) times minus the derivative of the mean "
        "loss; all other weights stay",
        "attack": "training: exact; evaluation: none, robust errors are the closed form at the weights after the step",
        "theory": "*_theory: the same step by the population's derivative, by quadrature",
        "selection": "none",
        "interval": "standard error over trials, differences between defences are paired; *_se_theory over examples",
    }


STUDY = Study(
    name="one-neuron",
    claim=CATALOGUE["one-neuron"].claim,
    shows=CATALOGUE["one-neuron"].shows,
    scales=_SCALES,
    grid=grid,
    cell=cell,
    figure=figures.one_neuron,
    verdict=verdict,
    notes=notes,
    core=CATALOGUE["one-neuron"].core,
)
