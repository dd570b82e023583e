"""Objectives that aim at one rival, and the difference of logits ratio (DLR), which a scale of the logits leaves alone.

With the logits z in descending order z_(1) >= z_(2) >= ... and the label y they are

    untargeted  (max of z_k over k != y  -  z_y) / (z_(1) - z_(3)),
    targeted    (z_t - z_y) / (z_(1) - (z_(3) + z_(4))/2)  for one rival t.

The first needs three classes, the second four: with one class fewer the denominator is the numerator, so that the ratio
is constant on all misclassified or all right points.  Where the denominator is 0 the numerator stands alone.

**Source:** Croce & Hein (2020), equations 6 and 7.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def dlr(margins: Float[Array, " rivals"]) -> Float[Array, ""]:
    """The untargeted ratio as a function of the margins; raises `ValueError` for fewer than three classes."""
    ordered = _ordered(margins, 3, "the difference of logits ratio")
    return _ratio(-jnp.min(margins), ordered[0] - ordered[2])


def dlr_targeted(rival: Int[Array, ""] | int) -> Callable[[Float[Array, " rivals"]], Float[Array, ""]]:
    """The targeted ratio for rival number `rival` of `networks.others`, an objective of `apgd`.

    The objective raises `ValueError` for fewer than four classes.
    """

    def objective(margins):
        ordered = _ordered(margins, 4, "the targeted difference of logits ratio")
        return _ratio(-margins[rival], ordered[0] - (ordered[2] + ordered[3]) / 2)

    return objective


def margin_targeted(rival: Int[Array, ""] | int) -> Callable[[Float[Array, " rivals"]], Float[Array, ""]]:
    """Minus the margin to rival number `rival` alone, z_t - z_y: the targeted objective for any number of classes."""
    return lambda margins: -margins[rival]


def _ordered(margins: Float[Array, " rivals"], classes: int, name: str) -> Float[Array, " K"]:
    """The logits less the logit of the label, in descending order."""
    found = margins.shape[0] + 1
    if found < classes:
        raise ValueError(f"{name} needs {classes} classes, but there are {found}: use the objective 'margin'")
    return -jnp.sort(jnp.concatenate([jnp.zeros(1, margins.dtype), margins]))


def _ratio(numerator: Float[Array, ""], denominator: Float[Array, ""]) -> Float[Array, ""]:
    return numerator / jnp.where(denominator > 0, denominator, 1)
