"""Convolutions as one matrix product of patches, made of slices alone: the quick form on processors.

An image is cut into blocks of the size of the stride, and the pixels of a block become its channels (space to depth).
On blocks the stride is 1, so that a kernel of k pixels and stride s reads ceil(k / s) blocks a side: that many slices,
put side by side, are the patches [places, inputs of the kernel], and the convolution is patches @ kernels.  The product
has no batch: `jax.vmap` over examples and rows of a bound makes one product of all their places.

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
    blocks = [-(-reach // step) for reach, step in zip(kernel.shape[-2:], stride, strict=True)]
    matrix = _in_blocks(kernel, blocks, stride).reshape(-1, outer)
    return (_patches(image, places, blocks, stride, padding) @ matrix).T.reshape(outer, *places)


def windows(
    image: Float[Array, "channels height width"], places: Pair, size: Pair, stride: Pair, origin: Pair
) -> Float[Array, "places channels rows columns"]:
    """Windows of that size, the first with its corner at `origin`, each next one a stride further; zeros outside."""
    channels = image.shape[0]
    blocks = [-(-reach // step) for reach, step in zip(size, stride, strict=True)]
    padding = ((-origin[0], 0), (-origin[1], 0))
    seen = _patches(image, list(places), blocks, stride, padding).reshape(-1, *blocks, *stride, channels)
    whole = [count * step for count, step in zip(blocks, stride, strict=True)]
    return seen.transpose(0, 5, 1, 3, 2, 4).reshape(-1, channels, *whole)[:, :, : size[0], : size[1]]


def _in_blocks(kernel, blocks: list[int], stride: Pair) -> Float[Array, "down across high wide inner outer"]:
    """The kernels, filled up with zeros to whole blocks."""
    outer, inner, rows, columns = kernel.shape
    (down, across), (high, wide) = blocks, stride
    filled = jnp.pad(kernel, ((0, 0), (0, 0), (0, down * high - rows), (0, across * wide - columns)))
    return filled.reshape(outer, inner, down, high, across, wide).transpose(2, 4, 3, 5, 1, 0)


def _patches(image, places: list[int], blocks: list[int], stride: Pair, padding: Padding):
    """What the kernels read at every place, in the order of `_in_blocks`: [places, inputs]."""
    inner, height, width = image.shape
    (rows, columns), (down, across), (high, wide) = places, blocks, stride
    (above, _), (left, _) = padding
    tall, broad = rows - 1 + down, columns - 1 + across
    # Padded below and to the right to whole blocks; what no kernel reaches is cut off (a negative number).
    sides = ((0, 0, 0), (above, tall * high - height - above, 0), (left, broad * wide - width - left, 0))
    padded = jax.lax.pad(image, jnp.zeros((), image.dtype), sides)
    deep = padded.reshape(inner, tall, high, broad, wide).transpose(1, 3, 2, 4, 0).reshape(tall, broad, -1)
    slices = [deep[i : i + rows, j : j + columns] for i in range(down) for j in range(across)]
    return jnp.concatenate(slices, axis=-1).reshape(rows * columns, -1)
