"""Boxes carried forward through the layers."""

from collections.abc import Sequence
from typing import Any

import jax

from simulator.bounds.box import Box
from simulator.networks import ReLU, Residual


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
            box = Box(layer(box.middle), layer.absolute(box.reach))
    return boxes, box
