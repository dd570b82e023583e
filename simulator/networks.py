"""Networks: pytrees of layers, called on one example; batches are `jax.vmap`.

A class label is an index 0..K-1.  Where the data say y = -1, +1, `label` maps them to 0, 1, and a network with a single
output f stands for the two logits (0, f).
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

INITIALISATIONS = ("torch", "he")


class Affine(eqx.Module):
    """z -> weight @ z + bias, with weight [out, in] and bias [out]."""

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]

    def __call__(self, z: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weight @ z + self.bias


class ReLU(eqx.Module):
    """z -> max(z, 0), coordinate by coordinate."""

    def __call__(self, z: Float[Array, " width"]) -> Float[Array, " width"]:
        return jax.nn.relu(z)


Layers = tuple[Any, ...]
"""Affine, ReLU, Affine, ..., Affine in turn."""


class Network(eqx.Module):
    """Layers applied in turn to one example: x [d] -> logits [K]."""

    layers: Layers

    def outputs(self, x: Float[Array, " d"]) -> Float[Array, " outputs"]:
        """What the last layer returns: K logits, or the single number f that stands for (0, f)."""
        for layer in self.layers:
            x = layer(x)
        return x

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " K"]:
        """The logits [K] at one example [d]; K >= 2 always."""
        return readout(self) @ self.outputs(x)

    @property
    def last(self) -> Affine:
        """The output layer."""
        return self.layers[-1]

    @property
    def classes(self) -> int:
        """The number of classes K >= 2."""
        return max(2, self.last.bias.shape[-1])


def readout(network: Network) -> Float[Array, "K outputs"]:
    """The matrix from outputs to logits: the identity, or [[0], [1]] for a single output."""
    outputs, dtype = network.last.bias.shape[-1], network.last.bias.dtype
    return jnp.eye(2, dtype=dtype)[:, 1:] if outputs == 1 else jnp.eye(outputs, dtype=dtype)


def label(y: Int[Array, "..."]) -> Int[Array, "..."]:
    """The class index of y: -1 -> 0 and +1 -> 1; an index 0..K-1 stays as it is."""
    return jnp.maximum(y, 0)


def others(network: Network, label: Int[Array, ""]) -> Int[Array, " rivals"]:
    """The classes other than `label`, in cyclic order after it."""
    label = jnp.asarray(label)
    return (label + 1 + jnp.arange(network.classes - 1, dtype=label.dtype)) % network.classes


def contrast(network: Network, label: Int[Array, ""], rivals: Int[Array, " m"]) -> Float[Array, "m outputs"]:
    """Rows C with C @ outputs = logit[label] - logit[rival]: zero where rival = label."""
    logits = readout(network)
    return logits[label][None] - logits[rivals]


def by_row(function: Callable[[Array], Any], rows: Float[Array, "m ..."]) -> Any:
    """`function` of every row, stacked along the leading axis.

    A single row is not mapped over: an axis of length 1 in the middle of a batch makes its sums and products slower.
    """
    if rows.shape[0] == 1:
        return jax.tree.map(lambda leaf: leaf[None], function(rows[0]))
    return jax.vmap(function)(rows)


def times(row: Float[Array, " outputs"], values: Float[Array, "outputs ..."]) -> Float[Array, "..."]:
    """row @ values; for a single output an elementwise product, which costs a batch of examples far less."""
    return row @ values if row.shape[0] > 1 else row[0] * values[0]


def margins(network: Network, x: Float[Array, " d"], label: Int[Array, ""]) -> Float[Array, " rivals"]:
    """logit[label] - logit[k] at x for every other class k; the prediction is right iff all are positive."""
    outputs = network.outputs(x)
    return by_row(lambda row: times(row, outputs), contrast(network, label, others(network, label)))


def cross_entropy(margins: Float[Array, " rivals"]) -> Float[Array, ""]:
    """log(1 + sum exp(-m)) of the margins against the other classes."""
    return jax.nn.logsumexp(jnp.concatenate([jnp.zeros(1, margins.dtype), -margins]))


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


def _initial_affine(key: PRNGKeyArray, inner: int, outer: int, init: str, dtype) -> tuple[Array, Array]:
    weight_key, bias_key = jr.split(key)
    if init == "he":
        return jr.normal(weight_key, (outer, inner), dtype) * (2 / inner) ** 0.5, jnp.zeros(outer, dtype)
    reach = inner**-0.5
    weight = jr.uniform(weight_key, (outer, inner), dtype, -reach, reach)
    return weight, jr.uniform(bias_key, (outer,), dtype, -reach, reach)


def mlp(
    key: PRNGKeyArray, dim: int, widths: Sequence[int] = (100,), outputs: int = 2, init: str = "torch", dtype=None
) -> Network:
    """A ReLU network with hidden layers of the given widths (none: a linear classifier).

    `init="torch"` draws weights and biases uniformly in +-1/sqrt(fan in), PyTorch's default for a linear layer, which
    the published runs use; `init="he"` draws weights from N(0, 2/fan in) and sets biases to 0 (He et al., 2015).
    Raises `ValueError` for another `init` or a size below 1.
    """
    sizes = (dim, *widths, outputs)
    if init not in INITIALISATIONS:
        raise ValueError(f"init is {init!r}, but the initialisations are {', '.join(INITIALISATIONS)}")
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
