"""A linear lower bound carried from rows of the output back to the input."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.bounds.box import Box, Lines
from simulator.bounds.head import Head, largest_vector, over_rows
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


def parallel(steps: Steps) -> bool:
    """Whether both lines of every ReLU are."""
    return all(
        step.lines.parallel if step.lines is not None else parallel(step.branch) and parallel(step.shortcut)
        for step in steps
    )


def backward(steps: Steps, row: Float[Array, " out"]) -> tuple[Float[Array, " h"], Float[Array, ""]]:
    """(a, c) with <row, steps(z)> >= <a, z> + c wherever the lines hold."""
    return _carried(steps, row, _least)


def backward_both(steps: Steps, row: Float[Array, " out"]) -> tuple[Float[Array, " h"], Float[Array, "2"]]:
    """(a, [c, C]) with <a, z> + c <= <row, steps(z)> <= <a, z> + C, for parallel lines: one pass instead of two."""
    slopes, constants = _carried(steps, row, _least_and_most)
    # A single number where there is no ReLU.
    return slopes, jnp.broadcast_to(constants, (2,))


def _carried(steps: Steps, row: Float[Array, " out"], through_relu: Callable[[Lines, Array], tuple[Array, Array]]):
    """The row at the input of the steps, and the sum of the constants that arise on the way."""
    constant = jnp.zeros((), row.dtype)
    for step in reversed(steps):
        if step.lines is not None:
            row, more = through_relu(step.lines, row)
            constant = constant + more
        elif isinstance(step.layer, Residual):
            along, first = _carried(step.branch, row, through_relu)
            past, second = _carried(step.shortcut, row, through_relu)
            row, constant = along + past, constant + first + second
        else:
            offset = step.layer.offset(row.dtype)
            constant = constant if offset is None else constant + times(row, offset)
            row = step.layer.transposed(row)
    return row, constant


def _least(lines: Lines, row: Float[Array, " width"]) -> tuple[Float[Array, " width"], Float[Array, ""]]:
    # A neuron is bounded from below where it counts positively, from above where it counts negatively.
    constant = jnp.sum(jnp.where(row < 0, row * lines.intercept, 0))
    return row * (lines.above if lines.parallel else jnp.where(row < 0, lines.above, lines.below)), constant


def _least_and_most(lines: Lines, row: Float[Array, " width"]) -> tuple[Float[Array, " width"], Float[Array, "2"]]:
    lifted = row * lines.intercept
    return row * lines.above, jnp.stack([jnp.sum(jnp.minimum(lifted, 0)), jnp.sum(jnp.maximum(lifted, 0))])


def resolve(head: Head, threat: Threat, z: Float[Array, " h"], row: Float[Array, " h"], constant) -> Array:
    """min over x + B of <row, head(x')> + constant, where z = head(x)."""
    return row @ z + constant + head.least(threat, row)


def lower_of_rows(
    head: Head, steps: Steps, threat: Threat, z: Float[Array, " h"], rows: Float[Array, "m out"]
) -> Float[Array, " m"]:
    """Lower bounds over x + B of <row, steps(head(x'))>, where z = head(x)."""
    largest = largest_vector(head, [step.layer for step in steps], z)
    return over_rows(lambda row: resolve(head, threat, z, *backward(steps, row)), rows, largest)


def middle_and_reach(
    steps: Steps,
    least: Callable[[Float[Array, " h"]], Float[Array, ""]],
    symmetric: bool,
    z: Float[Array, " h"],
    row: Float[Array, " out"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(middle, reach) of bounds of <row, steps(head(x'))> over x + B, where z = head(x).

    `least` is the least of <row, head(x') - z> over the threat; `symmetric` is whether -B = B.
    """
    if symmetric and parallel(steps):
        slopes, (low, high) = backward_both(steps, row)
        return slopes @ z + (low + high) / 2, (high - low) / 2 - least(slopes)

    def lower_of(row):
        slopes, constant = backward(steps, row)
        return slopes @ z + constant + least(slopes)

    lower, minus_upper = by_row(lower_of, jnp.stack([row, -row]))
    return (lower - minus_upper) / 2, -(lower + minus_upper) / 2
