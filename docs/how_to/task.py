"""Data that no linear classifier separates: one class between the two halves of the other."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from simulator import data


class Slab(data.Task):
    """x_1 = +-width/2 (y = +1) or +-3 width/2 (y = -1), the others N(0, 1); the truth changes at |x_1| = width."""

    dim: int = eqx.field(static=True)
    width: Float[Array, ""]
    folded: int = eqx.field(static=True, default=0)

    def sample(self, key, n):
        label_key, side_key, noise_key = jr.split(key, 3)
        y, side = jr.rademacher(label_key, (n,)), jr.rademacher(side_key, (n,), self.width.dtype)
        return jr.normal(noise_key, (n, self.dim)).at[:, 0].set(side * jnp.where(y > 0, 0.5, 1.5) * self.width), y

    def signal(self, x, y):
        return jnp.zeros_like(x).at[0].set(y.astype(x.dtype) * jnp.sign(x[0]))

    def axes(self):
        return jnp.eye(1, self.dim)

    def folded_to(self, axes):
        raise ValueError("Slab has no folded form: train it by train.fit, not in a span")
