"""Networks made from weights, or drawn at random."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from simulator.networks.layers import Affine, BatchNorm, Convolution, ReLU
from simulator.networks.network import Network
from simulator.networks.patches import Padding, Shape

INITIALISATIONS = ("torch", "he", "ibp")
"""The ways `mlp` draws its weights."""


def from_weights(weights: Sequence[tuple[ArrayLike, ArrayLike]]) -> Network:
    """A ReLU network from [(W1, b1), (W2, b2), ...]: W [out, in], b [out], the dtype kept.

    Raises `ValueError` if a shape does not fit its neighbour.
    """
    layers: list[Affine | ReLU] = []
    inner = None
    for index, (weight, bias) in enumerate(weights):
        weight, bias = jnp.asarray(weight), jnp.asarray(bias)
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or (inner is not None and weight.shape[1] != inner):
            wanted = "any" if inner is None else inner
            raise ValueError(
                f"layer {index} has weight {weight.shape} and bias {bias.shape}: "
                f"give weight [out, {wanted}] and bias [out]"
            )
        layers += [Affine(weight, bias), ReLU()]
        inner = weight.shape[0]
    if not layers:
        raise ValueError("no weights given: a network needs at least one (weight, bias) pair")
    return Network(tuple(layers[:-1]))


def _check_init(init: str) -> None:
    if init not in INITIALISATIONS:
        raise ValueError(f"init is {init!r}, but the initialisations are {', '.join(INITIALISATIONS)}")


def _initial_affine(key: PRNGKeyArray, inner: int, outer: int, init: str, dtype) -> tuple[Array, Array]:
    weight_key, bias_key = jr.split(key)
    deviations = {"he": (2 / inner) ** 0.5, "ibp": (2 * math.pi) ** 0.5 / inner}
    if init in deviations:
        return jr.normal(weight_key, (outer, inner), dtype) * deviations[init], jnp.zeros(outer, dtype)
    reach = inner**-0.5
    weight = jr.uniform(weight_key, (outer, inner), dtype, -reach, reach)
    return weight, jr.uniform(bias_key, (outer,), dtype, -reach, reach)


def mlp(
    key: PRNGKeyArray, dim: int, widths: Sequence[int] = (100,), outputs: int = 2, init: str = "torch", dtype=None
) -> Network:
    """A ReLU network with hidden layers of the given widths (none: a linear classifier).

    `init="torch"` draws weights and biases uniformly in +-1/sqrt(fan in), PyTorch's default for a linear layer, which
    the published runs use; `init="he"` draws weights from N(0, 2/fan in) and sets biases to 0 (He et al., 2015).

    `init="ibp"` draws weights with standard deviation sqrt(2 pi)/(fan in) and sets biases to 0 (Shi et al., 2021), so
    that interval bounds neither grow nor shrink with depth.  A box of reach r [n] has reach |W| r behind an affine
    layer, in expectation n E|w| E[r] with E|w| = sd sqrt(2/pi); a ReLU halves the reach where middles are as likely
    above 0 as below, since relu(c + r) - relu(c - r) and the same at -c add up to 2 r.  So n sd sqrt(2/pi) / 2 = 1.

    Raises `ValueError` for another `init` or a size below 1.
    """
    sizes = (dim, *widths, outputs)
    _check_init(init)
    if min(sizes) < 1:
        raise ValueError(f"the layer sizes are {sizes}, but every size must be at least 1")
    dtype = jnp.result_type(float) if dtype is None else dtype
    keys = jr.split(key, len(sizes) - 1)
    pairs = [
        _initial_affine(k, inner, outer, init, dtype)
        for k, inner, outer in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    return from_weights(pairs)


def linear(key: PRNGKeyArray, dim: int, outputs: int = 1, init: str = "torch", dtype=None) -> Network:
    """A linear classifier; by default with the single output f = <w, x> + b that stands for the logits (0, f)."""
    return mlp(key, dim, (), outputs, init, dtype)


def one_neuron(theta: Float[Array, " d"], a: Float[Array, ""], b: Float[Array, ""]) -> Network:
    """f(x) = a ReLU(<theta, x>) + b as a network with one output; `train.fit(trainable=...)` freezes any part of it.

    **Source:** thesis section 4.2 (only theta_1 is trained there).
    """
    theta = jnp.asarray(theta)
    hidden = jnp.zeros(1, theta.dtype)
    return from_weights([(theta[None], hidden), (jnp.reshape(a, (1, 1)), jnp.reshape(b, (1,)))])


def affine(key: PRNGKeyArray, inner: int, outer: int, init: str = "torch", dtype=None) -> Affine:
    """One affine layer, drawn as those of `mlp`."""
    _check_init(init)
    return Affine(*_initial_affine(key, inner, outer, init, jnp.result_type(float) if dtype is None else dtype))


def convolution(
    key: PRNGKeyArray,
    shape: Shape,
    channels: int,
    kernel: int = 3,
    stride: int = 1,
    padding: int | Padding = 0,
    init: str = "torch",
    dtype=None,
) -> Convolution:
    """A convolution of an image (channels, height, width), drawn as the layers of `mlp`: fan in = channels kernel^2.

    `padding` is that of every side, or ((above, below), (left, right)).  Raises `ValueError` for another `init` or a
    kernel that does not fit.
    """
    _check_init(init)
    dtype = jnp.result_type(float) if dtype is None else dtype
    inner = shape[0] * kernel**2
    weight, bias = _initial_affine(key, inner, channels, init, dtype)
    sides = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    return Convolution(weight.reshape(channels, shape[0], kernel, kernel), bias, shape, (stride, stride), sides)


def batch_norm(shape: Shape, dtype=None) -> BatchNorm:
    """A batch normalisation that changes nothing yet; a vector of d numbers has the shape (d, 1, 1)."""
    dtype = jnp.result_type(float) if dtype is None else dtype
    zeros, ones = jnp.zeros(shape[0], dtype), jnp.ones(shape[0], dtype)
    return BatchNorm(shape, ones, zeros, zeros, ones)
