"""The images of a trial: loaded or drawn, with a part held out for the validation."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
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


@lru_cache(maxsize=1)
def loaded(name: str) -> images.Images:
    """A data set, read once.  Raises `ImageDataError` if it is not there."""
    return images.load(name)


def exhibits(settings: Any, key: PRNGKeyArray) -> xr.Dataset:
    """What the data sets are: numbers of images, and a digest of those for training and testing."""
    del key
    sets = [loaded(name) for name in settings.images if name not in PLANTED]
    if not sets:
        return xr.Dataset()
    digests = [_digest(one) for one in sets]
    counts = {
        "training_images": [len(one.y_train) for one in sets],
        "test_images": [len(one.y_test) for one in sets],
    }
    variables = {name: ("images", np.array(values)) for name, values in counts.items()}
    return xr.Dataset({**variables, "images_sha256": ("images", np.array(digests, object))})


def _digest(one: images.Images) -> str:
    found = hashlib.sha256()
    for part in (one.x_train, one.x_test):
        found.update(part.tobytes())
    return found.hexdigest()


def data_of(settings: Any, name: str, key: PRNGKeyArray) -> Data:
    """The images of a trial: drawn if they are planted, else those of the data set with a random part held out."""
    if name in PLANTED:
        return _planted(settings, name, key)
    whole = loaded(name)
    whole = whole.subset(test=min(settings.test or len(whole.y_test), len(whole.y_test)))
    order = np.asarray(jr.permutation(key, len(whole.y_train)))
    most = settings.train or len(order) - settings.validation
    if settings.validation + most > len(order):
        raise SettingsError(
            f"train is {settings.train} and validation {settings.validation}, but {name} has {len(order)} training "
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
    return Data(name, train, validation, test, len(whole.classes), shape, normalisation, {"nearest": nearest})


def _planted(settings: Any, name: str, key: PRNGKeyArray) -> Data:
    shape = PLANTED[name]
    keys = jr.split(key, 3)

    def drawn(number: int, size: int):
        x, y, towards = images.planted(keys[number], shape, size, settings.margin, settings.noise)
        return Labelled(x, y, 1), towards

    train, validation = drawn(0, settings.train or 1000)[0], drawn(1, settings.validation)[0]
    test, towards = drawn(2, settings.test or 1000)
    return Data("planted", train, validation, test, 2, shape, None, {"planted": towards})


def directions_of(name: str) -> tuple[str, ...]:
    """The directions that perturbations of a data set are compared with: the planted one, or that to the nearest
    training image of another class."""
    return ("planted",) if name in PLANTED else ("nearest",)


def classes_of(name: str) -> int:
    """How many classes a data set has, before it is loaded."""
    return 2 if name in PLANTED else len(images.SETS[name].classes) or CLASSES[name]
