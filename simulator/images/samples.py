"""Images that ship with the package (see `samples/README.md` for their licences): nothing to download."""

from importlib.resources import files

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simulator.images.dataset import Images, ranks_within_class
from simulator.images.sets import ImageSet

IMAGE_SHAPE = (28, 28)
"""(height, width) of the samples that ship with the package."""


def _sample(name: str) -> dict[str, np.ndarray]:
    with files("simulator").joinpath(f"samples/{name}.npz").open("rb") as file, np.load(file) as sample:
        return dict(sample)


def threes_and_eights() -> tuple[Float[Array, "400 784"], Int[Array, " 400"]]:
    """200 MNIST images each of the digits 3 (y = -1) and 8 (y = +1), flattened, grey values in [0, 1].

    Ships with the package (see `samples/README.md` for its licence); no download.
    """
    sample = _sample("mnist_3_8")
    pixels = sample["images"].reshape(len(sample["images"]), -1) / 255
    labels = np.where(sample["labels"] == 8, 1, -1)
    return jnp.asarray(pixels, jnp.result_type(float)), jnp.asarray(labels, jnp.int32)


def digits(known: ImageSet) -> Images:
    """The 1,797 digits of 8 x 8 pixels: of each class every fifth image, in the order of the file, is a test image.

    That leaves 1,442 images for training and 355 for testing, with each class at its share in both.

    **Source:** Alpaydin and Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI; the part of it that
    scikit-learn distributes.
    """
    sample = _sample("digits")
    x, y = sample["images"][:, None], sample["labels"].astype(np.int32)
    test = ranks_within_class(y)[0] % 5 == 4
    return known.images(x[~test], y[~test], x[test], y[test])
