"""Linear bounds of every neuron in terms of the input, carried forward through the layers.

**Source:** Xu et al. (2020), Automatic perturbation analysis, arXiv 2002.12920.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.bounds.box import Box, Lines
from simulator.networks import LinearLayer, ReLU, Residual
from simulator.threats import Threat


class Planes(eqx.Module):
    """middle @ x' + m - (reach @ x' + r) <= z <= middle @ x' + m + (reach @ x' + r), with matrices [width, d].

    Middle and half the difference of the two planes, since a layer A maps the first by A and the second by |A|.
    """

    middle: Float[Array, "width d"]
    reach: Float[Array, "width d"]
    middle_offset: Float[Array, " width"]
    reach_offset: Float[Array, " width"]

    @staticmethod
    def identity(x: Float[Array, " d"]) -> "Planes":
        """Of the input itself."""
        return Planes(
            jnp.eye(x.size, dtype=x.dtype), jnp.zeros((x.size, x.size), x.dtype), *jnp.zeros((2, x.size), x.dtype)
        )

    def box(self, threat: Threat, x: Float[Array, " d"]) -> Box:
        """What the planes leave over x + B."""
        lower, upper = self.middle - self.reach, self.middle + self.reach
        least = lower @ x + self.middle_offset - self.reach_offset - jax.vmap(threat.support)(-lower)
        greatest = upper @ x + self.middle_offset + self.reach_offset + jax.vmap(threat.support)(upper)
        return Box.between(least, greatest)

    def mapped(self, layer: LinearLayer) -> "Planes":
        """Behind a linear layer."""
        middle, reach = (jax.vmap(f, 1, 1) for f in (layer.linear, layer.absolute))
        offset = layer.offset(self.middle.dtype)
        shifted = layer.linear(self.middle_offset) if offset is None else layer.linear(self.middle_offset) + offset
        return Planes(middle(self.middle), reach(self.reach), shifted, layer.absolute(self.reach_offset))

    def rectified(self, lines: Lines) -> "Planes":
        """Behind a ReLU: below the lower plane's image under the lower line, above the upper one's under the upper."""
        below, above = lines.below[:, None], lines.above[:, None]
        lower, upper = below * (self.middle - self.reach), above * (self.middle + self.reach)
        least = lines.below * (self.middle_offset - self.reach_offset)
        greatest = lines.above * (self.middle_offset + self.reach_offset) + lines.intercept
        return Planes((upper + lower) / 2, (upper - lower) / 2, (greatest + least) / 2, (greatest - least) / 2)


def forward(
    layers: Sequence[Any], threat: Threat, x: Float[Array, " d"], planes: Planes, lines_of: Callable[[Box], Lines]
) -> tuple[list[Box], Planes]:
    """The box before every ReLU in the order in which the layers are applied, and the planes of the output."""
    boxes: list[Box] = []
    for layer in layers:
        if isinstance(layer, ReLU):
            boxes.append(planes.box(threat, x))
            planes = planes.rectified(lines_of(boxes[-1]))
        elif isinstance(layer, Residual):
            along, branch = forward(layer.branch, threat, x, planes, lines_of)
            past, shortcut = forward(layer.shortcut, threat, x, planes, lines_of)
            boxes += along + past
            planes = jax.tree.map(jnp.add, branch, shortcut)
        else:
            planes = planes.mapped(layer)
    return boxes, planes
