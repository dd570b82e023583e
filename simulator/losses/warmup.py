r"""FAST-IBP: interval training with regularisers that keep a short warm-up stable.

Of the method in the paper the initialisation is `networks.mlp(init="ibp")`, and batch normalisation with clean
statistics a layer of the network, `networks.batch_norm`.

**Source:** Shi et al. (2021), "Fast certified robust training with short warmup".
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator import bounds
from simulator.losses.basic import certified
from simulator.losses.mixtures import Coefficient
from simulator.losses.schedule import Schedule

TOLERANCE = 0.5
"""tau, the ratio from which on a regulariser is 0."""


def _short_of(ratio: Float[Array, ""], tolerance: float) -> Float[Array, ""]:
    """max(0, tau - ratio) / tau: 1 at ratio 0, 0 from tau on."""
    return jnp.maximum(tolerance - ratio, 0) / tolerance


def _ratio(small: Float[Array, ""], large: Float[Array, ""], nothing: float) -> Float[Array, ""]:
    """small / large, and `nothing` where large is too small for the square of it that its slope divides by."""
    defined = large > jnp.sqrt(jnp.finfo(large.dtype).tiny)
    return jnp.where(defined, small / jnp.where(defined, large, 1), nothing)


def looseness(boxes: list[bounds.Box], tolerance: float = TOLERANCE) -> Float[Array, ""]:
    r"""How far boxes grow with depth: the mean over layers i of max(0, tau - r_1 / r_i) / tau, r_i the mean reach.

    0 while no layer is wider than 1 / tau times the first.  A layer without any reach counts as not wider.  The paper
    compares with the box of inputs; a threat that is no box has none, so that here the first hidden layer is the
    measure.  The mean reach is that of one example, of a batch in the paper.
    """
    first = jnp.mean(boxes[0].reach)
    hinges = [_short_of(_ratio(first, jnp.mean(box.reach), 1.0), tolerance) for box in boxes]
    return jnp.mean(jnp.stack(hinges))


def imbalance(boxes: list[bounds.Box], tolerance: float = TOLERANCE) -> Float[Array, ""]:
    r"""How unlike active and inactive neurons are: the mean over layers of two hinges max(0, tau - ratio) / tau.

    With middles c, active neurons those with l > 0 and inactive ones those with u < 0, the ratios are
    min(a, b) / max(a, b) of a = (sum of c over active), b = -(sum of c over inactive); and of a = (sum of (c - mean)^2
    over active), b = (the same over inactive).  A ratio is 1 where there is neither kind, 0 where there is only one.
    Sums are over the neurons of one example, over a batch in the paper.
    """
    return jnp.mean(jnp.stack([_imbalance(box, tolerance) for box in boxes]))


def _imbalance(box: bounds.Box, tolerance: float) -> Float[Array, ""]:
    active, inactive = box.lower > 0, box.upper < 0
    away = (box.middle - jnp.mean(box.middle)) ** 2
    sums = (
        (jnp.sum(jnp.where(active, box.middle, 0)), -jnp.sum(jnp.where(inactive, box.middle, 0))),
        (jnp.sum(jnp.where(active, away, 0)), jnp.sum(jnp.where(inactive, away, 0))),
    )
    hinges = [_short_of(_ratio(jnp.minimum(a, b), jnp.maximum(a, b), 1.0), tolerance) for a, b in sums]
    return hinges[0] + hinges[1]


def fast_ibp(coefficient: Coefficient = 0.5, tolerance: float = TOLERANCE) -> Schedule:
    """(interval loss) + coefficient * (1 - share of the radius) * (`looseness` + `imbalance`).

    At least the worst loss over the threat, as regularisers are not negative; at the full radius it is the interval
    loss.  A linear network has no layer to regularise.
    """
    intervals = certified("ibp")

    def make(weight):
        def loss(network, threat, x, y):
            boxes = bounds.preactivations(network, threat, x, "ibp")
            extra = looseness(boxes, tolerance) + imbalance(boxes, tolerance) if boxes else 0
            return intervals(network, threat, x, y) + weight * extra

        return loss

    return Schedule(make, coefficient, 0.0)
