"""Boxes of pre-activations, and the lines that replace a ReLU on them."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from simulator.bounds.methods import LOWER_SLOPES, UPPER_LINES


class Box(eqx.Module):
    """Elementwise bounds middle - reach <= z <= middle + reach, each [width].

    Kept so because the reach of a first layer is the same for every example: a batch divides by it once.
    """

    middle: Float[Array, " width"]
    reach: Float[Array, " width"]

    @staticmethod
    def between(lower: Float[Array, " width"], upper: Float[Array, " width"]) -> "Box":
        """The box with these corners."""
        return Box((upper + lower) / 2, (upper - lower) / 2)

    @property
    def lower(self) -> Float[Array, "*batch width"]:
        """The least values."""
        return self.middle - self.reach

    @property
    def upper(self) -> Float[Array, "*batch width"]:
        """The greatest values."""
        return self.middle + self.reach

    @property
    def unstable(self) -> Bool[Array, "*batch width"]:
        """Where 0 is inside: lower < 0 < upper."""
        return jnp.abs(self.middle) < self.reach


class Lines(eqx.Module):
    """below * z <= ReLU(z) <= above * z + intercept for every neuron of a layer, on its box."""

    lower: Float[Array, " width"] | None
    """The slope of the lower line; None: that of the upper line, to which it is parallel."""
    above: Float[Array, " width"]
    intercept: Float[Array, " width"]

    @property
    def parallel(self) -> bool:
        """Whether the two lines of every neuron are."""
        return self.lower is None

    @property
    def below(self) -> Float[Array, "*batch width"]:
        """The slope of the lower line."""
        return self.above if self.lower is None else self.lower


def relu_lines(box: Box, slope: str | Float[Array, " width"], upper: str = "chord") -> Lines:
    """The lines of each ReLU, exact ones where the neuron is stable.

    `slope` is a key of `LOWER_SLOPES`, or the slopes themselves, each in [0, 1].
    """
    # A box too narrow for the square of its reach to be a number has no chord; its neuron is as good as stable.
    wide = box.reach > jnp.sqrt(jnp.finfo(box.reach.dtype).tiny)
    reach = jnp.where(wide, box.reach, 1)
    unstable, active = wide & box.unstable, (box.middle > 0).astype(box.middle.dtype)
    chord = 0.5 + box.middle * (0.5 / reach)  # u / (u - l)
    slopes = LOWER_SLOPES[slope](box.middle, chord) if isinstance(slope, str) else slope
    line, intercept = UPPER_LINES[upper](box.middle + reach, chord, chord * (reach - box.middle))
    above = jnp.where(unstable, line, active)
    below = None if slopes is line else jnp.where(unstable, slopes, active)
    return Lines(below, above, jnp.where(unstable, intercept, 0))
