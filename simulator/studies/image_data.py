"""The images of a trial: loaded or drawn, with a part held out for the validation."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from simulator import images, networks
from simulator.image_training import Labelled
from simulator.studies.settings import SettingsError

PLANTED = {"planted-28x28x1": (1, 28, 28), "planted-32x32x3": (3, 32, 32)}
"""Images that are noise but for a pattern, by the name they have on the axis `images`; (channels, height, width)."""

SHAPES = {"tiny-imagenet": (3, 56, 56)}
"""What networks read of images that are larger."""

CLASSES = {"tiny-imagenet": 200}
"""How many classes there are where only the files name them."""


@dataclass(frozen=True)
class Data:
    """What a trial trains and is tested on."""

    name: str
    train: Labelled
    validation: Labelled
    test: Labelled
    classes: int
    shape: networks.Shape
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None
    directions: dict[str, Float[Array, "n d"]]
    """Unit vectors at the test images that perturbations are compared with."""
    digest: str
    """Of all that the training images are made of: files, or the numbers they are drawn with."""


@lru_cache(maxsize=1)
def loaded(name: str) -> images.Images:
    """A data set, read once.  Raises `ImageDataError` if it is not there."""
    return images.load(name)


def files(settings: Any) -> str:
    """Which data sets a study reads: how many images they have, and a digest of images and labels."""
    described = []
    for name in settings.images:
        if name not in PLANTED:
            one = loaded(name)
            described.append(f"{name}: {len(one.y_train)} + {len(one.y_test)} images, SHA-256 {digest_of(name)}")
    return "; ".join(described)


@lru_cache(maxsize=8)
def digest_of(name: str) -> str:
    """Of all images and labels of a data set, for training and for testing."""
    found, whole = hashlib.sha256(), loaded(name)
    for part in (whole.x_train, whole.y_train, whole.x_test, whole.y_test):
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def data_of(settings: Any, name: str, key: PRNGKeyArray, count: int) -> Data:
    """The images of a trial: drawn if they are planted, else those of the data set with a random part held out.

    `count` of them are for training, 0: all others; fewer are the first of more.
    """
    if name in PLANTED:
        return _planted(settings, name, key, count)
    whole = loaded(name)
    whole = whole.subset(test=min(settings.test or len(whole.y_test), len(whole.y_test)))
    order = np.asarray(jr.permutation(key, len(whole.y_train)))
    most = count or len(order) - settings.validation
    if settings.validation + most > len(order):
        raise SettingsError(
            f"train is {count} and validation {settings.validation}, but {name} has {len(order)} training "
            "images: give fewer"
        )
    held_out, chosen = order[: settings.validation], order[settings.validation : settings.validation + most]
    train, validation = (
        Labelled(jnp.asarray(whole.x_train[part]), jnp.asarray(whole.y_train[part]), whole.levels)
        for part in (chosen, held_out)
    )
    test = Labelled(jnp.asarray(whole.x_test), jnp.asarray(whole.y_test), whole.levels)
    shape = SHAPES.get(name, whole.shape)
    nearest = images.towards_other_classes(test.vectors(shape), train.vectors(shape), test.labels, train.labels)
    plain = whole.mean == (0.0,) and whole.deviation == (1.0,)
    normalisation = None if plain else (whole.mean, whole.deviation)
    digest = f"{digest_of(name)}, {settings.validation} + {most} of them by {_words(key)}"
    return Data(name, train, validation, test, len(whole.classes), shape, normalisation, {"nearest": nearest}, digest)


def _words(key: PRNGKeyArray) -> str:
    return np.asarray(jr.key_data(key)).tobytes().hex()


def _planted(settings: Any, name: str, key: PRNGKeyArray, count: int) -> Data:
    shape = PLANTED[name]
    keys = jr.split(key, 3)

    def drawn(number: int, size: int):
        x, y, towards = images.planted(keys[number], shape, size, settings.margin, settings.noise)
        return Labelled(x, y, 1), towards

    train, validation = drawn(0, count or 1000)[0], drawn(1, settings.validation)[0]
    test, towards = drawn(2, settings.test or 1000)
    drawn_by = (shape, count, settings.validation, settings.margin, settings.noise, _words(key))
    return Data("planted", train, validation, test, 2, shape, None, {"planted": towards}, str(drawn_by))


def directions_of(name: str) -> tuple[str, ...]:
    """The directions that perturbations of a data set are compared with: the planted one, or that to the nearest
    training image of another class."""
    return ("planted",) if name in PLANTED else ("nearest",)


def classes_of(name: str) -> int:
    """How many classes a data set has, before it is loaded."""
    return 2 if name in PLANTED else len(images.SETS[name].classes) or CLASSES[name]
