"""The image networks of the literature, each a function of (key, shape, classes); `ARCHITECTURES` is the table.

`shape` is (channels, height, width) of the images.  `normalisation`, if given, is (means, deviations), one number of
each per channel: the first layer of the network, so that radii stay in the units of the data (pixels).  `init` draws
every convolution and matrix as `mlp` does, the same on all architectures, which the published code does not always do.
All raise `ValueError` for an unknown `init`, an image too small for the kernels, or a size below 1.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.random as jr
from jaxtyping import PRNGKeyArray

from simulator.networks.build import affine, batch_norm, convolution
from simulator.networks.layers import AveragePool, Normalisation, ReLU, Residual
from simulator.networks.network import Network
from simulator.networks.patches import Shape

PerChannel = tuple[Sequence[float], Sequence[float]]
"""Means and deviations, one of each per channel."""


def _first(shape: Shape, classes: int, normalisation: PerChannel | None) -> list[Any]:
    """The layers before the first convolution."""
    if len(shape) != 3 or min(*shape, classes) < 1:
        raise ValueError(
            f"the images have shape {shape} and there are {classes} classes: "
            "give (channels, height, width) and a number of classes, all at least 1"
        )
    if normalisation is None:
        return []
    means, deviations = (tuple(float(number) for number in numbers) for numbers in normalisation)
    return [Normalisation(shape, means, deviations)]


def _keys(key: PRNGKeyArray) -> Iterator[PRNGKeyArray]:
    """As many keys as are asked for."""
    number = 0
    while True:
        yield jr.fold_in(key, number)
        number += 1


def _plain(
    key: PRNGKeyArray,
    shape: Shape,
    classes: int,
    convolutions: Sequence[tuple[int, int, int]],
    widths: Sequence[int],
    *,
    normalisation: PerChannel | None,
    init: str,
    dtype,
    normalised: bool = False,
) -> Network:
    """Convolutions (channels, kernel, stride) padded by 1, then layers of these widths, all with ReLUs, then logits.

    `normalised` puts a batch normalisation before every ReLU.
    """
    layers, keys = _first(shape, classes, normalisation), _keys(key)

    def add(layer, shape: Shape) -> None:
        layers.extend([layer, batch_norm(shape, dtype), ReLU()] if normalised else [layer, ReLU()])

    for channels, kernel, stride in convolutions:
        layer = convolution(next(keys), shape, channels, kernel, stride, 1, init, dtype)
        shape = layer.out_shape
        add(layer, shape)
    size = math.prod(shape)
    for width in widths:
        add(affine(next(keys), size, width, init, dtype), (width, 1, 1))
        size = width
    return Network((*layers, affine(next(keys), size, classes, init, dtype)))


def tiny_cnn(
    key: PRNGKeyArray,
    shape: Shape,
    classes: int,
    *,
    normalisation: PerChannel | None = None,
    init: str = "torch",
    dtype=None,
) -> Network:
    """For images of 8 x 8 pixels: convolutions of 8 and 16 channels (4x4, stride 2), a layer of 50, logits.

    Ours, of no paper.
    """
    convolutions = ((8, 4, 2), (16, 4, 2))
    return _plain(key, shape, classes, convolutions, (50,), normalisation=normalisation, init=init, dtype=dtype)


def small_cnn(
    key: PRNGKeyArray,
    shape: Shape,
    classes: int,
    *,
    normalisation: PerChannel | None = None,
    init: str = "torch",
    dtype=None,
) -> Network:
    """Convolutions of 16 and 32 channels (4x4, stride 2), a layer of 100, logits; for MNIST and CIFAR-10.

    **Source:** Wong & Kolter (2018); Wong et al. (2018), "small".
    """
    convolutions = ((16, 4, 2), (32, 4, 2))
    return _plain(key, shape, classes, convolutions, (100,), normalisation=normalisation, init=init, dtype=dtype)


def large_cnn(
    key: PRNGKeyArray,
    shape: Shape,
    classes: int,
    *,
    normalisation: PerChannel | None = None,
    init: str = "torch",
    dtype=None,
) -> Network:
    """Convolutions of 32 (3x3), 32 (4x4, stride 2), 64 (3x3) and 64 channels (4x4, stride 2), 512 twice, logits.

    **Source:** Wong et al. (2018), "large".
    """
    convolutions = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
    return _plain(key, shape, classes, convolutions, (512, 512), normalisation=normalisation, init=init, dtype=dtype)


def cnn7(
    key: PRNGKeyArray,
    shape: Shape,
    classes: int,
    *,
    width: int = 64,
    hidden: int = 512,
    normalisation: PerChannel | None = None,
    init: str = "torch",
    dtype=None,
) -> Network:
    """Convolutions (3x3) of width, width, 2 width (stride 2), 2 width and 2 width channels, a hidden layer, logits.

    A batch normalisation stands before every ReLU, that of the hidden layer included.

    For MNIST and CIFAR-10; what papers use on Tiny ImageNet has one stride more.

    **Source:** Shi et al. (2021), arXiv 2103.17268; so used since by most work on certified training.
    """
    convolutions = ((width, 3, 1), (width, 3, 1), (2 * width, 3, 2), (2 * width, 3, 1), (2 * width, 3, 1))
    return _plain(
        key,
        shape,
        classes,
        convolutions,
        (hidden,),
        normalisation=normalisation,
        init=init,
        dtype=dtype,
        normalised=True,
    )


def narrow_resnet(
    key: PRNGKeyArray,
    shape: Shape,
    classes: int,
    *,
    hidden: int = 1000,
    normalisation: PerChannel | None = None,
    init: str = "torch",
    dtype=None,
) -> Network:
    """A convolution of 16 channels (3x3), residual blocks of 16, 16, 32 and 64, a hidden layer, logits.

    A block is conv -> ReLU -> conv (3x3) beside a convolution of its own, added before the next ReLU.  At equal size
    the first is 3x3 and the one beside 1x1, in every block; the blocks of 32 and 64 halve the image by 4x4 and 2x2
    kernels of stride 2.

    **Source:** Wong et al. (2018), arXiv 1805.12514, the residual network for CIFAR-10 with N = 1 and factor 1; block
    by block as in the public code of the paper.
    """
    layers, keys = _first(shape, classes, normalisation), _keys(key)

    def drawn(shape: Shape, channels: int, kernel: int, stride: int, padding: int):
        return convolution(next(keys), shape, channels, kernel, stride, padding, init, dtype)

    stem = drawn(shape, 16, 3, 1, 1)
    layers += [stem, ReLU()]
    shape = stem.out_shape
    for channels, stride in ((16, 1), (16, 1), (32, 2), (64, 2)):
        first = drawn(shape, channels, 3 if stride == 1 else 4, stride, 1)
        second, beside = drawn(first.out_shape, channels, 3, 1, 1), drawn(shape, channels, stride, stride, 0)
        layers += [Residual((first, ReLU(), second), (beside,)), ReLU()]
        shape = second.out_shape
    layers += [affine(next(keys), math.prod(shape), hidden, init, dtype), ReLU()]
    return Network((*layers, affine(next(keys), hidden, classes, init, dtype)))


def wide_resnet(
    key: PRNGKeyArray,
    shape: Shape,
    classes: int,
    *,
    widen: int = 10,
    normalisation: PerChannel | None = None,
    init: str = "torch",
    dtype=None,
) -> Network:
    """A convolution of 16 channels (3x3), three residual blocks of 16, 32 and 64 times `widen` channels, means of the
    four quarters of the image, logits.

    A block is (batch normalisation -> ReLU -> conv 3x3) twice beside a 1x1 convolution; the second convolution and the
    one beside have stride 1, 2 and 2 in the three blocks.  A batch normalisation and a ReLU follow the last.

    **Source:** Xu et al. (2020), arXiv 2002.12920, on Tiny ImageNet cut to 56 x 56 pixels, where the means are of 7 x 7
    pixels; block by block as in the public examples of that paper's library (depth 10, that is one block a stage, whose
    dropout is switched off).  Uncertain: that "3 wide blocks, widen factor 10" in other papers is exactly this network.
    """
    layers, keys = _first(shape, classes, normalisation), _keys(key)

    def drawn(shape: Shape, channels: int, kernel: int, stride: int):
        return convolution(next(keys), shape, channels, kernel, stride, kernel // 2, init, dtype)

    stem = drawn(shape, 16, 3, 1)
    layers.append(stem)
    shape = stem.out_shape
    for channels, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
        first = drawn(shape, channels, 3, 1)
        second, beside = drawn(first.out_shape, channels, 3, stride), drawn(shape, channels, 1, stride)
        norms = batch_norm(shape, dtype), batch_norm(first.out_shape, dtype)
        layers.append(Residual((norms[0], ReLU(), first, norms[1], ReLU(), second), (beside,)))
        shape = second.out_shape
    pool = AveragePool(shape, (max(1, shape[1] // 2), max(1, shape[2] // 2)))
    layers += [batch_norm(shape, dtype), ReLU(), pool]
    return Network((*layers, affine(next(keys), math.prod(pool.out_shape), classes, init, dtype)))


ARCHITECTURES: dict[str, Callable[..., Network]] = {
    "tiny-cnn": tiny_cnn,
    "small-cnn": small_cnn,
    "large-cnn": large_cnn,
    "cnn7": cnn7,
    "narrow-resnet": narrow_resnet,
    "wide-resnet": wide_resnet,
}
"""Image networks by name."""


def architecture(name: str, key: PRNGKeyArray, shape: Shape, classes: int, **options: Any) -> Network:
    """The network of that name, with the options of its function.  Raises `ValueError` for an unknown name."""
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {name!r}; the architectures are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](key, shape, classes, **options)
