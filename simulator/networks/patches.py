"""Convolutions as one matrix product of patches, made of slices alone: the quick form on processors.

With the channels innermost, the pixels of a row that lie within one stride are one block, and a kernel of k columns and
stride s reads ceil(k / s) blocks of each of its rows: that many slices, put side by side, are what it reads of one row,
and one slice for every row of the kernel, side by side, are the patches [places, inputs of the kernel].  All of them
copy long stretches of memory.  The convolution is patches @ kernels.  The product has no batch: `jax.vmap` over
examples and rows of a bound makes one product of all their places.

Derivatives and the transposition are JAX's own of these operations: products again, and sums of shifted slices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Shape = tuple[int, int, int]
"""(channels, height, width)"""

Pair = tuple[int, int]
"""(down, across)"""

Padding = tuple[Pair, Pair]
"""((above, below), (left, right))"""


def as_product() -> bool:
    """Whether convolutions are written as products: on processors always, on accelerators never.

    The rule knows no shapes because no shape turns it round where programs spend their time: XLA hands a convolution to
    its fast routine on processors only outside of loops, and training, attacks and bounds in chunks are loops.  There
    the product is 3 to 8 times faster over a training step (`benchmarks/README.md`).  Outside of loops the routine is
    up to 3 times faster for the mere value of kernels with stride 1, which a single evaluation of a network pays.
    """
    return jax.default_backend() == "cpu"


def out_shape(shape: tuple[int, ...], kernel: tuple[int, ...], stride: Pair, padding: Padding) -> Shape:
    """(channels, height, width) of what a kernel [outer, inner, rows, columns] makes of an image."""
    sizes = zip(shape[1:], kernel[-2:], stride, padding, strict=True)
    rows, columns = ((size + sum(pad) - reach) // step + 1 for size, reach, step, pad in sizes)
    return kernel[-4], rows, columns


def product(
    kernel: Float[Array, "outer inner rows columns"],
    image: Float[Array, "inner height width"],
    stride: Pair,
    padding: Padding,
) -> Float[Array, "outer higher wider"]:
    """The cross-correlation of an image, zeros padded around it, with kernels; the same as `jax.lax.conv` up to
    rounding."""
    outer, *places = out_shape(image.shape, kernel.shape, stride, padding)
    size = kernel.shape[-2], kernel.shape[-1]
    filled = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, _whole(size, stride) - size[1])))
    matrix = filled.transpose(2, 3, 1, 0).reshape(-1, outer)
    seen = _patches(image, places, size, stride, padding)
    return (seen @ matrix).T.reshape(outer, *places)


def windows(
    image: Float[Array, "channels height width"], places: Pair, size: Pair, stride: Pair, origin: Pair
) -> Float[Array, "places channels rows columns"]:
    """Windows of that size, the first with its corner at `origin`, each next one a stride further; zeros outside."""
    padding = ((-origin[0], 0), (-origin[1], 0))
    seen = _patches(image, list(places), size, stride, padding)
    seen = seen.reshape(-1, size[0], _whole(size, stride), image.shape[0])
    return seen.transpose(0, 3, 1, 2)[..., : size[1]]


def _whole(size: Pair, stride: Pair) -> int:
    """Columns of the blocks that a window reads."""
    return -(-size[1] // stride[1]) * stride[1]


def _patches(
    image: Float[Array, "inner height width"], places: list[int], size: Pair, stride: Pair, padding: Padding
) -> Float[Array, "places inputs"]:
    """What a window of that size reads at every place: its rows, of each its columns, filled up to whole blocks, of
    each the channels."""
    inner, height, width = image.shape
    (rows, columns), (high, wide) = places, stride
    blocks = _whole(size, stride) // wide
    (above, _), (left, _) = padding
    tall, broad = (rows - 1) * high + size[0], columns - 1 + blocks
    # Padded below and to the right to what the windows read; what they do not reach is cut off (a negative number).
    sides = ((above, tall - height - above, 0), (left, broad * wide - width - left, 0), (0, 0, 0))
    padded = jax.lax.pad(image.transpose(1, 2, 0), jnp.zeros((), image.dtype), sides)
    cut = padded.reshape(tall, broad, wide * inner)
    along = jnp.concatenate([cut[:, j : j + columns] for j in range(blocks)], axis=-1)
    down = jnp.concatenate([along[i : i + tall - size[0] + 1 : high] for i in range(size[0])], axis=-1)
    return down.reshape(rows * columns, -1)
