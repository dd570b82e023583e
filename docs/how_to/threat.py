"""A box with a side of its own for every coordinate: |delta_i| <= radius * scale_i."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator import threats


class Scaled(threats.Threat):
    """{|delta_i| <= radius * scale_i}; h(w) = radius * sum of scale_i |w_i|."""

    radius: Float[Array, "..."] | float = eqx.field(converter=jnp.asarray)
    scale: Float[Array, " d"]
    symmetric = True

    def support(self, w):
        return self.radius * jnp.sum(self.scale * jnp.abs(w))

    def worst(self, w):
        return self.radius * self.scale * jnp.sign(w)

    def project(self, delta):
        return jnp.clip(delta, -self.radius * self.scale, self.radius * self.scale)
