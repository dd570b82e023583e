"""Thesis figure 4.1: threats along the signal on linearly separable data, and the map of recipes around it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr

from simulator import attacks, metrics, networks, span, sweep, train, trials
from simulator.catalogue import CATALOGUE
from simulator.data import LinearlySeparable
from simulator.defences import loss_of, without_warmup
from simulator.plots import figures
from simulator.studies import prediction, protocol
from simulator.studies.settings import Settings, SettingsError, check_test_size, setting
from simulator.studies.study import Published, Study, Verdict
from simulator.studies.two_tasks import THESIS_TRIALS
from simulator.threats import SignalDirected

EPSILONS = (3.0, 3.5, 4.0, 4.5, 5.0, 5.5)
RECIPE = ("batch", "learning_rate", "momentum", "epoch")
BASE = {"batch": 0, "learning_rate": 0.1, "momentum": 0.0, "epoch": 100}
"""The recipe behind the comparison with the thesis, which states neither batch nor momentum."""


@dataclass(frozen=True, kw_only=True)
class SignalDirectedSettings(Settings):
    """The first value of batch, learning_rate and momentum and the last of epoch are the base recipe."""

    defence: tuple[str, ...] = setting("ways to train", choices=without_warmup)
    epsilon: tuple[float, ...] = setting("radius of the segment along the signal, in training and evaluation", low=0)
    n: tuple[int, ...] = setting("training examples", low=2)
    batch: tuple[int, ...] = setting("examples per step; 0 is the full training set", low=0)
    learning_rate: tuple[float, ...] = setting("of SGD", above=0)
    momentum: tuple[float, ...] = setting("of SGD", low=0, high=0.999)
    epoch: tuple[int, ...] = setting("epochs after which the network is evaluated", low=1)
    large_trials: int = setting("trials of the base recipe for all but the smallest n", low=1)
    map_trials: int = setting("trials of every other recipe at the smallest n", low=1)
    large_map_trials: int = setting("trials of every other recipe for all but the smallest n", low=1)
    dim: tuple[int, ...] = setting("dimension of the data", low=2)
    margin: float = setting("gamma: half the class separation", above=0)
    noise: float = setting("sigma of every coordinate but the signal", low=0)
    width: int = setting("hidden neurons", low=1)
    test: int = setting("test examples per trial", low=1)

    def check(self) -> None:
        check_test_size("test", self.test)
        if max(self.batch) > min(self.n):
            raise SettingsError(
                f"batch has {max(self.batch)}, but the smallest n is {min(self.n)}: give batch <= n, or 0"
            )


_DEFAULT = SignalDirectedSettings(
    defence=("standard", "adversarial", "coap"),
    epsilon=EPSILONS,
    n=(50,),
    batch=(0, 10),
    learning_rate=(0.1, 0.01),
    momentum=(0.0, 0.95),
    epoch=(50, 100),
    trials=5,
    large_trials=2,
    map_trials=2,
    large_map_trials=1,
    dim=(1000,),
    margin=6.0,
    noise=1.0,
    width=100,
    test=10_000,
)

_SCALES = {
    "smoke": SignalDirectedSettings(
        defence=("standard", "adversarial", "coap"),
        epsilon=(3.0, 5.5),
        n=(50,),
        batch=(0,),
        learning_rate=(0.1,),
        momentum=(0.0,),
        epoch=(100,),
        trials=2,
        large_trials=1,
        map_trials=1,
        large_map_trials=1,
        dim=(200,),
        margin=6.0,
        noise=1.0,
        width=20,
        test=500,
    ),
    "default": _DEFAULT,
    "paper": SignalDirectedSettings(
        defence=("standard", "adversarial", "coap"),
        epsilon=EPSILONS,
        n=(50, 10_000),
        batch=(0, 50),
        learning_rate=(0.1, 0.01),
        momentum=(0.0, 0.95),
        epoch=(50, 100),
        trials=THESIS_TRIALS,
        large_trials=3,
        map_trials=2,
        large_map_trials=1,
        dim=(1000,),
        margin=6.0,
        noise=1.0,
        width=100,
        test=100_000,
    ),
}


_AXES = ("defence", "n", "dim", "batch", "epsilon", "learning_rate", "momentum")


def grid(settings: SignalDirectedSettings) -> sweep.Grid:
    """The axes of the study and how they are walked."""

    def wanted(cell: sweep.Coords) -> bool:
        base = all(cell[name] == getattr(settings, name)[0] for name in ("batch", "learning_rate", "momentum"))
        small = cell["n"] == min(settings.n)
        if base:
            return cell["trial"] < (settings.trials if small else settings.large_trials)
        return cell["trial"] < (settings.map_trials if small else settings.large_map_trials)

    return sweep.Grid(
        axes={name: getattr(settings, name) for name in _AXES},
        trials=settings.trials,
        static=("defence", "n", "dim", "batch"),
        inner="epsilon",
        wanted=wanted,
        shared_dims=("epoch",),
        coords={"epoch": settings.epoch},
    )


def cell(settings: SignalDirectedSettings) -> sweep.Cell:
    """Train one network, in the span of what a trial draws, and measure it."""

    def prepare(coords, key):
        data_key, init_key, *_ = jr.split(key, 4)
        task = LinearlySeparable(coords["dim"], settings.margin, settings.noise)
        network = networks.mlp(init_key, task.dim, (settings.width,))
        problem = span.fewest(span.problem(task, network, *task.sample(data_key, coords["n"])))
        return problem, prediction.noise_margin(problem.task, problem.x, problem.y)

    def run(coords, key, drawn):
        problem, noise_margin = drawn
        *_, batch_key, test_key = jr.split(key, 4)
        # The segment is symmetric, so the fixed direction gives the same set as each example's own signal.
        threat = SignalDirected(coords["epsilon"], problem.task.direction)
        recipe = train.Recipe(
            coords["learning_rate"], coords["momentum"], epochs=max(settings.epoch), batch=coords["batch"]
        )
        loss = loss_of(coords["defence"], attacks.exact)
        (then, losses), diverged = protocol.snapshots(problem, batch_key, threat, loss, recipe, settings.epoch)
        measured = jax.vmap(
            lambda net: metrics.evaluate(test_key, net, problem.task, threat, protocol.exact_attack, n=settings.test)
        )(then)
        predicted = prediction.beside(noise_margin, problem.task, threat, coords["defence"])
        # The end of training, whenever it is stopped.
        at_every_epoch = {name: jnp.broadcast_to(value, losses.shape) for name, value in predicted.items()}
        return {**measured, **at_every_epoch, "train_loss": losses, "diverged": diverged}

    return sweep.Staged(prepare, run)


def _base(result: xr.Dataset) -> xr.Dataset:
    """The cells of the base recipe: the first batch, learning rate and momentum, the last epoch."""
    return result.isel(batch=0, learning_rate=0, momentum=0, epoch=-1)


def verdict(result: xr.Dataset) -> Verdict:
    """COAP against adversarial training at the smallest n and the base recipe, over epsilon; then over recipes."""
    if not {"coap", "adversarial"} <= set(result["defence"].values):
        return Verdict(False, "needs the defences coap and adversarial; run both to test the claim")
    if result["trial"].size < 2:
        return Verdict(False, "one trial has no standard error; run at least 2 to test the claim")
    smallest = result.isel(n=0, dim=0)
    gap, sem = trials.paired_difference(_base(smallest), "robust_error", defence=("coap", "adversarial"))
    every, _ = trials.paired_difference(smallest, "robust_error", defence=("coap", "adversarial"))
    recipes = every.stack(recipe=("batch", "learning_rate", "momentum", "epoch")).mean("epsilon")
    positive = int((recipes > 0).sum())
    held = bool(((gap - 2 * sem) > 0).all())
    least = gap.isel(epsilon=int(np.argmin(gap.values)))
    sentence = (
        f"COAP minus adversarial robust error at n = {int(smallest['n'])}, d = {int(smallest['dim'])} is "
        f"{float(gap.max()):+.3f} at most and "
        f"{float(least):+.3f} at least (epsilon {float(least['epsilon']):g}), "
        f"{'more' if held else 'not always more'} than 2 paired standard errors above 0 over "
        f"{int(result['trial'].size)} trials; averaged over epsilon it is positive for {positive} of "
        f"{recipes.size} recipes, between {float(recipes.min()):+.3f} and {float(recipes.max()):+.3f}"
    )
    return Verdict(held, sentence)


def notes(settings: SignalDirectedSettings) -> dict[str, str]:
    """How the numbers were obtained, for the provenance of the store."""
    return {
        "attack": "training and evaluation: exact search along the segment",
        "trained_in": "the span of each trial's data, initial weights and signal, where these are fewer",
        "certified_by": f"best of {', '.join(metrics.CERTIFIERS)} per example",
        "theory": f"*_theory: {prediction.NOTE}",
        "selection": "none: every recipe is reported; the base recipe is the first of batch, learning_rate, momentum "
        "and the last epoch",
        "interval": "standard error over trials; differences between defences are paired by trial",
    }


def _published(defence: str, variable: str, values: tuple[float, ...]) -> Published:
    return Published(
        variable,
        {"defence": defence, "n": 50, "dim": 1000, **BASE},
        "epsilon",
        dict(zip(EPSILONS, values, strict=True)),
        "De Bartolomeis, master thesis, Fig 4.1 (digitised, about 0.002)",
        THESIS_TRIALS,
    )


STUDY = Study(
    name="signal-directed",
    claim=CATALOGUE["signal-directed"].claim,
    shows=CATALOGUE["signal-directed"].shows,
    scales=_SCALES,
    grid=grid,
    cell=cell,
    figure=figures.signal_directed,
    verdict=verdict,
    notes=notes,
    published=(
        _published("standard", "standard_error", (0, 0, 0, 0, 0, 0)),
        _published("adversarial", "standard_error", (0.001, 0.005, 0.014, 0.038, 0.090, 0.184)),
        _published("coap", "standard_error", (0.004, 0.011, 0.028, 0.061, 0.120, 0.214)),
        _published("standard", "robust_error", (0.006, 0.019, 0.047, 0.105, 0.201, 0.337)),
        _published("adversarial", "robust_error", (0.063, 0.134, 0.226, 0.324, 0.409, 0.469)),
        _published("coap", "robust_error", (0.087, 0.165, 0.257, 0.347, 0.420, 0.473)),
    ),
    core=CATALOGUE["signal-directed"].core,
    numbers=4,
)
