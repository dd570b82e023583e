"""Nearest points of convex sets around 0, in the Euclidean norm."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def norm(w: Float[Array, " d"]) -> Float[Array, ""]:
    """The Euclidean norm with gradient 0 (a subgradient) at 0."""
    square = jnp.sum(w * w)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def unit(w: Float[Array, " d"]) -> Float[Array, " d"]:
    """w/|w|, and 0 at 0; also where the square of w is too large or too small to be a number."""
    reach = jax.lax.stop_gradient(jnp.max(jnp.abs(w), initial=0))
    w = w / jnp.where(reach > 0, reach, 1)
    length = norm(w)
    return w / jnp.where(length > 0, length, 1)


def into_ball(delta: Float[Array, " d"], radius: Float[Array, ""]) -> Float[Array, " d"]:
    """The nearest point with |delta|_2 <= radius."""
    length = norm(delta)
    return jnp.where(length > radius, delta * (radius / jnp.where(length > radius, length, 1)), delta)


def into_cross_polytope(delta: Float[Array, " d"], radius: Float[Array, ""]) -> Float[Array, " d"]:
    """The nearest point with |delta|_1 <= radius."""
    # Soft threshold at the level that leaves the norm at the radius (Duchi et al., 2008, figure 1).
    size = jnp.abs(delta)
    descending = -jnp.sort(-size)
    excess = (jnp.cumsum(descending) - radius) / jnp.arange(1, delta.size + 1, dtype=delta.dtype)
    last = jnp.maximum(jnp.sum(descending > excess), 1) - 1
    shrunk = jnp.sign(delta) * jnp.maximum(size - excess[last], 0)
    return jnp.where(jnp.sum(size) > radius, shrunk, delta)


_NEWTON_STEPS = 12


def into_ellipse(x: Float[Array, ""], y: Float[Array, ""], c: Float[Array, ""]) -> tuple[Array, Array]:
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
    along, across = edge(jax.lax.fori_loop(0, _NEWTON_STEPS, step, start))
    inside = x**2 + (y / jnp.where(c > 0, c, 1)) ** 2 <= 1
    return jnp.where(inside & (c > 0), x, along), jnp.where(inside & (c > 0), y, c * across)
