"""Unions of segments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from simulator.threats.about_signal import SignalDirected
from simulator.threats.projections import into_cross_polytope
from simulator.threats.threat import Threat, checked_radius


class Segments(Threat):
    """The union of k segments {beta u_j : |beta| <= radius} along orthonormal u_1..u_k; h(w) = radius max_j |<w, u_j>|.

    `directions` is [k, d]; `Segments.random` draws them nested in k.  `support` is that of the hull (a rotated
    cross-polytope), so a bound certifies more than the union.  **Source:** arXiv 2306.06995, section 3.
    """

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
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
        return into_cross_polytope(self.directions @ point, self._r(point)) @ self.directions

    def axes(self, dim: int) -> Float[Array, "k dim"]:
        return self.directions

    def with_axes(self, axes: Float[Array, "k r"]) -> "Segments":
        return Segments(self.radius, axes)
