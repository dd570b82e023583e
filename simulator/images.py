"""Images as labelled data."""

from importlib.resources import files

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

IMAGE_SHAPE = (28, 28)


def threes_and_eights() -> tuple[Float[Array, "400 784"], Int[Array, " 400"]]:
    """200 MNIST images each of the digits 3 (y = -1) and 8 (y = +1), flattened, grey values in [0, 1].

    Ships with the package (see `samples/README.md` for its licence); no download.
    """
    with files("simulator").joinpath("samples/mnist_3_8.npz").open("rb") as file, np.load(file) as sample:
        pixels = sample["images"].reshape(len(sample["images"]), -1) / 255
        labels = np.where(sample["labels"] == 8, 1, -1)
    return jnp.asarray(pixels, jnp.result_type(float)), jnp.asarray(labels, jnp.int32)
