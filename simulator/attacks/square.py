"""A random search, which needs no gradient: where it finds more than gradient steps do, those are blocked."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator.attacks.attack import Attack, Objective, each_piece, objective_of
from simulator.attacks.walk import either
from simulator.networks import Network
from simulator.threats import Threat

_LARGEST_BLOCK, _SMALLEST_STEP = 0.8, 1e-3


def square(
    key: PRNGKeyArray,
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    *,
    steps: int = 1000,
    objective: Objective = "margin",
    start: Float[Array, " d"] | None = None,
) -> Attack:
    """Random search in blocks of coordinates: a proposal is kept if it raises the objective.

    A proposal is project(delta + step * uphill(noise)), where the noise lives on a random block of coordinates: for
    most threats a move towards a random extreme point.  On `LInf` with step 2 it sets the block to plus or minus the
    radius, as the paper does; on `L1` it moves to a corner; on a segment, along it.  Unions are searched by pieces.
    `start` (default 0, that is x) is projected first.  More steps with the same key never find a smaller objective.

    Changed against the paper, so that it works for every threat and for flat inputs: a square of pixels is a run of
    neighbouring coordinates, closed to a ring; its size is drawn log-uniformly from 1 to 0.8 d at every step instead
    of shrinking by a schedule, which would depend on `steps`; signs are shared by the block or drawn for each
    coordinate, half of the time each; the step is 2 radii or, half of the time, log-uniform below that, since the worst
    point of a network need not be extreme; the l2 ball has no proposal of its own; the search starts at `start`, not
    at random stripes.

    **Source:** Andriushchenko et al. (2020), arXiv 1912.00049, algorithm 1.
    """
    value = objective_of(objective, network, x, label)

    def on_piece(piece: Threat) -> Attack:
        first = piece.project(jnp.zeros_like(x) if start is None else start)
        score, least = value(first)

        def step(state, index):
            found, best = state
            delta = _proposal(jr.fold_in(key, index), piece, found.delta)
            now, least = value(delta)
            return either(now > best, (Attack(delta, least), now), state), None

        (found, _), _ = jax.lax.scan(step, (Attack(first, least), score), jnp.arange(steps))
        return found

    return each_piece(threat, on_piece)


def _proposal(key: PRNGKeyArray, threat: Threat, delta: Float[Array, " d"]) -> Float[Array, " d"]:
    shape_key, each_key, shared_key = jr.split(key, 3)
    dim, dtype = delta.size, delta.dtype
    size, place, signs, whole, share = jr.uniform(shape_key, (5,), dtype)
    length = jnp.exp(size * jnp.log(max(_LARGEST_BLOCK * dim, 1.0)))
    offset = (jnp.arange(dim, dtype=dtype) - jnp.floor(place * dim)) % dim
    noise = jnp.where(signs < 0.5, jr.normal(each_key, (dim,), dtype), jr.normal(shared_key, (), dtype))
    step = 2 * jnp.where(whole < 0.5, 1, _SMALLEST_STEP**share)
    return threat.project(delta + step * threat.uphill(jnp.where(offset < length, noise, 0)))
