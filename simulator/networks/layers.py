"""Layers: each maps a vector to a vector, so that attacks, threats and bounds see vectors alone.

A layer of images knows the shape (channels, height, width) its vector stands for, in row-major order; flattening is
therefore no layer.  Linear layers say what a bound asks of a matrix A without ever making it: A v, A^T r, |A| v with
absolute entries, and A^2 v with squared entries (the squared Euclidean lengths of the rows are A^2 applied to ones).
"""

import abc
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.networks.patches import Padding, Shape, as_product, out_shape, product


def times(row: Float[Array, " outputs"], values: Float[Array, "outputs ..."]) -> Float[Array, "..."]:
    """row @ values; for a single output an elementwise product, which costs a batch of examples far less."""
    return row @ values if row.shape[0] > 1 else row[0] * values[0]


class LinearLayer(eqx.Module):
    """z -> A z + offset."""

    @abc.abstractmethod
    def linear(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        """A z."""

    @abc.abstractmethod
    def transposed(self, row: Float[Array, " out"]) -> Float[Array, " in"]:
        """A^T row."""

    @abc.abstractmethod
    def absolute(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        """|A| z, the entries of A without their signs."""

    @abc.abstractmethod
    def squared(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        """A^2 z, the entries of A squared."""

    @abc.abstractmethod
    def offset(self, dtype) -> Float[Array, " out"] | None:
        """What is added; None: nothing."""

    def __call__(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        offset = self.offset(z.dtype)
        return self.linear(z) if offset is None else self.linear(z) + offset


class Affine(LinearLayer):
    """z -> weight @ z + bias, with weight [out, in] and bias [out]."""

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]

    def linear(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weight @ z

    def transposed(self, row: Float[Array, " out"]) -> Float[Array, " in"]:
        return times(row, self.weight)

    def absolute(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return jnp.abs(self.weight) @ z

    def squared(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weight**2 @ z

    def offset(self, dtype) -> Float[Array, " out"]:
        return self.bias


class Convolution(LinearLayer):
    """Cross-correlation of an image with kernels [out channels, in channels, height, width], and a bias per channel.

    Zeros are padded around the image.  Its transposition is JAX's own of the convolution, which is written as a product
    of matrices where `patches.as_product` says so.
    """

    kernel: Float[Array, "outer inner rows columns"]
    bias: Float[Array, " outer"]
    shape: Shape = eqx.field(static=True)
    """Of the image it reads."""
    stride: tuple[int, int] = eqx.field(static=True, default=(1, 1))
    padding: Padding = eqx.field(static=True, default=((0, 0), (0, 0)))

    def __check_init__(self):
        inner = self.kernel.shape[-3]
        if inner != self.shape[0]:
            raise ValueError(f"the kernel reads {inner} channels, but the image has shape {self.shape}")
        if min(self.out_shape) < 1:
            raise ValueError(
                f"a kernel of {self.kernel.shape[-2:]} does not fit an image of {self.shape[1:]} with padding "
                f"{self.padding}: use a smaller kernel or more padding"
            )

    @property
    def out_shape(self) -> Shape:
        """Of the image it makes."""
        return out_shape(self.shape, self.kernel.shape, self.stride, self.padding)

    def _with(self, kernel, z):
        if as_product():
            return product(kernel, z.reshape(self.shape), self.stride, self.padding).reshape(-1)
        image = z.reshape(1, *self.shape)
        return jax.lax.conv_general_dilated(image, kernel, self.stride, self.padding).reshape(-1)

    def linear(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self._with(self.kernel, z)

    def transposed(self, row: Float[Array, " out"]) -> Float[Array, " in"]:
        inner = jax.ShapeDtypeStruct((math.prod(self.shape),), row.dtype)
        (pulled,) = jax.linear_transpose(self.linear, inner)(row)
        return pulled

    def absolute(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self._with(jnp.abs(self.kernel), z)

    def squared(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self._with(self.kernel**2, z)

    def offset(self, dtype) -> Float[Array, " out"]:
        return jnp.repeat(self.bias, math.prod(self.out_shape[1:]))


class AveragePool(LinearLayer):
    """The means of windows of an image, channel by channel; windows that do not fit are left out."""

    shape: Shape = eqx.field(static=True)
    window: tuple[int, int] = eqx.field(static=True)
    stride: tuple[int, int] | None = eqx.field(static=True, default=None)
    """None: the window, so that windows do not overlap."""

    def __check_init__(self):
        if min(self.out_shape) < 1:
            raise ValueError(f"a window of {self.window} does not fit an image of {self.shape[1:]}: use a smaller one")

    @property
    def out_shape(self) -> Shape:
        """Of the image it makes."""
        sizes = zip(self.shape[1:], self.window, self.stride or self.window, strict=True)
        rows, columns = ((size - window) // stride + 1 for size, window, stride in sizes)
        return self.shape[0], rows, columns

    def linear(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        kernel = jnp.full((1, 1, *self.window), 1 / math.prod(self.window), z.dtype)
        image = z.reshape(self.shape[0], 1, *self.shape[1:])
        return jax.lax.conv_general_dilated(image, kernel, self.stride or self.window, "VALID").reshape(-1)

    def transposed(self, row: Float[Array, " out"]) -> Float[Array, " in"]:
        inner = jax.ShapeDtypeStruct((math.prod(self.shape),), row.dtype)
        (pulled,) = jax.linear_transpose(self.linear, inner)(row)
        return pulled

    def absolute(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.linear(z)

    def squared(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.linear(z) / math.prod(self.window)

    def offset(self, dtype) -> None:
        return None


class PerChannel(LinearLayer):
    """Every channel scaled and shifted by numbers of its own."""

    shape: Shape = eqx.field(static=True)

    @abc.abstractmethod
    def _numbers(self, dtype) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
        """Factors and shifts."""

    def _spread(self, values):
        return jnp.repeat(values, math.prod(self.shape[1:]))

    def linear(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self._spread(self._numbers(z.dtype)[0]) * z

    def transposed(self, row: Float[Array, " out"]) -> Float[Array, " in"]:
        return self.linear(row)

    def absolute(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self._spread(jnp.abs(self._numbers(z.dtype)[0])) * z

    def squared(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self._spread(self._numbers(z.dtype)[0] ** 2) * z

    def offset(self, dtype) -> Float[Array, " out"]:
        return self._spread(self._numbers(dtype)[1])


class Normalisation(PerChannel):
    """(z - mean) / deviation, channel by channel: as a layer of the network, so that radii stay in units of the data.

    The numbers are constants of the program: nothing trains them.
    """

    mean: tuple[float, ...] = eqx.field(static=True)
    deviation: tuple[float, ...] = eqx.field(static=True)

    def __check_init__(self):
        if not len(self.mean) == len(self.deviation) == self.shape[0] or min(self.deviation) <= 0:
            raise ValueError(
                f"mean is {self.mean} and deviation {self.deviation}: give one mean and one deviation > 0 for each of "
                f"the {self.shape[0]} channels"
            )

    def _numbers(self, dtype) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
        factor = 1 / jnp.asarray(self.deviation, dtype)
        return factor, -jnp.asarray(self.mean, dtype) * factor


class BatchNorm(PerChannel):
    """scale (z - mean) / sqrt(variance + 1e-5) + shift, channel by channel, with kept statistics.

    So a bound sees a linear layer.  `with_statistics` computes mean and variance from a batch of clean examples,
    differentiably; training does so in every step.

    **Source:** Ioffe & Szegedy (2015); clean statistics in certified training: Shi et al. (2021).
    """

    scale: Float[Array, " channels"]
    shift: Float[Array, " channels"]
    mean: Float[Array, " channels"]
    variance: Float[Array, " channels"]

    def _numbers(self, dtype) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
        factor = self.scale / jnp.sqrt(self.variance + jnp.asarray(1e-5, dtype))
        return factor, self.shift - self.mean * factor

    def fitted(self, batch: Float[Array, "n in"]) -> "BatchNorm":
        """The layer with the statistics of a batch of its inputs."""
        images = batch.reshape(batch.shape[0], self.shape[0], -1)
        statistics = jnp.mean(images, axis=(0, 2)), jnp.var(images, axis=(0, 2))
        return eqx.tree_at(lambda layer: (layer.mean, layer.variance), self, statistics)


class ReLU(eqx.Module):
    """z -> max(z, 0), coordinate by coordinate."""

    def __call__(self, z: Float[Array, " width"]) -> Float[Array, " width"]:
        return jax.nn.relu(z)


class Residual(eqx.Module):
    """The sum of two paths, each some layers in turn; no layers are the identity."""

    branch: tuple[Any, ...]
    shortcut: tuple[Any, ...] = ()

    def __call__(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return through(self.branch, z) + through(self.shortcut, z)


Layers = tuple[Any, ...]
"""Linear layers, `ReLU` and `Residual` in any order."""


def through(layers: Sequence[Any], z: Float[Array, " in"]) -> Float[Array, " out"]:
    """The layers applied in turn."""
    for layer in layers:
        z = layer(z)
    return z


def with_statistics(layers: Sequence[Any], batch: Float[Array, "n in"]) -> Layers:
    """The layers with the statistics of every `BatchNorm` computed from a batch of examples, one layer after the other.

    Differentiable: the statistics are functions of the weights below.
    """
    return _fitted(tuple(layers), batch)[0]


def _fitted(layers: Layers, batch: Float[Array, "n in"]) -> tuple[Layers, Float[Array, "n out"]]:
    fitted: list[Any] = []
    for layer in layers:
        if isinstance(layer, Residual):
            branch, along = _fitted(layer.branch, batch)
            shortcut, past = _fitted(layer.shortcut, batch)
            fitted.append(Residual(branch, shortcut))
            batch = along + past
            continue
        fitted.append(layer.fitted(batch) if isinstance(layer, BatchNorm) else layer)
        batch = jax.vmap(fitted[-1])(batch)
    return tuple(fitted), batch


def has_statistics(layers: Sequence[Any]) -> bool:
    """Whether there is a `BatchNorm` among the layers."""
    return any(isinstance(leaf, BatchNorm) for leaf in jax.tree.leaves(layers, is_leaf=_is_batch_norm))


def _is_batch_norm(layer) -> bool:
    return isinstance(layer, BatchNorm)
