"""What a step does to its images: grey values from bytes, random windows and mirror images; all inside the program."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Num, PRNGKeyArray

from simulator.networks import Shape


def centred(images: Num[Array, "n channels rows columns"], shape: Shape, levels: int, dtype) -> Float[Array, "n d"]:
    """Vectors of values in [0, 1], cut to the middle of the images where the network reads smaller ones."""
    rows, columns = ((have - want) // 2 for have, want in zip(images.shape[2:], shape[1:], strict=True))
    window = images[:, :, rows : rows + shape[1], columns : columns + shape[2]]
    return window.reshape(window.shape[0], math.prod(shape)).astype(dtype) / levels


def augmented(
    key: PRNGKeyArray,
    images: Num[Array, "n channels rows columns"],
    shape: Shape,
    levels: int,
    dtype,
    *,
    padding: int,
    flip: bool,
) -> Float[Array, "n d"]:
    """Vectors of values in [0, 1] of a random window of every image, and with `flip` of every other one mirrored.

    Windows have the size the network reads; `padding` zeros are put around the image first.
    """
    sides = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    padded = jnp.pad(images, sides) if padding else images
    room = [have - want for have, want in zip(padded.shape[2:], shape[1:], strict=True)]
    if not any(room) and not flip:
        return centred(images, shape, levels, dtype)
    window_key, flip_key = jr.split(key)
    keys = jr.split(window_key)
    above, left = (jr.randint(key, images.shape[:1], 0, most + 1) for key, most in zip(keys, room, strict=True))
    windows = jax.vmap(lambda image, i, j: jax.lax.dynamic_slice(image, (0, i, j), shape))(padded, above, left)
    if flip:
        mirrored = jr.bernoulli(flip_key, shape=(images.shape[0], 1, 1, 1))
        windows = jnp.where(mirrored, windows[..., ::-1], windows)
    return windows.reshape(images.shape[0], -1).astype(dtype) / levels
