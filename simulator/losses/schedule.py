"""Losses that change along the warm-up of a training."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.losses.basic import Loss, certified


class Schedule(eqx.Module):
    """A loss whose coefficient goes from `start` to `end` as the radius goes from 0 to the full one.

    Where `share` of the radius is reached, the loss is make((1 - share) * start + share * end).  `train.fit` asks for
    it at every epoch, in one program, and records the loss at share 1; without a warm-up of the recipe the share is 1
    throughout, so that the loss is the one at the end.  Not a loss itself, so that no mixture takes one end for it: mix
    the losses inside `make`.
    """

    make: Callable[[Float[Array, ""]], Loss] = eqx.field(static=True)
    start: Float[Array, "..."] | float
    end: Float[Array, "..."] | float

    def at(self, share: Float[Array, ""]) -> Loss:
        """The loss where this share of the radius is reached."""
        start, end = (jnp.asarray(value, share.dtype) for value in (self.start, self.end))
        return self.make((1 - share) * start + share * end)


def crown_ibp(start: Float[Array, "..."] | float = 1.0, end: Float[Array, "..."] | float = 0.0) -> Schedule:
    """CROWN-IBP training: the bound beta * (crown-ibp) + (1 - beta) * ibp with beta from `start` to `end`.

    Sound throughout.  **Source:** Zhang et al. (2020), "Towards stable and efficient training of verifiably robust
    neural networks", whose two schedules end at 0 and at 0.5.
    """
    return Schedule(lambda beta: certified("crown-ibp", beta), start, end)
