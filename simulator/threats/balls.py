"""Balls of norms."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.threats.projections import into_ball, into_cross_polytope, norm, unit
from simulator.threats.threat import Threat, checked_radius


class L2(Threat):
    """The Euclidean ball |delta|_2 <= radius; h(w) = radius |w|_2."""

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
    symmetric = True

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * norm(w)

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._r(w) * unit(w)

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return into_ball(delta, self._r(delta))

    def axes(self, dim: int) -> Float[Array, "0 dim"]:
        return jnp.zeros((0, dim))


class LInf(Threat):
    """The box |delta|_inf <= radius; h(w) = radius |w|_1."""

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
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

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
    symmetric = True

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * jnp.sum(jnp.abs(w[1:]))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        return (self._r(w) * jnp.sign(w)).at[0].set(0)

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.clip(delta, -self._r(delta), self._r(delta)).at[0].set(0)


class L1(Threat):
    """The cross-polytope |delta|_1 <= radius; h(w) = radius |w|_inf."""

    radius: Float[Array, "..."] | float = eqx.field(converter=checked_radius)
    symmetric = True

    def support(self, w: Float[Array, " d"]) -> Float[Array, ""]:
        return self._r(w) * jnp.max(jnp.abs(w))

    def worst(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        largest = jnp.argmax(jnp.abs(w))
        return jnp.zeros_like(w).at[largest].set(self._r(w) * jnp.sign(w[largest]))

    def project(self, delta: Float[Array, " d"]) -> Float[Array, " d"]:
        return into_cross_polytope(delta, self._r(delta))
