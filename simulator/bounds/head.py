"""The linear layers a network starts with: what a threat at the input does to their output."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.bounds.box import Box
from simulator.networks import Affine, Layers, LinearLayer, Residual, by_row, through
from simulator.networks.layers import PerChannel
from simulator.threats import L2, LInf, Segments, SignalDirected, Threat

AT_ONCE = 1 << 24
"""Bytes of rows that are pulled back through layers at once."""


class Head(eqx.Module):
    """Linear layers in turn, as one linear map of the input; without any it is the identity."""

    layers: Layers

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " h"]:
        return through(self.layers, x)

    def pulled(self, row: Float[Array, " h"]) -> Float[Array, " d"]:
        """A^T row."""
        for layer in reversed(self.layers):
            row = layer.transposed(row)
        return row

    @property
    def plain(self) -> bool:
        """Whether it is a single matrix, which threats have cheaper operations for."""
        return len(self.layers) == 1 and isinstance(self.layers[0], Affine)

    def inputs(self, z: Float[Array, " h"]) -> int:
        """The dimension of the input."""
        return jax.eval_shape(self.pulled, jax.ShapeDtypeStruct(z.shape, z.dtype)).shape[0]

    def least(self, threat: Threat, row: Float[Array, " h"]) -> Float[Array, ""]:
        """The least of <A^T row, delta> over the threat."""
        if self.plain:
            return threat.least_through(self.layers[0].weight, row)
        return -threat.support(-self.pulled(row))

    def worst(self, threat: Threat, row: Float[Array, " h"]) -> Float[Array, " d"]:
        """The member of the threat at which <A^T row, delta> is greatest."""
        if self.plain:
            return threat.worst_through(self.layers[0].weight, row)
        return threat.worst(self.pulled(row))

    def box(self, threat: Threat, z: Float[Array, " h"]) -> Box:
        """Exact bounds of every coordinate of A(x + delta) + offset, whose value at x is z."""
        up = _supports(self, threat, z, 1)
        if threat.symmetric:
            return Box(z, up)
        down = _supports(self, threat, z, -1)
        return Box(z + (up - down) / 2, (up + down) / 2)


def split(layers: Layers) -> tuple[Head, Layers]:
    """The head of a network's layers, and the layers after it."""
    linear = [isinstance(layer, LinearLayer) for layer in layers]
    first = linear.index(False) if False in linear else len(layers)
    return Head(layers[:first]), layers[first:]


def _supports(head: Head, threat: Threat, z: Float[Array, " h"], sign: int) -> Float[Array, " h"]:
    """h(sign * row) for every row of the map."""
    if head.plain:
        return jax.vmap(threat.support)(sign * head.layers[0].weight)
    radius = jnp.asarray(threat.radius, z.dtype)
    # With at most one layer that mixes coordinates no entry is a sum: absolute and squared entries multiply.
    entries_are_products = sum(not isinstance(layer, PerChannel) for layer in head.layers) <= 1
    if entries_are_products and isinstance(threat, LInf):
        return radius * _in_turn([layer.absolute for layer in head.layers], jnp.ones(head.inputs(z), z.dtype))
    if entries_are_products and isinstance(threat, L2):
        square = _in_turn([layer.squared for layer in head.layers], jnp.ones(head.inputs(z), z.dtype))
        return radius * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    if isinstance(threat, (Segments, SignalDirected)):
        # The few directions are pushed forward rather than the many rows pulled back.
        directions = threat.axes(head.inputs(z)).astype(z.dtype)
        images = jax.vmap(lambda s: _in_turn([layer.linear for layer in head.layers], s))(directions)
        return radius * jnp.max(jnp.abs(images), axis=0)
    return over_identity(
        lambda row: threat.support(sign * head.pulled(row)), z.shape[0], max(head.inputs(z), z.shape[0]), z.dtype
    )


def _in_turn(maps: Sequence[Callable[[Array], Array]], v: Array) -> Array:
    for function in maps:
        v = function(v)
    return v


def rows_at_once(rows: int, largest: int, dtype) -> int:
    """How many of so many rows `AT_ONCE` allows, if each needs a vector of size `largest`."""
    return max(1, min(rows, AT_ONCE // (largest * jnp.dtype(dtype).itemsize)))


def over_identity(function: Callable[[Array], Any], width: int, largest: int, dtype) -> Any:
    """`function` of every row of the identity [width, width], stacked; as many at once as memory allows.

    `largest` is the size of the largest vector the function makes of a row.
    """

    at_once = rows_at_once(width, largest, dtype)
    if at_once == width:
        return jax.vmap(function)(jnp.eye(width, dtype=dtype))

    def of_row(at):
        return function(jax.nn.one_hot(at, width, dtype=dtype))

    return jax.lax.map(of_row, jnp.arange(width), batch_size=at_once)


def over_rows(function: Callable[[Array], Any], rows: Float[Array, "m out"], largest: int) -> Any:
    """`function` of every row, stacked; as many at once as memory allows, and blocks of them, where it does not allow
    all, computed again for the gradient rather than kept.

    `largest` is the size of the largest vector the function makes of a row.
    """
    at_once = rows_at_once(len(rows), largest, rows.dtype)
    if at_once == len(rows):
        return by_row(function, rows)
    # A function of its own: JAX hashes what it checkpoints, which the method of a layer with traced weights cannot be.
    return jax.lax.map(jax.checkpoint(lambda row: function(row)), rows, batch_size=at_once)


def largest_vector(head: Head, layers: Sequence[Any], z: Float[Array, " h"]) -> int:
    """The size of the largest vector of a pass between the input and what the layers after the head return."""
    return max(head.inputs(z), _sizes(layers, z.shape[0], z.dtype)[1])


def _sizes(layers: Sequence[Any], size: int, dtype) -> tuple[int, int]:
    """Of the output of the layers, and of the largest vector on the way."""
    largest = size
    for layer in layers:
        paths = (layer.branch, layer.shortcut) if isinstance(layer, Residual) else ()
        inside = [_sizes(path, size, dtype)[1] for path in paths]
        size = jax.eval_shape(layer, jax.ShapeDtypeStruct((size,), dtype)).shape[0]
        largest = max(largest, size, *inside)
    return size, largest
