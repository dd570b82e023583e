"""A set of labelled images, as its publisher stores them: bytes, with what turns them into inputs of a network."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt8

from simulator.images.errors import ImageDataError


@dataclass(frozen=True, eq=False)
class Images:
    """Images for training and for testing, and their labels.

    Pixels are bytes from 0 to `levels`, which stands for 1.0; inputs of a network are x / levels in [0, 1], and the
    radius of a threat is in these units.  A network that normalises computes (x / levels - mean) / deviation.

    Raises `ImageDataError` if images and labels differ in number, or a label or a pixel is out of range.
    """

    name: str
    """The name that `simulator.images.load` knows it by."""
    x_train: UInt8[np.ndarray, "n channels height width"]
    y_train: Int32[np.ndarray, " n_labels"]
    x_test: UInt8[np.ndarray, "m channels height width"]
    y_test: Int32[np.ndarray, " m_labels"]
    classes: tuple[str, ...]
    """Names of the classes; a label is a place in this tuple."""
    levels: int
    """The pixel value that means 1.0."""
    mean: tuple[float, ...]
    """Per channel, in units of [0, 1]: what the papers subtract; 0 where they do not normalise."""
    deviation: tuple[float, ...]
    """Per channel, in units of [0, 1]: what the papers divide by; 1 where they do not normalise."""

    def __post_init__(self):
        for part, x, y in (("training", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if len(x) != len(y):
                raise ImageDataError(f"{self.name} has {len(x)} {part} images, but {len(y)} labels: give one to each")
            if len(y) and not (y.min() >= 0 and y.max() < len(self.classes)):
                last = len(self.classes) - 1
                raise ImageDataError(
                    f"{self.name} has a {part} label outside of 0 to {last}, the places of its classes"
                )
            if self.levels < 255 and len(x) and x.max() > self.levels:
                raise ImageDataError(f"{self.name} has a {part} pixel of {x.max()}, but {self.levels} means 1.0")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

    @property
    def dim(self) -> int:
        """Numbers per image: channels * height * width."""
        return int(np.prod(self.shape))

    def examples(self, part: Literal["train", "test"]) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        """All images of a part as inputs of a network: x / levels in [0, 1], flattened in row-major order, and labels.

        Takes four bytes a pixel in single precision: 4.9 GB for the 100,000 training images of Tiny ImageNet.
        """
        x, y = (self.x_train, self.y_train) if part == "train" else (self.x_test, self.y_test)
        dtype = jnp.result_type(float)
        return jnp.asarray(x.reshape(len(x), -1), dtype) / jnp.asarray(self.levels, dtype), jnp.asarray(y)

    def subset(self, train: int | None = None, test: int | None = None) -> "Images":
        """Fewer images, the same ones each time, in their order, with every class at its share of the whole.

        The k-th of the c images of a class has the place (k - 1/2)/c, and those with the smallest places are kept.  Of
        K classes that are equally large each keeps its share to within one image; of any, one with a share s of all
        images to within (1 + K s)/2.  None keeps all.

        Raises `ImageDataError` if fewer than one image or more than there are would be kept.
        """
        kept: dict[str, Any] = {}
        for part, count in (("train", train), ("test", test)):
            if count is not None:
                x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
                if not 1 <= count <= len(y):
                    raise ImageDataError(
                        f"{part} is {count}, but {self.name} has {len(y)} such images: give 1 to {len(y)}"
                    )
                rows = np.sort(np.argsort(_places(y), kind="stable")[:count])
                kept |= {f"x_{part}": x[rows], f"y_{part}": y[rows]}
        return replace(self, **kept)


def _places(labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """(k - 1/2)/c for the k-th image of a class of c images."""
    ranks, counts = ranks_within_class(labels)
    return (ranks + 0.5) / counts


def ranks_within_class(labels: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """For every example how many of its class come before it, and how many there are in all."""
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), int)
    ranks[order] = np.arange(len(labels)) - np.repeat(first, counts)
    sizes = np.empty(len(labels), int)
    sizes[order] = np.repeat(counts, counts)
    return ranks, sizes
