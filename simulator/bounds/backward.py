"""A linear lower bound carried from rows of the output back to the input."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.bounds.box import Box, Lines, relu_lines
from simulator.bounds.head import Head, over_identity, rows_at_once
from simulator.bounds.methods import Method
from simulator.networks import ReLU, Residual, by_row, times
from simulator.threats import Threat


class Step(NamedTuple):
    """A layer and what bounds it: the lines of a ReLU, or the steps of both paths of a residual block."""

    layer: Any
    lines: Lines | None = None
    branch: "tuple[Step, ...]" = ()
    shortcut: "tuple[Step, ...]" = ()


Steps = tuple[Step, ...]
"""The layers after the head."""


def bounded(layers: Sequence[Any], boxes: Iterator[Box], lines_of: Callable[[Box], Lines]) -> Steps:
    """The steps of layers whose boxes are known, in the order in which the layers are applied."""
    steps = []
    for layer in layers:
        if isinstance(layer, ReLU):
            steps.append(Step(layer, lines_of(next(boxes))))
        elif isinstance(layer, Residual):
            branch = bounded(layer.branch, boxes, lines_of)
            steps.append(Step(layer, None, branch, bounded(layer.shortcut, boxes, lines_of)))
        else:
            steps.append(Step(layer))
    return tuple(steps)


def backward(steps: Steps, row: Float[Array, " out"]) -> tuple[Float[Array, " h"], Float[Array, ""]]:
    """(a, c) with <row, steps(z)> >= <a, z> + c wherever the lines hold."""
    constant = jnp.zeros((), row.dtype)
    for step in reversed(steps):
        if step.lines is not None:
            lines = step.lines
            # A neuron is bounded from below where it counts positively, from above where it counts negatively.
            constant = constant + jnp.sum(jnp.where(row < 0, row * lines.intercept, 0))
            row = row * (lines.above if lines.below is lines.above else jnp.where(row < 0, lines.above, lines.below))
        elif isinstance(step.layer, Residual):
            along, first = backward(step.branch, row)
            past, second = backward(step.shortcut, row)
            row, constant = along + past, constant + first + second
        else:
            offset = step.layer.offset(row.dtype)
            constant = constant if offset is None else constant + times(row, offset)
            row = step.layer.transposed(row)
    return row, constant


def resolve(head: Head, threat: Threat, z: Float[Array, " h"], row: Float[Array, " h"], constant) -> Array:
    """min over x + B of <row, head(x')> + constant, where z = head(x)."""
    return row @ z + constant + head.least(threat, row)


def lower_of_rows(
    head: Head, steps: Steps, threat: Threat, z: Float[Array, " h"], rows: Float[Array, "m out"]
) -> Float[Array, " m"]:
    """Lower bounds over x + B of <row, steps(head(x'))>, where z = head(x)."""
    return by_row(lambda row: resolve(head, threat, z, *backward(steps, row)), rows)


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

    largest = 2 * _largest(head, steps, z)
    if rows_at_once(width, largest, z.dtype) == width:
        identity = jnp.eye(width, dtype=z.dtype)
        both = lower_of_rows(head, steps, threat, z, jnp.concatenate([identity, -identity]))
        return Box.between(both[:width], -both[width:])

    def of_pair(row):
        return lower_of_rows(head, steps, threat, z, jnp.stack([row, -row]))

    pairs = over_identity(of_pair, width, largest, z.dtype)
    return Box.between(pairs[:, 0], -pairs[:, 1])


def _largest(head: Head, steps: Steps, z: Float[Array, " h"]) -> int:
    """The size of the largest vector of a backward pass."""
    return max(head.inputs(z), _sizes(steps, z.shape[0], z.dtype)[1])


def _sizes(steps: Steps, size: int, dtype) -> tuple[int, int]:
    """Of the output of the steps, and of the largest vector on the way."""
    largest = size
    for step in steps:
        paths = [_sizes(path, size, dtype)[1] for path in (step.branch, step.shortcut) if path]
        size = jax.eval_shape(step.layer, jax.ShapeDtypeStruct((size,), dtype)).shape[0]
        largest = max(largest, size, *paths)
    return size, largest
