"""Images whose signal direction is known, and a direction for those where it is not."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

CHUNK = 200
"""Images whose distances to all others are computed at once."""


def pattern(shape: tuple[int, int, int]) -> Float[Array, " d"]:
    """Vertical stripes, four periods across the image in every channel, as a unit vector."""
    stripes = jnp.cos(2 * math.pi * 4 * (jnp.arange(shape[2], dtype=float) + 0.5) / shape[2])
    image = jnp.broadcast_to(stripes, shape).reshape(-1)
    return image / jnp.linalg.norm(image)


def planted(
    key: PRNGKeyArray,
    shape: tuple[int, int, int],
    n: int,
    margin: float,
    noise: float,
    backgrounds: Float[Array, "m d"] | None = None,
) -> tuple[Float[Array, "n channels rows columns"], Int[Array, " n"], Float[Array, "n d"]]:
    """Images x with a planted pattern p, their labels y in {0, 1}, and their signal directions, unit vectors.

    x = 1/2 + s * margin * p + (I - p p^T) b with s = -1 for y = 0 and +1 for y = 1.  Backgrounds b are N(0, noise^2)
    in every pixel, or drawn from the given ones less 1/2, with `noise` added.  So <x - 1/2, p> = s * margin exactly,
    the true boundary is where it is 0, and the direction towards it is -s p.  Values may leave [0, 1].
    """
    label_key, noise_key, choice_key = jr.split(key, 3)
    p, dim = pattern(shape), math.prod(shape)
    y = jr.bernoulli(label_key, shape=(n,)).astype(jnp.int32)
    sign = 2 * y.astype(p.dtype) - 1
    b = noise * jr.normal(noise_key, (n, dim), p.dtype)
    if backgrounds is not None:
        b = b + backgrounds[jr.randint(choice_key, (n,), 0, len(backgrounds))] - 1 / 2
    b = b - jnp.outer(b @ p, p)
    x = 1 / 2 + jnp.outer(sign * margin, p) + b
    return x.reshape(n, *shape), y, -jnp.outer(sign, p)


@jax.jit
def _nearest(x, y, others, labels):
    square = jnp.sum(others**2, axis=1)[None] - 2 * x @ others.T
    return jnp.argmin(jnp.where(y[:, None] == labels[None], jnp.inf, square), axis=1)


def towards_other_classes(
    x: Float[Array, "n d"], others: Float[Array, "m d"], y: Int[Array, " n"], labels: Int[Array, " m"]
) -> Float[Array, "n d"]:
    """At every image the unit vector to the nearest of `others` with another label; 0 where that is the same image.

    A stand-in for the signal direction where the truth is not known, and never more than that.
    """
    found = jnp.concatenate(
        [_nearest(x[at : at + CHUNK], y[at : at + CHUNK], others, labels) for at in range(0, len(y), CHUNK)]
    )
    steps = others[found] - x
    lengths = jnp.linalg.norm(steps, axis=1, keepdims=True)
    return steps / jnp.where(lengths > 0, lengths, 1)
