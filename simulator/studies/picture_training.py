"""What the study `picture` trains: its settings, its data in two dimensions, and the networks of its cells."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator import attacks, metrics, networks, sweep, train
from simulator.data import ConcentricSpheres, LinearlySeparable, Task
from simulator.defences import loss_of, without_warmup
from simulator.studies.settings import Settings, SettingsError, check_test_size, setting
from simulator.threats import L2

TASKS = ("circles", "lines")


@dataclass(frozen=True, kw_only=True)
class PictureSettings(Settings):
    """Two-dimensional data, so that everything can be drawn."""

    task: tuple[str, ...] = setting("two-dimensional data", choices=TASKS)
    defence: tuple[str, ...] = setting("ways to train", choices=without_warmup)
    epsilon: tuple[float, ...] = setting("l2 radius, in training and evaluation", low=0)
    inner: float = setting("radius of the inner circle (y = +1)", above=0)
    outer: float = setting("radius of the outer circle (y = -1)", above=0)
    margin: float = setting("gamma of the lines: half their distance", above=0)
    noise: float = setting("sigma of the lines", low=0)
    n: tuple[int, ...] = setting("training examples", low=2)
    width: int = setting("hidden neurons", low=1)
    learning_rate: float = setting("of SGD", above=0)
    momentum: float = setting("of SGD", low=0, high=0.999)
    epochs: int = setting("full-batch epochs of training", low=1)
    test: int = setting("test examples per trial", low=1)
    pixels: int = setting("points along each side of the drawn region", low=2)
    image_radius: float = setting("l2 radius of the adversarial example on the image", low=0)

    def check(self) -> None:
        check_test_size("test", self.test)
        if self.inner >= self.outer:
            raise SettingsError(
                f"inner is {self.inner} and outer is {self.outer}, but the inner radius must be smaller"
            )

    @property
    def reach(self) -> float:
        """Half the side of the drawn square."""
        return 1.3 * self.outer


def _settings(**changes) -> PictureSettings:
    common = {
        "task": TASKS,
        "defence": ("standard", "adversarial", "coap"),
        "epsilon": (0.2, 0.9),
        "inner": 1.0,
        "outer": 3.0,
        "margin": 1.0,
        "noise": 1.0,
        "n": (50,),
        "width": 100,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "epochs": 1000,
        "trials": 5,
        "test": 1000,
        "pixels": 121,
        "image_radius": 1.5,
    }
    return PictureSettings(**{**common, **changes})


SCALES = {
    "smoke": _settings(
        task=("circles",), defence=("adversarial", "coap"), epochs=50, trials=2, test=100, pixels=21, width=20
    ),
    "default": _settings(),
    "paper": _settings(trials=15, test=10_000, pixels=241),
}


def task_of(settings: PictureSettings, name: str) -> Task:
    """The task of that name."""
    if name == "circles":
        return ConcentricSpheres(2, settings.inner, settings.outer)
    return LinearlySeparable(2, settings.margin, settings.noise)


def training_set(
    settings: PictureSettings, name: str, n: int, trial_key: PRNGKeyArray
) -> tuple[Float[Array, "n 2"], Int[Array, " n"]]:
    """The training examples of a trial."""
    return task_of(settings, name).sample(jr.split(trial_key, 3)[0], n)


def attack(network, threat, x, label) -> attacks.Attack:
    """What adversarial training trains on and what every network is measured by."""
    return attacks.apgd(network, threat, x, label, steps=10, objective="margin")


def keyed_attack(key: PRNGKeyArray, *example) -> attacks.Attack:
    """`attack` where one is given a key, which it does not need."""
    del key
    return attack(*example)


def trained(settings: PictureSettings, coords: sweep.Coords, key: PRNGKeyArray, **records: Any) -> train.Fit:
    """The training of a cell; `records` are what `train.fit` keeps along it."""
    x, y = training_set(settings, coords["task"], coords["n"], key)
    _, init_key, batch_key = jr.split(key, 3)
    start = networks.mlp(init_key, 2, (settings.width,))
    recipe = train.Recipe(settings.learning_rate, settings.momentum, epochs=settings.epochs)
    loss = loss_of(coords["defence"], attack)
    return train.fit(batch_key, start, x, y, L2(coords["epsilon"]), loss, recipe, **records)


def evaluated(
    settings: PictureSettings, coords: sweep.Coords, key: PRNGKeyArray, network: networks.Network
) -> dict[str, Array]:
    """The metrics of a network on the test examples of a cell."""
    task, threat, test_key = task_of(settings, coords["task"]), L2(coords["epsilon"]), jr.split(key, 3)[2]
    return metrics.evaluate(test_key, network, task, threat, keyed_attack, n=settings.test)


def margin_map(settings: PictureSettings, network: networks.Network) -> Float[Array, "v u"]:
    """The margin of y = +1 over the drawn square."""
    side = jnp.linspace(-settings.reach, settings.reach, settings.pixels)

    def margin_at(u, v):
        logits = network(jnp.stack([u, v]))
        return logits[1] - logits[0]

    return jax.vmap(lambda v: jax.vmap(lambda u: margin_at(u, v))(side))(side)
