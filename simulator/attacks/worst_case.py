"""The exact worst case, where a closed form or an exact search knows it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.attacks.attack import Attack, weakest
from simulator.networks import Affine, Network, ReLU, contrast, margins, others
from simulator.threats import Segments, SignalDirected, Threat


def _one_hidden_layer(network: Network) -> bool:
    kinds = tuple(type(layer) for layer in network.layers)
    return kinds == (Affine, ReLU, Affine)


def has_exact(network: Network, threat: Threat) -> bool:
    """Whether `exact` can compute the worst case: linear networks and single hidden neurons for every threat;
    networks with one hidden layer on `SignalDirected` and `Segments`."""
    if len(network.layers) == 1:
        return True
    if not _one_hidden_layer(network):
        return False
    return network.layers[0].bias.shape[-1] == 1 or isinstance(threat, (SignalDirected, Segments))


def exact(network: Network, threat: Threat, x: Float[Array, " d"], label: Int[Array, ""]) -> Attack:
    """The perturbation with the smallest margin over the whole threat, in closed form or by exact search.

    - linear network: margin k is minimised at `threat.worst(-w_k)`;
    - one hidden neuron: its pre-activation covers an interval, and the margin is monotone or one-kinked on it;
    - one hidden layer, `SignalDirected` or `Segments`: the margin is piecewise linear along a segment, so its minimum
      is at a breakpoint (where a neuron switches) or at an end.

    For a union the minimum is over its members, not their hull.  Raises `ValueError` where `has_exact` is false.
    """
    if not has_exact(network, threat):
        raise ValueError(
            f"no exact worst case is known for {type(threat).__name__} on a network of {len(network.layers)} layers: "
            "use a linear network, one hidden neuron, or one hidden layer with SignalDirected or Segments"
        )
    if len(network.layers) == 1:
        rows = contrast(network, label, others(network, label)) @ network.last.weight
        candidates = jax.vmap(threat.worst)(-rows)
    elif isinstance(threat, SignalDirected):
        return _along_segment(network, threat, x, label)
    elif isinstance(threat, Segments):
        return weakest(jax.lax.map(lambda segment: _along_any(network, segment, x, label), threat.pieces()))
    else:
        theta = network.layers[0].weight[0]
        # The margin is monotone in the pre-activation: its minimum is at one end of the interval it covers.
        candidates = jnp.stack([threat.worst(theta), threat.worst(-theta)])
    return weakest(jax.vmap(lambda delta: Attack(delta, jnp.min(margins(network, x + delta, label))))(candidates))


def _along_any(network: Network, segment: SignalDirected, x: Float[Array, " d"], label: Int[Array, ""]) -> Attack:
    """`_along_segment`, without the search where the segment is a point."""

    def search(piece):
        return _along_segment(network, piece, x, label)

    def stay(piece):
        del piece
        return Attack(jnp.zeros_like(x), jnp.min(margins(network, x, label)))

    # The segments are those of all examples, so that this is a branch, not a choice between two results.
    direction, _ = segment.along(x)
    return jax.lax.cond(jnp.any(direction != 0), search, stay, segment)


def _along_segment(network: Network, segment: Any, x: Float[Array, " d"], label: Int[Array, ""]) -> Attack:
    """The smallest margin of a one-hidden-layer network over x + beta s, |beta| <= radius."""
    hidden, _, last = network.layers
    direction, radius = segment.along(x)
    at_x, along = hidden(x), hidden.weight @ direction
    moving = along != 0
    switch = jnp.where(moving, -at_x / jnp.where(moving, along, 1), 0)
    betas = jnp.concatenate([jnp.clip(switch, -radius, radius), jnp.stack([-radius, radius])])
    spec = contrast(network, label, others(network, label))

    # One neuron at a time, for all candidates: the [candidates, neurons] table would fall out of the cache.
    def add(total, neuron):
        z, slope, outgoing = neuron
        return total + jnp.outer(outgoing, jax.nn.relu(z + slope * betas)), None

    start = jnp.broadcast_to((spec @ last.bias)[:, None], (spec.shape[0], betas.size))
    margin_at, _ = jax.lax.scan(add, start, (at_x, along, (spec @ last.weight).T))
    least = jnp.min(margin_at, axis=0)
    best = jnp.argmin(least)
    return Attack(betas[best] * direction, least[best])
