"""The smallest radius at which an adversarial example is found, for threats radius * B."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.attacks.attack import Attack
from simulator.attacks.walk import either
from simulator.networks import Network, margins
from simulator.threats import Threat

_LARGEST_BIAS, _OVERSHOOT, _BACKWARD = 0.1, 1.05, 0.9
_GAUGE_STEPS, _STRAIGHTENED = 60, 3


class MinimumNorm(eqx.Module):
    """The adversarial example of smallest radius that was found."""

    radius: Float[Array, ""]
    """0 where x itself is misclassified, infinite where none was found."""
    delta: Float[Array, " d"]
    """A member of the threat of this radius; 0 where none was found."""
    margin: Float[Array, ""]
    """The smallest margin at x + delta: not positive where one was found."""


def fab(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    *,
    steps: int = 100,
    starts: Float[Array, "starts d"] | None = None,
) -> MinimumNorm:
    """A fast adaptive boundary attack: the smallest radius r such that some delta in r B is misclassified.

    Of the threat radius * B only the shape B counts, not its radius.  The boundary to a rival, linearised at the
    current point, is a hyperplane {<w, delta> = c}; r B reaches it at r = c / h_1(w), with h_1 the support of B, at
    r times the `worst` of B.  A step goes from the current point and, with a share of at most 0.1, from x onto the
    hyperplane that the current point is nearest to, 5 % beyond it; from a misclassified point it goes back towards x
    by 10 %.  In the end bisection finds where the segment from x to the best point crosses the boundary, and where the
    one to the hyperplane there does.  Exact for linear networks.  Unions are searched piece by piece.

    `starts` are the perturbations to start from, one run each, projected onto the threat first; by default x itself.

    Changed against the paper: the norm of a point is the gauge of B, which is computed from `project`; there is no box
    of valid inputs; the last search is a bisection of full precision, and is repeated from the boundary it finds.  Of a
    set that is not radius * B but cut by the range of the data what is found is a member, the gauge a guide only.

    **Source:** Croce & Hein (2020), arXiv 1907.02044, algorithm 1 with its alpha_max = 0.1, eta = 1.05, beta = 0.9.
    """
    starts = jnp.zeros_like(x)[None] if starts is None else starts

    def on_piece(piece: Threat) -> MinimumNorm:
        unit = piece.with_radius(jnp.ones((), x.dtype))
        return _nearest(
            jax.lax.map(lambda start: _search(network, unit, x, label, steps, piece.project(start)), starts)
        )

    pieces = threat.pieces()
    return on_piece(threat) if pieces is None else _nearest(jax.vmap(on_piece)(pieces))


def within(found: MinimumNorm, network: Network, threat: Threat, x: Float[Array, " d"], label) -> Attack:
    """What a minimum-norm attack says at the radius of the threat: its example if that is a member, else x itself."""
    inside = found.radius <= jnp.asarray(threat.radius, x.dtype)
    stay = Attack(jnp.zeros_like(x), jnp.min(margins(network, x, label)))
    return either(inside, Attack(found.delta, found.margin), stay)


def _nearest(found: MinimumNorm) -> MinimumNorm:
    best = jnp.argmin(found.radius)
    return jax.tree.map(lambda leaf: leaf[best], found)


def gauge(unit: Threat, delta: Float[Array, " d"]) -> Float[Array, ""]:
    """The smallest r with delta in r B, up to rounding, for a delta in the span of the convex set B of radius 1.

    The distance D(r) of delta to r B is convex in r, and where delta - project(delta) = w its slope is -h_1(w) / |w|.
    So Newton's steps r + |w|^2 / h_1(w) rise to the smallest root; the first one, from r = 0, is exact for a ball.
    """
    size = jnp.max(jnp.abs(delta))
    delta = delta / jnp.where(size > 0, size, 1)
    # A point of a segment is off its line by rounding, along which B does not reach at all.
    slack = 32 * jnp.finfo(delta.dtype).eps * jnp.linalg.norm(delta)

    def unfinished(state):
        _, rest, count = state
        return (jnp.linalg.norm(rest) > slack) & (unit.support(rest) > 0) & (count < _GAUGE_STEPS)

    def step(state):
        radius, rest, count = state
        radius = radius + (rest @ rest) / unit.support(rest)
        return radius, delta - unit.with_radius(radius).project(delta), count + 1

    radius, _, _ = jax.lax.while_loop(unfinished, step, (jnp.zeros_like(size), delta, jnp.zeros((), jnp.int32)))
    return size * radius


def _search(network: Network, unit: Threat, x, label, steps: int, start: Float[Array, " d"]) -> MinimumNorm:
    def least(delta):
        return jnp.min(margins(network, x + delta, label))

    def step(state, _):
        delta, best = state
        ahead = _ahead(network, unit, x, label, delta)
        radius = gauge(unit, ahead)
        member = unit.with_radius(radius).project(ahead)
        margin = least(member)
        best = either((margin <= 0) & (radius < best.radius), MinimumNorm(radius, member, margin), best)
        return (jnp.where(margin <= 0, _BACKWARD, 1) * ahead, best), None

    clean = least(jnp.zeros_like(x))
    begin = MinimumNorm(jnp.where(clean <= 0, 0, jnp.inf).astype(x.dtype), jnp.zeros_like(x), clean)
    (_, best), _ = jax.lax.scan(step, (start, begin), length=steps)

    def straighten(_, best):
        _, straight = _boundary(network, unit, x, label, best.delta)
        radius = _OVERSHOOT * straight.radius
        member = unit.with_radius(radius).project(_OVERSHOOT * straight.delta)
        margin = least(member)
        wrong = jnp.isfinite(best.radius) & (margin <= 0)
        other = _first_crossing(unit, either(wrong, MinimumNorm(radius, member, margin), best), least)
        return either(other.radius < best.radius, other, best)

    return jax.lax.fori_loop(0, _STRAIGHTENED, straighten, _first_crossing(unit, best, least))


def _ahead(network: Network, unit: Threat, x, label, delta: Float[Array, " d"]) -> Float[Array, " d"]:
    """The biased step onto the nearest linearised boundary, from delta and from x, and beyond."""
    near, back = _boundary(network, unit, x, label, delta)
    # Where the network is flat no step is known, and the point drifts back towards x.
    both = near.radius + back.radius
    moves = jnp.isfinite(both) & (both > 0)
    bias = jnp.where(moves, jnp.minimum(near.radius / jnp.where(moves, both, 1), _LARGEST_BIAS), _LARGEST_BIAS)
    ahead = (1 - bias) * (delta + _OVERSHOOT * near.delta) + bias * _OVERSHOOT * back.delta
    # A step that left the range of the numbers, where the network is almost flat, starts again from x.
    return jnp.where(jnp.all(jnp.isfinite(ahead)), ahead, 0)


class _Step(eqx.Module):
    """A step onto a hyperplane, and the radius of the threat it needs: infinite, with no step, if there is none."""

    radius: Float[Array, ""]
    delta: Float[Array, " d"]


def _boundary(network: Network, unit: Threat, x, label, delta: Float[Array, " d"]) -> tuple[_Step, _Step]:
    """The steps from delta and from x onto the boundary linearised at delta, to the rival nearest to delta."""

    def value(delta):
        return margins(network, x + delta, label)

    found, slopes = value(delta), jax.jacrev(value)(delta)
    at_x = found - slopes @ delta
    rival = jnp.argmin(jax.vmap(lambda margin, slope: _onto(unit, margin, slope).radius)(found, slopes))
    return _onto(unit, found[rival], slopes[rival]), _onto(unit, at_x[rival], slopes[rival])


def _onto(unit: Threat, margin: Float[Array, ""], slope: Float[Array, " d"]) -> _Step:
    """To where r B reaches {margin + <slope, delta> = 0}: at r = |margin| / h_1(w) with w = -+ slope."""
    w = -jnp.sign(margin) * slope
    reach = unit.support(w)
    distance = jnp.abs(margin) / jnp.where(reach > 0, reach, 1)
    radius = jnp.where(margin == 0, 0, jnp.where(reach > 0, distance, jnp.inf))
    return _Step(radius, jnp.where(jnp.isfinite(radius), radius, 0) * unit.worst(w))


def _first_crossing(unit: Threat, best: MinimumNorm, least) -> MinimumNorm:
    """A smallest radius on the way from x to the best point, by bisection between a right and a misclassified point."""
    found = jnp.isfinite(best.radius) & (best.radius > 0)
    outer = jnp.where(found, best.radius, 0)
    direction = best.delta / jnp.where(found, best.radius, 1)

    def halve(_, state):
        right, wrong = state
        radius = (right + wrong.radius) / 2
        delta = unit.with_radius(radius).project(radius * direction)
        margin = least(delta)
        middle = MinimumNorm(radius, delta, margin)
        return jnp.where(margin <= 0, right, radius), either(margin <= 0, middle, wrong)

    begin = jnp.zeros_like(outer), MinimumNorm(outer, best.delta, best.margin)
    _, wrong = jax.lax.fori_loop(0, jnp.finfo(outer.dtype).nmant + 2, halve, begin)
    return either(found, wrong, best)
