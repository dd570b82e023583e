"""Boxes carried forward through the layers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from simulator.bounds.box import Box
from simulator.networks import Affine, LinearLayer, ReLU, Residual


def interval(layers: Sequence[Any], box: Box) -> tuple[list[Box], Box]:
    """The box before every ReLU in the order in which the layers are applied, and the box of the output.

    A linear layer maps the middle by A and the reach by |A|; the two paths of a residual block add.
    """
    boxes: list[Box] = []
    for layer in layers:
        if isinstance(layer, ReLU):
            boxes.append(box)
            box = Box.between(jax.nn.relu(box.lower), jax.nn.relu(box.upper))
        elif isinstance(layer, Residual):
            along, branch = interval(layer.branch, box)
            past, shortcut = interval(layer.shortcut, box)
            boxes += along + past
            box = Box(branch.middle + shortcut.middle, branch.reach + shortcut.reach)
        else:
            box = _behind(layer, box)
    return boxes, box


def _behind(layer: LinearLayer, box: Box) -> Box:
    if not isinstance(layer, Affine) or layer.weight.shape[0] > 1:
        return Box(layer(box.middle), layer.absolute(box.reach))
    # With a row of zeros: XLA fuses products with a single row into loops that make training on interval bounds on
    # several devices of a processor 1.5 times slower with JAX 0.12.
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf)]), layer)
    return Box(padded(box.middle)[:1], padded.absolute(box.reach)[:1])
