"""Attacks by gradient steps of a fixed size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.attacks.attack import Attack, Objective, each_piece, objective_of
from simulator.attacks.walk import either, total, walk_of
from simulator.networks import Network
from simulator.threats import Threat


def fgsm(network: Network, threat: Threat, x, label, objective: Objective = "cross-entropy") -> Attack:
    """One step to the edge of the threat along the gradient at x (Goodfellow et al., 2015)."""
    value = objective_of(objective, network, x, label)
    gradient = jax.grad(lambda delta: value(delta)[0])(jnp.zeros_like(x))
    # On a union, `worst` already picks the best member for the linearised objective.
    delta = threat.worst(gradient)
    return Attack(delta, value(delta)[1])


def pgd(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    *,
    steps: int = 10,
    step_size: float = 0.25,
    objective: Objective = "cross-entropy",
    start: Float[Array, " d"] | None = None,
) -> Attack:
    """Projected gradient ascent, delta <- project(delta + step_size * worst(gradient)); the best iterate is returned.

    `step_size` is a share of the radius; `start` (default 0) is projected first.  Source: Madry et al. (2018).
    """

    def on_piece(piece: Threat) -> Attack:
        walk = walk_of(network, piece, x, label, objective, start)

        def step(state, _):
            point, best, best_value = state
            (now, least), gradient = walk.ascend(point)
            best = either(now > best_value, (point, least), best)
            point = walk.project(total((1, point), (step_size, walk.uphill(gradient))))
            return (point, best, jnp.maximum(now, best_value)), None

        begin = (walk.first, (walk.first, jnp.array(jnp.inf, x.dtype)), jnp.array(-jnp.inf, x.dtype))
        (last, best, best_value), _ = jax.lax.scan(step, begin, length=steps)
        (now, least), _ = walk.ascend(last)
        return walk.attack(*either(now > best_value, (last, least), best))

    return each_piece(threat, on_piece)
