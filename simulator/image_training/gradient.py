"""The gradient of a batch, all of it at once or block by block."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.image_training.placement import spread
from simulator.losses import Loss
from simulator.networks import Network, fitted, has_statistics
from simulator.threats import Threat


def mean_loss(network: Network, threat: Threat, loss: Loss, x: Float[Array, "n d"], y: Int[Array, " n"]):
    """The mean over a batch, with the statistics of batch normalisations from its clean images."""
    network = fitted(network, x)
    return jnp.mean(jax.vmap(lambda x, y: loss(network, threat, x, y))(x, y))


def mean_gradient(
    network: Network, threat: Threat, loss: Loss, x: Float[Array, "n d"], y: Int[Array, " n"], at_once: int = 0
) -> tuple[Float[Array, ""], Network]:
    """`mean_loss` and its gradient, from sums over blocks of at most `at_once` examples on every device.

    0 means all at once, and so does a batch normalisation, whose statistics are those of the whole batch.  Blocks take
    less memory, and on processors less time as soon as one fits the caches, since bounds are limited by how fast memory
    is read.
    """
    block = _block(len(y), at_once)
    if block == len(y) or has_statistics(network.layers):
        return jax.value_and_grad(mean_loss)(network, threat, loss, x, y)

    def add(sums, examples):
        value, gradient = jax.value_and_grad(mean_loss)(network, threat, loss, *examples)
        return jax.tree.map(jnp.add, sums, (value, gradient)), None

    zero = jax.tree.map(jnp.zeros_like, (jnp.zeros((), x.dtype), network))
    blocks = spread((x.reshape(-1, block, x.shape[1]), y.reshape(-1, block)), axis=1)
    sums, _ = jax.lax.scan(add, zero, blocks)
    return jax.tree.map(lambda total: total * (block / len(y)), sums)


def _block(count: int, at_once: int) -> int:
    """Examples of a block: the largest part of the batch with at most `at_once` of them on a device."""
    devices = 1 if count % len(jax.devices()) else len(jax.devices())
    own = count // devices
    return devices * max(size for size in range(1, (at_once or own) + 1) if own % size == 0)
