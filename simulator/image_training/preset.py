"""Recipes for networks of images: numbers of epochs, schedules of rate and radius, and what is done to the images."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.train import CURRICULA, OPTIMIZERS

DEFENCES = ("standard", "adversarial", "coap", "crown-ibp", "ibp", "fast-ibp", "sabr", "mtl-ibp")
"""The defences that every data set has a recipe of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """How to train a network of images; every number is a constant of the compiled program."""

    source: str
    """Where the numbers are from, and which of them are not stated there."""
    epochs: int
    batch: int
    learning_rate: float
    optimizer: str = "adam"
    milestones: tuple[int, ...] = ()
    """Epochs from which on the rate is multiplied by `factor`, once more at each."""
    factor: float = 0.1
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 0.0
    """Adds weight_decay * parameter to every gradient."""
    clip: float | None = None
    """The largest Euclidean length of a gradient."""
    clean: int = 0
    """Epochs at the radius `start`, before it grows."""
    ramp: int = 0
    """Epochs over which the radius grows to the threat's."""
    start: float = 0.0
    """The radius before it grows, in the units of the images; at most the threat's."""
    by_epoch: bool = False
    """Whether the radius is constant within an epoch, and in the last one of the ramp the full one."""
    curriculum: str = "linear"
    """How the radius grows, a key of `train.CURRICULA`."""
    padding: int = 0
    """Zeros around a training image before a window of the network's size is cut out at random."""
    flip: bool = False
    """Whether every other training image is mirrored, at random."""
    fast_products: bool = False
    """Whether matrix products may be in the accelerator's fast format (bfloat16 on a TPU, TF32 on NVIDIA's; processors
    have none), sums and weights in full precision all the same.  Not for bounds, whose rounding it multiplies."""

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}, but the optimizers are {', '.join(OPTIMIZERS)}")
        if self.curriculum not in CURRICULA:
            raise ValueError(f"curriculum is {self.curriculum!r}, but the curricula are {', '.join(CURRICULA)}")
        if min(self.epochs, self.batch) < 1 or self.clean + self.ramp >= self.epochs:
            raise ValueError(
                f"epochs is {self.epochs}, batch {self.batch}, clean {self.clean} and ramp {self.ramp}: give a batch "
                "of at least 1 and more epochs than clean + ramp, so that some are at the full radius"
            )

    def reduced(self, epochs: int) -> "Preset":
        """The same recipe in fewer (or more) epochs, all of its schedule in proportion, rounded down."""

        def scaled(epoch: int) -> int:
            return epoch * epochs // self.epochs

        return dataclasses.replace(
            self,
            epochs=epochs,
            milestones=tuple(scaled(epoch) for epoch in self.milestones),
            clean=scaled(self.clean),
            ramp=scaled(self.clean + self.ramp) - scaled(self.clean),
        )

    @property
    def full_from(self) -> int:
        """The first epoch that is wholly at the full radius."""
        return self.clean + self.ramp

    def rate(self, epoch: Float[Array, ""]) -> Float[Array, ""]:
        """The learning rate; `epoch` counts the epochs that have passed, in fractions."""
        passed = jnp.sum(epoch >= jnp.array(self.milestones, epoch.dtype)) if self.milestones else jnp.zeros((), int)
        return self.learning_rate * jnp.asarray(self.factor, epoch.dtype) ** passed.astype(epoch.dtype)

    def share(self, epoch: Float[Array, ""], radius: Float[Array, ""]) -> Float[Array, ""]:
        """The radius of a step as a share of the full one: start / radius, then growing to 1."""
        first = jnp.where(radius > 0, jnp.minimum(self.start / jnp.where(radius > 0, radius, 1), 1), 1)
        if self.by_epoch:
            passed = (jnp.floor(epoch) - self.clean) / max(self.ramp - 1, 1)
        else:
            passed = (epoch - self.clean) / max(self.ramp, 1)
        # Without a ramp the radius is the full one from the first epoch that is not clean.
        passed = jnp.where(epoch >= self.full_from, 1, passed)
        return first + (1 - first) * CURRICULA[self.curriculum](jnp.clip(passed, 0, 1))

    def steps(self, examples: int) -> int:
        """Steps of an epoch; an incomplete batch is left out.  Raises `ValueError` if there is no complete one."""
        if examples < self.batch:
            raise ValueError(f"batch is {self.batch}, but there are only {examples} training images: give fewer")
        return examples // self.batch


def _times(first: int, by: int, end: int) -> tuple[int, ...]:
    return tuple(range(first, end, by))


_PAPER = "arXiv 2306.06995, appendix A"
_AUTO = f"{_PAPER}, with the implementation of auto_LiRPA"
_SHI = "Shi et al. (2021); length of the warm-up from their code's description, not checked"

_MNIST_AT = Preset(
    source=f"{_PAPER}: adversarial training on MNIST", epochs=100, batch=128, learning_rate=1e-3, milestones=(40, 80)
)
_MNIST_COAP = Preset(
    source=f"{_PAPER}: COAP on MNIST",
    epochs=60,
    batch=50,
    learning_rate=1e-3,
    ramp=20,
    start=0.01,
    by_epoch=True,
    milestones=_times(30, 10, 60),
    factor=0.5,
)
_MNIST_CROWN = Preset(
    source=f"{_AUTO}: MNIST", epochs=200, batch=256, learning_rate=5e-4, clean=10, ramp=50, milestones=(130, 190)
)
_MNIST_FAST = Preset(
    source=_SHI,
    epochs=70,
    batch=256,
    learning_rate=5e-4,
    clean=0,
    ramp=20,
    curriculum="smoothed",
    milestones=(50, 60),
    factor=0.2,
    clip=10.0,
)
_CIFAR: dict[str, Any] = {"padding": 4, "flip": True}
_CIFAR_AT = Preset(
    source=f"{_PAPER}: adversarial training on CIFAR-10; its momentum is not stated",
    epochs=150,
    batch=128,
    optimizer="sgd",
    learning_rate=0.05,
    milestones=(80, 120),
    **_CIFAR,
)
_CIFAR_COAP = Preset(
    source=f"{_PAPER}: COAP on CIFAR-10; its momentum is not stated",
    epochs=60,
    batch=50,
    optimizer="sgd",
    learning_rate=0.05,
    ramp=20,
    start=0.001,
    by_epoch=True,
    milestones=_times(30, 10, 60),
    factor=0.5,
    **_CIFAR,
)
_CIFAR_CROWN = Preset(
    source=f"{_AUTO}: CIFAR-10",
    epochs=2000,
    batch=256,
    learning_rate=5e-4,
    clean=100,
    ramp=800,
    milestones=(1400, 1700),
    **_CIFAR,
)
_CIFAR_FAST = Preset(
    source=_SHI,
    epochs=160,
    batch=128,
    learning_rate=5e-4,
    clean=1,
    ramp=80,
    curriculum="smoothed",
    milestones=(120, 140),
    factor=0.2,
    clip=10.0,
    **_CIFAR,
)
_TINY_AT = Preset(
    source=f"{_PAPER}: adversarial training on Tiny ImageNet; its momentum is not stated",
    epochs=200,
    batch=512,
    optimizer="sgd",
    learning_rate=0.1,
    milestones=(100, 150),
    flip=True,
)
_TINY_CROWN = Preset(
    source=f"{_AUTO}: Tiny ImageNet; its rate and milestones are not stated: those of CIFAR-10 in proportion",
    epochs=600,
    batch=128,
    learning_rate=5e-4,
    clean=100,
    ramp=400,
    milestones=(420, 510),
    flip=True,
)
_TINY_FAST = Preset(
    source=_SHI,
    epochs=80,
    batch=128,
    learning_rate=5e-4,
    clean=1,
    ramp=10,
    curriculum="smoothed",
    milestones=(60, 70),
    factor=0.2,
    clip=10.0,
    flip=True,
)
_PLAIN = Preset(
    source="none is published for these images: one recipe of ours for all defences, certified ones with a ramp",
    epochs=60,
    batch=50,
    learning_rate=1e-3,
    milestones=(40, 50),
    factor=0.3,
)
_RAMPED = dataclasses.replace(_PLAIN, ramp=20)


def _family(attack: Preset, coap: Preset, crown: Preset, fast: Preset) -> dict[str, Preset]:
    modern = dataclasses.replace(fast, source=f"{fast.source}, as the papers of SABR and MTL-IBP build on it")
    standard = dataclasses.replace(attack, source=f"{attack.source}; for standard training, which has none, the same")
    return {
        "standard": standard,
        "adversarial": attack,
        "coap": coap,
        "crown-ibp": crown,
        "ibp": crown,
        "fast-ibp": fast,
        "sabr": modern,
        "mtl-ibp": modern,
    }


_DIGITS = {name: _PLAIN if name in ("standard", "adversarial") else _RAMPED for name in DEFENCES}
_PLANTED = dataclasses.replace(
    _RAMPED,
    source="none is published for these images: one recipe of ours, with a ramp, for all defences",
)
_MNIST = _family(_MNIST_AT, _MNIST_COAP, _MNIST_CROWN, _MNIST_FAST)
RECIPES: dict[str, dict[str, Preset]] = {
    "digits": _DIGITS,
    "planted": dict.fromkeys(DEFENCES, _PLANTED),
    "mnist": _MNIST,
    "fashion-mnist": _MNIST,
    "cifar10": _family(_CIFAR_AT, _CIFAR_COAP, _CIFAR_CROWN, _CIFAR_FAST),
    "tiny-imagenet": _family(_TINY_AT, _CIFAR_COAP, _TINY_CROWN, _TINY_FAST),
}
"""Data set -> defence -> the published recipe.  The first two have none but ours.  Fashion-MNIST has none in the papers
and takes that of MNIST; COAP has none for Tiny ImageNet, where the papers leave it out, and takes that of CIFAR-10."""


def preset(data: str, defence: str, epochs: int = 0) -> Preset:
    """The published recipe of a defence on a data set, in `epochs` epochs (0: as published).

    Raises `ValueError` if there is none, or if so few epochs leave none at the full radius.
    """
    if data not in RECIPES or defence not in RECIPES[data]:
        known = ", ".join(RECIPES), ", ".join(DEFENCES)
        raise ValueError(f"there is no recipe for {defence} on {data}: data sets are {known[0]}, defences {known[1]}")
    found = RECIPES[data][defence]
    return found.reduced(epochs) if epochs else found
