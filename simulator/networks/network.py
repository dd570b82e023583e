"""Networks: pytrees of layers, called on one example; batches are `jax.vmap`.

A class label is an index 0..K-1.  Where the data say y = -1, +1, `label` maps them to 0, 1, and a network with a single
output f stands for the two logits (0, f).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.networks.layers import Affine, Layers, has_statistics, through, times, with_statistics


class Network(eqx.Module):
    """Layers applied in turn to one example: x [d] -> logits [K]."""

    layers: Layers

    def outputs(self, x: Float[Array, " d"]) -> Float[Array, " outputs"]:
        """What the last layer returns: K logits, or the single number f that stands for (0, f)."""
        return through(self.layers, x)

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


def fitted(network: Network, batch: Float[Array, "n d"]) -> Network:
    """The network with the statistics of its batch normalisations taken from these examples; without any, itself."""
    return Network(with_statistics(network.layers, batch)) if has_statistics(network.layers) else network


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


def margins(network: Network, x: Float[Array, " d"], label: Int[Array, ""]) -> Float[Array, " rivals"]:
    """logit[label] - logit[k] at x for every other class k; the prediction is right iff all are positive."""
    outputs = network.outputs(x)
    return by_row(lambda row: times(row, outputs), contrast(network, label, others(network, label)))


def cross_entropy(margins: Float[Array, " rivals"]) -> Float[Array, ""]:
    """log(1 + sum exp(-m)) of the margins against the other classes."""
    return jax.nn.logsumexp(jnp.concatenate([jnp.zeros(1, margins.dtype), -margins]))


def log_cross_entropy(margins: Float[Array, " rivals"]) -> Float[Array, ""]:
    """The logarithm of `cross_entropy`, finite for every finite margin: with t = log sum exp(-m) it is log softplus(t),
    which for t far below 0, where that underflows, is t up to exp(t) / 2."""
    t = jax.nn.logsumexp(-margins)
    far = jnp.log(jnp.finfo(t.dtype).eps)
    return jnp.where(t < far, t, jnp.log(jax.nn.softplus(jnp.maximum(t, far))))
