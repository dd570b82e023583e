"""The box before every ReLU, by backward passes over the layers below it."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from simulator.bounds.backward import Step, Steps, middle_and_reach
from simulator.bounds.box import Box, relu_lines
from simulator.bounds.head import Head, largest_vector, over_identity
from simulator.bounds.methods import Method
from simulator.bounds.windows import box_in_windows, view_of
from simulator.networks import ReLU, Residual
from simulator.threats import Threat


def backward_boxes(
    head: Head, layers: Sequence[Any], threat: Threat, z: Float[Array, " h"], method: Method
) -> list[Box]:
    """The box before every ReLU, each by a backward pass over the layers below it."""
    boxes: list[Box] = []

    def walk(layers: Sequence[Any], before: Steps, size: int) -> tuple[Steps, int]:
        steps: Steps = ()
        for layer in layers:
            if isinstance(layer, ReLU):
                boxes.append(_box(head, before + steps, threat, z, size))
                step = Step(layer, relu_lines(boxes[-1], method.slope, method.upper))
            elif isinstance(layer, Residual):
                branch, after = walk(layer.branch, before + steps, size)
                step = Step(layer, None, branch, walk(layer.shortcut, before + steps, size)[0])
                size = after
            else:
                step = Step(layer)
                size = jax.eval_shape(layer, jax.ShapeDtypeStruct((size,), z.dtype)).shape[0]
            steps = (*steps, step)
        return steps, size

    walk(layers, (), z.shape[0])
    return boxes


def _box(head: Head, steps: Steps, threat: Threat, z: Float[Array, " h"], width: int) -> Box:
    """The box of what the steps return, of that width."""
    if not steps:
        return head.box(threat, z)
    view = view_of(head, steps, threat)
    if view is not None:
        return box_in_windows(view, head, steps, threat, z)

    def of_row(row):
        return middle_and_reach(steps, lambda slopes: head.least(threat, slopes), threat.symmetric, z, row)

    # A row is carried back with both signs.
    return Box(*over_identity(of_row, width, 2 * largest_vector(head, [step.layer for step in steps], z), z.dtype))
