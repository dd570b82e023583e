"""Lower slopes found by gradient ascent on the bound, instead of by a rule: alpha-CROWN.

**Source:** Xu et al. (2021), Fast and complete, arXiv 2011.13824; derived from: any slope in [0, 1] is sound.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.bounds.backward import Steps, backward, bounded, resolve
from simulator.bounds.box import Box, relu_lines
from simulator.bounds.head import Head
from simulator.bounds.methods import Method
from simulator.networks import Layers
from simulator.threats import Threat

FIRST_STEP = 0.25
"""Of the search, in units of a slope; the steps shrink linearly to 0."""


def optimised_steps(
    head: Head,
    layers: Layers,
    boxes: list[Box],
    threat: Threat,
    z: Float[Array, " h"],
    row: Float[Array, " out"],
    method: Method,
) -> Steps:
    """The steps of the layers with the best slopes found for this row of the output, by `method.ascents` steps.

    Steps along the sign of the gradient, so that neurons of any weight move alike, from the slopes that `method` names;
    of all visited the best: the bound is never below the one those give.  No gradient passes through the search.
    """

    def with_slopes(slopes: list[Any]) -> Steps:
        remaining = iter(slopes)
        return bounded(layers, iter(boxes), lambda box: relu_lines(box, next(remaining), method.upper))

    def value(slopes):
        return resolve(head, threat, z, *backward(with_slopes(slopes), row))

    def ascend(state, size):
        slopes, best, best_value = state
        now, gradient = jax.value_and_grad(value)(slopes)
        best = jax.tree.map(lambda new, old: jnp.where(now > best_value, new, old), slopes, best)
        slopes = jax.tree.map(lambda slope, up: jnp.clip(slope + size * jnp.sign(up), 0, 1), slopes, gradient)
        return (slopes, best, jnp.maximum(now, best_value)), None

    start = [relu_lines(box, method.slope).below for box in boxes]
    sizes = FIRST_STEP * jnp.linspace(1, 0, method.ascents + 1, dtype=row.dtype)
    (_, best, _), _ = jax.lax.scan(ascend, (start, start, jnp.array(-jnp.inf, row.dtype)), sizes)
    return with_slopes(jax.lax.stop_gradient(best))
