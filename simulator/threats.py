"""Threats: sets of perturbations, each described by three operations.

Attacks, bounds, exact losses and closed forms all go through `support`, `worst` and `project`, so every method works
for every threat.  A set contains 0; it need be neither symmetric nor convex: `support` and `worst` are those of the
convex hull, hence a bound certifies the hull, and `pieces` lists the convex members an attack has to enumerate
(projected gradient steps onto a union get stuck on one member).

The radius is an array leaf in the units of the data: sweep it inside one compiled program, or map over one radius per
example.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


def _radius(value) -> Float[Array, "..."]:
    if isinstance(value, (int, float, np.ndarray, np.number)):
        if not np.all(np.isfinite(value) & (np.asarray(value) >= 0)):
            raise ValueError(f"radius is {value}, but a threat needs a finite radius >= 0, in the units of the data")
        return jnp.asarray(value, jnp.result_type(float) if isinstance(value, int) else None)
    return value


def _share(value) -> Float[Array, "..."]:
    if isinstance(value, (int, float, np.ndarray, np.number)):
        if not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
            raise ValueError(f"share is {value}, but it is a part of the radius: give 0 <= share <= 1")
        return jnp.asarray(value, jnp.result_type(float) if isinstance(value, int) else None)
    return value


def _norm(w: Float[Array, " d"]) -> Float[Array, ""]:
    """The Euclidean norm with gradient 0 (a subgradient) at 0."""
    square = jnp.sum(w * w)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _unit(w: Float[Array, " d"]) -> Float[Array, " d"]:
    """w/|w|, and 0 at 0."""
    norm = _norm(w)
    return w / jnp.where(norm > 0, norm, 1)


def _into_ball(delta: Float[Array, " d"], radius: Float[Array, ""]) -> Float[Array, " d"]:
    norm = _norm(delta)
    return jnp.where(norm > radius, delta * (radius / jnp.where(norm > radius, norm, 1)), delta)


def _into_cross_polytope(delta: Float[Array, " d"], radius: Float[Array, ""]) -> Float[Array, " d"]:
    # Soft threshold at the level that leaves the norm at the radius (Duchi et al., 2008, figure 1).
    size = jnp.abs(delta)
    descending = -jnp.sort(-size)
    excess = (jnp.cumsum(descending) - radius) / jnp.arange(1, delta.size + 1, dtype=delta.dtype)
    last = jnp.maximum(jnp.sum(descending > excess), 1) - 1
    shrunk = jnp.sign(delta) * jnp.maximum(size - excess[last], 0)
    return jnp.where(jnp.sum(size) > radius, shrunk, delta)


_NEWTON_STEPS = 12


def _into_ellipse(x: Float[Array, ""], y: Float[Array, ""], c: Float[Array, ""]) -> tuple[Array, Array]:
    """The point of the ellipse x^2 + (y/c)^2 <= 1, 0 <= c <= 1, nearest to (x, y), y >= 0.

    Outside it is (x/(1 + t), c^2 y/(c^2 + t)) with the t > 0 that puts it on the edge: the root of
    f(t) = (x/(1 + t))^2 + (c y/(c^2 + t))^2 - 1, convex and decreasing.  Newton's steps from the larger of the two
    roots of one term alone, where 0 <= f <= 1, come from below and are quadratic soon.
    """

    def edge(t):
        least = c**2 + t
        return x / (1 + t), c * y / jnp.where(least > 0, least, 1)

    def step(_, t):
        along, across = edge(t)
        excess = along**2 + across**2 - 1
        slope = 2 * (along**2 / (1 + t) + across**2 / jnp.where(c**2 + t > 0, c**2 + t, 1))
        return jnp.maximum(t + excess / jnp.where(slope > 0, slope, 1), 0)

    start = jnp.maximum(jnp.maximum(jnp.abs(x) - 1, c * y - c**2), 0)
    along, across = edge(jax.lax.fori_loop(0, _NEWTON_STEPS, step, start, unroll=True))
    inside = x**2 + (y / jnp.where(c > 0, c, 1)) ** 2 <= 1
    return jnp.where(inside & (c > 0), x, along), jnp.where(inside & (c > 0), y, c * across)


class Threat(eqx.Module):
    """A set B of perturbations that contains 0; all vectors are [d], in the units of the data."""

    radius: eqx.AbstractVar[Float[Array, "..."] | float]
    symmetric: ClassVar[bool] = False
    """Whether -B = B, so that h(-w) = h(w) and nobody computes both."""

    @abc.abstractmethod
    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        """h(w) = max of <w, delta> over the convex hull of B: for a ball, the radius times the dual norm of w."""

    @abc.abstractmethod
    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """A member of B at which <w, delta> = h(w); the zero vector where w leaves it undefined (w = 0)."""

    @abc.abstractmethod
    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        """The member of B nearest to delta in the Euclidean norm (of a union, ties go to the lowest index)."""

    def uphill(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """A step that increases <w, .>, such that steps and projections in turn come to rest at `worst` only."""
        return self.worst(w)

    def nearest(self, point: Float[Array, " d"]) -> Float[Array, " d"]:
        """The member of the convex hull of B nearest to a point in the Euclidean norm."""
        return self.project(point)

    def at(self, x: Float[Array, " d"], signal: Float[Array, " d"]) -> "Threat":
        """The set at one example; the same everywhere unless the set is tied to the example's signal direction."""
        return self

    def axes(self, dim: int) -> Float[Array, "k dim"]:
        """Directions that fix the set: every rotation that leaves them in place leaves the set as it is.

        Raises `ValueError` if there are none, because the set depends on the coordinates or is not placed yet.
        """
        raise ValueError(f"{type(self).__name__} depends on the coordinates: use it in the coordinates of the data")

    def with_axes(self, axes: Float[Array, "k r"]) -> "Threat":
        """The same set in a space in which its axes are these."""
        return self

    def least_through(self, weight: Float[Array, "h d"], row: Float[Array, " h"]) -> Float[Array, ""]:
        """The least of <weight^T row, delta> over B, -h(-weight^T row).

        A threat with few directions pushes those through `weight` instead of pulling the row back to d dimensions.
        """
        # Negated behind the product, where that costs a batch nothing.
        return -self.support(-(row @ weight))

    def worst_through(self, weight: Float[Array, "h d"], row: Float[Array, " h"]) -> Float[Array, " d"]:
        """The `worst` of weight^T row."""
        return self.worst(row @ weight)

    def pieces(self) -> "Threat | None":
        """The convex members of a union, stacked along a leading axis; None if the set is convex itself."""
        return None

    def _r(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.asarray(self.radius, w.dtype)


class L2(Threat):
    """The Euclidean ball |delta|_2 <= radius; h(w) = radius |w|_2."""

    radius: Float[Array, "..."] | float = eqx.field(converter=_radius)
    symmetric = True

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * _norm(w)

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._r(w) * _unit(w)

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return _into_ball(delta, self._r(delta))

    def axes(self, dim: int) -> Float[Array, "0 dim"]:
        return jnp.zeros((0, dim))


class LInf(Threat):
    """The box |delta|_inf <= radius; h(w) = radius |w|_1."""

    radius: Float[Array, "..."] | float = eqx.field(converter=_radius)
    symmetric = True

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * jnp.sum(jnp.abs(w))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._r(w) * jnp.sign(w)

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.clip(delta, -self._r(delta), self._r(delta))


class ConsistentLInf(Threat):
    """The box |delta|_inf <= radius, delta_1 = 0: perturbations that leave the first coordinate, the truth, alone.

    h(w) = radius |w_2..d|_1.  **Source:** Donhauser et al. (2021), arXiv 2108.02883, section 2.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=_radius)
    symmetric = True

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * jnp.sum(jnp.abs(w[1:]))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return (self._r(w) * jnp.sign(w)).at[0].set(0)

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.clip(delta, -self._r(delta), self._r(delta)).at[0].set(0)


class L1(Threat):
    """The cross-polytope |delta|_1 <= radius; h(w) = radius |w|_inf."""

    radius: Float[Array, "..."] | float = eqx.field(converter=_radius)
    symmetric = True

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * jnp.max(jnp.abs(w))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        largest = jnp.argmax(jnp.abs(w))
        return jnp.zeros_like(w).at[largest].set(self._r(w) * jnp.sign(w[largest]))

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return _into_cross_polytope(delta, self._r(delta))


class _AboutSignal(Threat):
    """A set that is round about one direction: that of the signal, given or each example's own."""

    symmetric = True

    @property
    @abc.abstractmethod
    def direction(self) -> Float[Array, "..."] | None:
        """The unit vector [d] of the signal; None where each example has its own."""

    def at(self, x: Float[Array, " d"], signal: Float[Array, " d"]) -> Threat:
        return self.with_axes(signal[None]) if self.direction is None else self

    def axes(self, dim: int) -> Float[Array, "1 dim"]:
        return _direction(self)[None]

    def with_axes(self, axes: Float[Array, "1 r"]) -> Threat:
        return eqx.tree_at(lambda t: t.direction, self, axes[0], is_leaf=lambda leaf: leaf is None)


class SignalDirected(_AboutSignal):
    """The segment {beta s : |beta| <= radius}; h(w) = radius |<w, s>|.

    Without a `direction` (a unit vector [d]) the segment lies along the signal direction of each example: call
    `at(x, signal)` first.  **Source:** thesis section 4.1.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=_radius)
    direction: Float[Array, "..."] | None = None

    def along(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The direction and the radius of the segment, in the precision of x."""
        return _direction(self).astype(x.dtype), self._r(x)

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * jnp.abs(w @ _direction(self))

    def least_through(self, weight: Float[Array, "h d"], row: Float[Array, " h"]) -> Float[Array, ""]:
        return -self._r(row) * jnp.abs(row @ (weight @ _direction(self)))

    def worst_through(self, weight: Float[Array, "h d"], row: Float[Array, " h"]) -> Float[Array, " d"]:
        s = _direction(self)
        return self._r(row) * jnp.sign(row @ (weight @ s)) * s

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        s = _direction(self)
        return self._r(w) * jnp.sign(w @ s) * s

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        s = _direction(self)
        return jnp.clip(delta @ s, -self._r(delta), self._r(delta)) * s


class Orthogonal(_AboutSignal):
    """The l2 ball in the complement of the signal, {|delta|_2 <= radius, <s, delta> = 0}: consistent perturbations.

    h(w) = radius |w - <w, s> s|_2.  Without a `direction` the complement is that of each example's own signal
    direction: call `at(x, signal)` first.  **Source:** Donhauser et al. (2021), arXiv 2108.02883, section 2.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=_radius)
    direction: Float[Array, "..."] | None = None

    def _across(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        s = _direction(self)
        return w - (w @ s) * s

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * _norm(self._across(w))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        # Projected twice: when w is almost parallel to s, what is left after once is rounding, not orthogonal to s.
        return self._r(w) * self._across(_unit(self._across(w)))

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return _into_ball(self._across(delta), self._r(delta))


class Spheroid(_AboutSignal):
    r"""A ball flattened across the signal: semi-axis radius along it, (1 - share) radius across it.

    What a budget does that is spent in every direction (share = 0, the l2 ball), along the signal alone (share = 1,
    `SignalDirected`), or between: whatever the share, it reaches as far along the signal.  With c = 1 - share and the
    symmetric map S w = <w, s> s + c (w - <w, s> s) it is radius times the image of the unit ball, so that
    h(w) = radius |S w|.  Without a `direction` s is each example's own: call `at(x, signal)` first.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=_radius)
    share: Float[Array, "..."] | float = eqx.field(converter=_share)
    direction: Float[Array, "..."] | None = None

    def _flattened(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        s = _direction(self)
        along = (w @ s) * s
        return along + (1 - jnp.asarray(self.share, w.dtype)) * (w - along)

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * _norm(self._flattened(w))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._r(w) * self._flattened(_unit(self._flattened(w)))

    def uphill(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        # Along `worst` they would rest where that, not w, is normal to the surface.
        return self._r(w) * _unit(w)

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        s, r = _direction(self), self._r(delta)
        scale = jnp.where(r > 0, r, 1)
        along = (delta @ s) / scale
        across = delta / scale - along * s
        a, b = _into_ellipse(along, _norm(across), 1 - jnp.asarray(self.share, delta.dtype))
        return r * (a * s + b * _unit(across))


class Segments(Threat):
    """The union of k segments {beta u_j : |beta| <= radius} along orthonormal u_1..u_k; h(w) = radius max_j |<w, u_j>|.

    `directions` is [k, d]; `Segments.random` draws them nested in k.  `support` is that of the hull (a rotated
    cross-polytope), so a bound certifies more than the union.  **Source:** arXiv 2306.06995, section 3.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=_radius)
    directions: Float[Array, "k d"]
    symmetric = True

    @staticmethod
    def random(key: PRNGKeyArray, dim: int, k: int, radius) -> "Segments":
        """k uniformly random orthonormal directions; the first k-1 are those drawn for k-1 with the same key.

        Raises `ValueError` unless 1 <= k <= dim.
        """
        if not 1 <= k <= dim:
            raise ValueError(f"k is {k}, but there are between 1 and dim = {dim} orthonormal segments")
        columns = jax.vmap(lambda j: jr.normal(jr.fold_in(key, j), (dim,)))(jnp.arange(k))
        q, r = jnp.linalg.qr(columns.T)
        return Segments(radius, (q * jnp.sign(jnp.diag(r))[None]).T)

    def pieces(self) -> SignalDirected:
        k = self.directions.shape[0]
        return SignalDirected(jnp.broadcast_to(self.radius, (k,)), self.directions)

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * jnp.max(jnp.abs(self.directions @ w))

    def least_through(self, weight: Float[Array, "h d"], row: Float[Array, " h"]) -> Float[Array, ""]:
        return -self._r(row) * jnp.max(jnp.abs(row @ (weight @ self.directions.T)))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        along = self.directions @ w
        j = jnp.argmax(jnp.abs(along))
        return self._r(w) * jnp.sign(along[j]) * self.directions[j]

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        along = self.directions @ delta
        reach = jnp.clip(along, -self._r(delta), self._r(delta))
        # |delta - p u|^2 = |delta|^2 - (2 p <delta, u> - p^2): the nearest member maximises the bracket.
        j = jnp.argmax(2 * reach * along - reach**2)
        return reach[j] * self.directions[j]

    def nearest(self, point: Float[Array, " d"]) -> Float[Array, " d"]:
        return _into_cross_polytope(self.directions @ point, self._r(point)) @ self.directions

    def axes(self, dim: int) -> Float[Array, "k dim"]:
        return self.directions

    def with_axes(self, axes: Float[Array, "k r"]) -> "Segments":
        return Segments(self.radius, axes)


def _direction(threat: _AboutSignal) -> Float[Array, " d"]:
    if threat.direction is None:
        raise ValueError(f"{type(threat).__name__} has no direction here: give one, or call at(x, signal) first")
    return threat.direction
