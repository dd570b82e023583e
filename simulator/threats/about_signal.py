"""Threats that are round about the signal direction."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.threats.projections import into_ball, into_ellipse, norm, unit
from simulator.threats.threat import Threat, checked_radius, checked_share


class _AboutSignal(Threat):
    """A set that is round about one direction: that of the signal, given or each example's own."""

    symmetric = True

    @property
    @abc.abstractmethod
    def direction(self) -> Float[Array, "..."] | None:
        """The unit vector [d] of the signal; None where each example has its own."""

    def at(self, x: Float[Array, " d"], signal: Float[Array, " d"] | None = None) -> Threat:
        return self if signal is None or self.direction is not None else self.with_axes(signal[None])

    def axes(self, dim: int) -> Float[Array, "1 dim"]:
        return _direction(self)[None]

    def with_axes(self, axes: Float[Array, "1 r"]) -> Threat:
        return eqx.tree_at(lambda t: t.direction, self, axes[0], is_leaf=lambda leaf: leaf is None)


class SignalDirected(_AboutSignal):
    """The segment {beta s : |beta| <= radius}; h(w) = radius |<w, s>|.

    Without a `direction` (a unit vector [d]) the segment lies along the signal direction of each example: call
    `at(x, signal)` first.  **Source:** thesis section 4.1.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
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

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
    direction: Float[Array, "..."] | None = None

    def _across(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        s = _direction(self)
        return w - (w @ s) * s

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * norm(self._across(w))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        # Projected twice: when w is almost parallel to s, what is left after once is rounding, not orthogonal to s.
        return self._r(w) * self._across(unit(self._across(w)))

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return into_ball(self._across(delta), self._r(delta))


class Spheroid(_AboutSignal):
    r"""A ball flattened across the signal: semi-axis radius along it, (1 - share) radius across it.

    What a budget does that is spent in every direction (share = 0, the l2 ball), along the signal alone (share = 1,
    `SignalDirected`), or between: whatever the share, it reaches as far along the signal.  With c = 1 - share and the
    symmetric map S w = <w, s> s + c (w - <w, s> s) it is radius times the image of the unit ball, so that
    h(w) = radius |S w|.  Without a `direction` s is each example's own: call `at(x, signal)` first.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
    share: Float[Array, "..."] | float = eqx.field(converter=checked_share)
    direction: Float[Array, "..."] | None = None

    def _flattened(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        s = _direction(self)
        along = (w @ s) * s
        return along + (1 - jnp.asarray(self.share, w.dtype)) * (w - along)

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * norm(self._flattened(w))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._r(w) * self._flattened(unit(self._flattened(w)))

    def uphill(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        # Along `worst` they would rest where that, not w, is normal to the surface.
        return self._r(w) * unit(w)

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        s, r = _direction(self), self._r(delta)
        scale = jnp.where(r > 0, r, 1)
        along = (delta @ s) / scale
        across = delta / scale - along * s
        a, b = into_ellipse(along, norm(across), 1 - jnp.asarray(self.share, delta.dtype))
        return r * (a * s + b * unit(across))


def _direction(threat: _AboutSignal) -> Float[Array, " d"]:
    if threat.direction is None:
        raise ValueError(f"{type(threat).__name__} has no direction here: give one, or call at(x, signal) first")
    return threat.direction
