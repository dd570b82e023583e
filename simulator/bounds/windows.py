"""Boxes of what a convolution makes, place by place, at the cost of what a place sees.

A neuron behind convolutions sees a window of every layer below, of the same size at every place.  Carried back within
its windows the row of a neuron is short and nowhere zero for want of a connection: behind the second convolution of the
papers' small network it has 256 numbers instead of 3,136.  All channels of a place share its windows.

Windows may reach over the edge of an image.  Lines of slope and intercept 0 there are exact, since the layer above
reads zeros; of the input, only the pixels inside are perturbed.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.bounds.backward import Step, Steps, middle_and_reach
from simulator.bounds.box import Box
from simulator.bounds.head import Head, rows_at_once
from simulator.networks import Convolution, ReLU
from simulator.networks.layers import PerChannel
from simulator.networks.patches import Pair, Shape, windows
from simulator.threats import L1, L2, LInf, Threat


class Window(NamedTuple):
    """Where the windows of the places lie in the image between two layers."""

    shape: Shape
    """Of the image."""
    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    """From the window of one place to that of the next."""
    origin: Pair = (0, 0)
    """The first pixel of the first window, negative in the padding."""

    def below(self, layer: Convolution) -> "Window":
        """What these windows see of the image that the convolution reads."""
        kernel, steps = layer.kernel.shape[-2:], layer.stride
        size = [(own - 1) * step + reach for own, step, reach in zip(self.size, steps, kernel, strict=True)]
        stride = [own * step for own, step in zip(self.stride, steps, strict=True)]
        padding = [before for before, _ in layer.padding]
        origin = [own * step - pad for own, step, pad in zip(self.origin, steps, padding, strict=True)]
        return Window(layer.shape, (size[0], size[1]), (stride[0], stride[1]), (origin[0], origin[1]))

    def of(self, image: Float[Array, " width"], places: Pair) -> Float[Array, "places seen"]:
        """The windows of all places."""
        seen = windows(image.reshape(self.shape), places, self.size, self.stride, self.origin)
        return seen.reshape(len(seen), -1)

    @property
    def seen(self) -> int:
        """The numbers in a window."""
        return self.shape[0] * self.size[0] * self.size[1]

    @property
    def smaller(self) -> bool:
        """Whether it is smaller than the image."""
        return self.size[0] * self.size[1] < self.shape[1] * self.shape[2]


class View(NamedTuple):
    """The layers from the input to a convolution, as the places behind it see them."""

    out_shape: Shape
    """Of what the last layer makes, a place for each of its pixels."""
    layers: tuple[Any, ...]
    """The layers, restricted to the windows of a place."""
    reads: tuple[Window, ...]
    """What each layer reads."""


def view_of(head: Head, steps: Steps, threat: Threat) -> View | None:
    """What each place behind these layers sees; None where that is no help: the rows are to be carried back whole.

    There must be convolutions, layers that act on each channel and ReLUs alone, and a threat to which neither the order
    of the pixels nor further zeros matter.  What a convolution reads must be the input or come from a ReLU, whose lines
    say what is zero because it lies outside: a shift of channels in between would count there.
    """
    layers = [*head.layers, *(step.layer for step in steps)]
    known = all(isinstance(layer, (Convolution, PerChannel, ReLU)) for layer in layers)
    once = sum(isinstance(layer, Convolution) for layer in head.layers) <= 1
    behind_relu = all(
        isinstance(below.layer, ReLU)
        for below, step in itertools.pairwise(steps)
        if isinstance(step.layer, Convolution)
    )
    last = layers[-1]
    if type(threat) not in (L2, LInf, L1) or not (known and once and behind_relu) or isinstance(last, ReLU):
        return None
    out_shape = last.out_shape if isinstance(last, Convolution) else last.shape
    view = _seen(layers, out_shape)
    return view if view.reads[0].smaller else None


def _seen(layers: Sequence[Any], out_shape: Shape) -> View:
    window, own, reads = Window(out_shape), [], []
    for layer in reversed(layers):
        if isinstance(layer, Convolution):
            window = window.below(layer)
            layer = replace(layer, shape=(window.shape[0], *window.size), padding=((0, 0), (0, 0)))
        elif isinstance(layer, PerChannel):
            layer = replace(layer, shape=(window.shape[0], *window.size))
        own.append(layer)
        reads.append(window)
    return View(out_shape, tuple(reversed(own)), tuple(reversed(reads)))


def box_in_windows(view: View, head: Head, steps: Steps, threat: Threat, z: Float[Array, " h"]) -> Box:
    """The box of what the steps return, where z = head(x)."""
    channels, *places = view.out_shape
    first = len(head.layers)
    own_head, own_layers = Head(view.layers[:first]), view.layers[first:]

    def cut(window: Window, image: Array) -> Array:
        return window.of(image, (places[0], places[1]))

    lines = [
        jax.tree.map(functools.partial(cut, window), step.lines)
        for step, window in zip(steps, view.reads[first:], strict=True)
    ]
    pixel = view.reads[0]
    inside = cut(pixel, jnp.ones(math.prod(pixel.shape), z.dtype))

    def at_place(lines, z, inside) -> Box:
        own = tuple(Step(layer, of_layer) for layer, of_layer in zip(own_layers, lines, strict=True))

        def least(row):
            return -threat.support(-inside * own_head.pulled(row))

        of_row = functools.partial(middle_and_reach, own, least, threat.symmetric, z)
        return Box(*jax.vmap(of_row)(jnp.eye(channels, dtype=z.dtype)))

    box = _over_places(at_place, (lines, cut(view.reads[first], z), inside), _numbers(view), z.dtype)
    return jax.tree.map(lambda values: values.T.reshape(-1), box)


def _numbers(view: View) -> int:
    """In the largest rows of a place."""
    return view.out_shape[0] * max(window.seen for window in view.reads)


def _over_places(function: Callable[..., Box], of_places: tuple, numbers: int, dtype) -> Box:
    """`function` at every place, as many at once as memory allows."""
    count = len(of_places[-1])
    at_once = rows_at_once(count, numbers, dtype)
    if at_once == count:
        return jax.vmap(function)(*of_places)
    return jax.lax.map(lambda one: function(*one), of_places, batch_size=at_once)
