"""Balls cut by the range of the data: what a perturbed image may be."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.threats.projections import norm, unit
from simulator.threats.threat import Threat, checked_radius


class _InBox(Threat):
    """The members of a ball that keep every coordinate of x + delta in [low, high], for an x that lies there.

    Without an example the box is nowhere: call `at(x)` first.  Outside of [low, high] x itself stays allowed.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
    low: Float[Array, "..."] | float
    high: Float[Array, "..."] | float
    x: Float[Array, "..."] | None = None

    def at(self, x: Float[Array, " d"], signal: Float[Array, " d"] | None = None) -> "_InBox":
        return type(self)(self.radius, self.low, self.high, x)

    def _room(self, w: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """The least and the greatest change of every coordinate, around 0."""
        if self.x is None:
            raise ValueError(f"{type(self).__name__} depends on the example: call at(x) first")
        low, high = (jnp.asarray(end, w.dtype) - self.x for end in (self.low, self.high))
        return jnp.minimum(low, 0), jnp.maximum(high, 0)


class LInfInBox(_InBox):
    """{|delta|_inf <= radius, low <= x + delta <= high}: a box; h(w) = sum of max(w_i a_i, w_i b_i) over its sides."""

    def _sides(self, w: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        low, high = self._room(w)
        return jnp.maximum(low, -self._r(w)), jnp.minimum(high, self._r(w))

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(w * self.worst(w))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        low, high = self._sides(w)
        return jnp.where(w > 0, high, jnp.where(w < 0, low, 0))

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.clip(delta, *self._sides(delta))


class L2InBox(_InBox):
    r"""{|delta|_2 <= radius, low <= x + delta <= high}.

    With [a, b] the room of every coordinate, h(w) is the least over lam >= 0 of
    lam radius^2 + sum_i max over a_i <= d <= b_i of (w_i d - lam d^2), any lam giving an upper bound.  The maximiser is
    clip(t w, a, b), t = 1/(2 lam), whose length grows with t: the t at which it is the radius is found exactly between
    the values at which coordinates reach their ends.  **Source:** derived here; the projection is the same clip of
    t delta with t <= 1.
    """

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        low, high = self._room(w)
        t = jax.lax.stop_gradient(_factor(w, low, high, self._r(w)))
        # The whole box is inside of the ball where no t is enough; there the multiplier is 0.
        far = jnp.isinf(t)
        weight = jnp.where(far, 0, 0.5 / jnp.where(far | (t <= 0), 1, t))
        delta = jax.lax.stop_gradient(_clipped(w, low, high, t))
        return jnp.sum(w * delta) + weight * (self._r(w) ** 2 - jnp.sum(delta**2))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        low, high = self._room(w)
        return self._inside(_clipped(w, low, high, _factor(w, low, high, self._r(w))))

    def uphill(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._r(w) * unit(w)

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        low, high = self._room(delta)
        return self._inside(_clipped(delta, low, high, jnp.minimum(_factor(delta, low, high, self._r(delta)), 1)))

    def _inside(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        length = norm(delta)
        over = length > self._r(delta)
        return jnp.where(over, delta * (self._r(delta) / jnp.where(over, length, 1)), delta)


def _clipped(w: Float[Array, " d"], low: Float[Array, " d"], high: Float[Array, " d"], t: Float[Array, ""]) -> Array:
    """clip(t w, low, high), for infinite t its limit."""
    moved = jnp.where(w == 0, 0, jnp.where(jnp.isinf(t), jnp.sign(w) * jnp.inf, jnp.where(jnp.isinf(t), 0, t) * w))
    return jnp.clip(moved, low, high)


def _factor(
    w: Float[Array, " d"], low: Float[Array, " d"], high: Float[Array, " d"], radius: Float[Array, ""]
) -> Float[Array, ""]:
    """The t >= 0 at which clip(t w, low, high) has the length `radius`; infinite where it never gets there."""
    room = jnp.where(w > 0, high, -low)
    moves = (w != 0) & (room > 0)
    ends = jnp.where(moves, room / jnp.where(moves, jnp.abs(w), 1), jnp.inf)
    order = jnp.argsort(ends)
    ends, square = ends[order], jnp.where(moves, w**2, 0)[order]
    reached = jnp.where(moves, room**2, 0)[order]
    # Before the k-th end the first k coordinates stand at theirs.
    still = jnp.concatenate([jnp.zeros(1, w.dtype), jnp.cumsum(reached)[:-1]])
    free = jnp.cumsum(square[::-1])[::-1]
    finite = jnp.isfinite(ends)
    length = jnp.where(finite, still + free * jnp.where(finite, ends, 0) ** 2, 0)
    enough = finite & (length >= radius**2)
    first = jnp.argmax(enough)
    t = jnp.sqrt(jnp.maximum(radius**2 - still[first], 0) / jnp.where(enough[first], free[first], 1))
    return jnp.where(jnp.any(enough), t, jnp.inf)
