"""Auto-PGD: gradient steps with momentum whose size adapts to the progress made."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.attacks.attack import Attack, Objective, each_piece
from simulator.attacks.walk import Point, Walk, either, total, walk_of
from simulator.networks import Network
from simulator.threats import Threat


def _checkpoints(steps: int) -> list[bool]:
    """At which of the steps APGD reconsiders its step size: 0.22, 0.41, 0.57, ... of the way (Croce & Hein, 2020)."""
    share, before, marks = 0.22, 0.0, set()
    while share < 1:
        # Rounded up, but not for a share such as 0.57 that is a rounding error above the step it means.
        marks.add(math.ceil(share * steps - 1e-9))
        share, before = share + max(share - before - 0.03, 0.06), share
    return [step + 1 in marks for step in range(steps)]


class _Search(eqx.Module):
    """The state of APGD between two steps; every delta is a point of the walk."""

    delta: Point
    before: Point  # the previous one, for the momentum
    gradient: Array
    size: Array  # step size as a share of the radius
    best: tuple[Point, Array]  # the point with the largest objective, and its margin
    best_value: Array
    best_gradient: Array
    value: Array
    improved: Array  # steps since the last checkpoint that raised the objective
    since: Array  # steps since the last checkpoint
    halved: Array  # the step size was halved at the last checkpoint
    value_at_mark: Array  # best_value at the last checkpoint


def apgd(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    *,
    steps: int = 10,
    objective: Objective = "cross-entropy",
    start: Float[Array, " d"] | None = None,
) -> Attack:
    """Auto-PGD: momentum 0.75, step size from 2 radii, halved at checkpoints that show no progress.

    The best iterate is returned.  Source: Croce & Hein (2020), algorithm 1 with rho = 0.75.
    """

    def on_piece(piece: Threat) -> Attack:
        walk = walk_of(network, piece, x, label, objective, start)
        state = _begin(walk.first, *walk.ascend(walk.first))
        state, _ = jax.lax.scan(lambda s, mark: (_apgd_step(walk, s, mark), None), state, _marks(steps))
        return walk.attack(*state.best)

    return each_piece(threat, on_piece)


def _marks(steps: int) -> Array:
    return jnp.array(_checkpoints(steps), dtype=bool)


def _begin(delta: Point, found: tuple[Array, Array], gradient: Array) -> _Search:
    now, least = found
    return _Search(
        delta=delta,
        before=delta,
        gradient=gradient,
        size=jnp.full((), 2.0, now.dtype),
        best=(delta, least),
        best_value=now,
        best_gradient=gradient,
        value=now,
        improved=jnp.zeros((), jnp.int32),
        since=jnp.zeros((), jnp.int32),
        halved=jnp.zeros((), bool),
        value_at_mark=now,
    )


def _apgd_step(walk: Walk, s: _Search, mark: Array) -> _Search:
    plain = walk.project(total((1, s.delta), (s.size, walk.uphill(s.gradient))))
    delta = walk.project(total((0.5, s.delta), (0.75, plain), (-0.25, s.before)))
    (now, least), gradient = walk.ascend(delta)
    better = now > s.best_value
    best = either(better, (delta, least), s.best)
    best_value = jnp.maximum(now, s.best_value)
    best_gradient = jnp.where(better, gradient, s.best_gradient)
    improved, since = s.improved + (now > s.value).astype(jnp.int32), s.since + 1
    few = improved.astype(now.dtype) < 0.75 * since.astype(now.dtype)
    stuck = ~s.halved & (best_value <= s.value_at_mark)
    halve = mark & (few | stuck)
    return _Search(
        delta=either(halve, best[0], delta),
        before=either(halve, best[0], s.delta),
        gradient=jnp.where(halve, best_gradient, gradient),
        size=jnp.where(halve, s.size / 2, s.size),
        best=best,
        best_value=best_value,
        best_gradient=best_gradient,
        value=jnp.where(halve, best_value, now),
        improved=jnp.where(mark, 0, improved),
        since=jnp.where(mark, 0, since),
        halved=jnp.where(mark, halve, s.halved),
        value_at_mark=jnp.where(mark, best_value, s.value_at_mark),
    )
