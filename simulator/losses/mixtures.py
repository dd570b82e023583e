"""Between an attack and a bound: expressive losses, and bounds over a small set around an adversarial point.

An attack gives too low a loss, a bound one that is too high and hard to train; every mixture here has a coefficient
that leads from the one to the other.  None is an upper bound on the worst loss before the coefficient is 1: they are
estimates.  Coefficients are leaves and may be traced, so that one program sweeps them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator import attacks
from simulator.losses.basic import (
    Loss,
    attacked,
    attacked_margins,
    bounded_margins,
    certified,
    found_by,
    mix,
    weight_of,
)
from simulator.networks import cross_entropy, log_cross_entropy

Coefficient = Float[Array, ""] | float


def cc_ibp(attack: attacks.Method, coefficient: Coefficient, bound: str = "ibp") -> Loss:
    """Cross-entropy of (1 - a) * (margins at the attack's point) + a * (lower bounds on the margins), a = coefficient.

    It does not fall as a grows, from the attack's loss to the bound's: every bound is below the margin at any member of
    the threat.  By convexity of the cross-entropy it is at most `mtl_ibp`.  Raises `ValueError` for an unknown bound.

    **Source:** De Palma et al. (2024), "Expressive losses for verified robustness via convex combinations", CC-IBP.
    """
    found, proven = attacked_margins(attack), bounded_margins(bound)

    def loss(network, threat, x, y):
        a = weight_of(coefficient, x)
        return cross_entropy((1 - a) * found(network, threat, x, y) + a * proven(network, threat, x, y))

    return loss


def mtl_ibp(attack: attacks.Method, coefficient: Coefficient, bound: str = "ibp") -> Loss:
    """(1 - a) * (the attack's loss) + a * (the bound's loss), a = coefficient: `mix` of the two.

    Raises `ValueError` for an unknown bound.  **Source:** De Palma et al. (2024), MTL-IBP.
    """
    first, second = attacked(attack), certified(bound)

    def loss(network, threat, x, y):
        return mix(first, second, weight_of(coefficient, x))(network, threat, x, y)

    return loss


def exp_ibp(attack: attacks.Method, coefficient: Coefficient, bound: str = "ibp") -> Loss:
    """(the attack's loss)^(1 - a) * (the bound's loss)^a, a = coefficient.

    Computed as the exponential of a sum of logarithms, so that value and gradient are finite where a loss underflows to
    0: the power alone has an infinite slope there.  A geometric mean is at most the arithmetic one, `mtl_ibp`; for two
    classes it is at most `cc_ibp` as well, since log(log(1 + exp(s))) is concave in s.  Raises `ValueError` for an
    unknown bound.  **Source:** De Palma et al. (2024), Exp-IBP.
    """
    found, proven = attacked_margins(attack), bounded_margins(bound)

    def loss(network, threat, x, y):
        a = weight_of(coefficient, x)
        low, high = (log_cross_entropy(part(network, threat, x, y)) for part in (found, proven))
        return jnp.exp((1 - a) * low + a * high)

    return loss


def product(first: Loss, second: Loss) -> Loss:
    """first * second."""

    def loss(network, threat, x, y):
        return first(network, threat, x, y) * second(network, threat, x, y)

    return loss


def around_attack(attack: attacks.Method, share: Coefficient, loss: Loss) -> Loss:
    r"""`loss` over the small set share * B about a point the attack finds in x + (1 - share) * B.

    The small set stays inside x + B: a convex B has (1 - s) B + s B = B.  Of a union the small set is inside the convex
    hull, which is all that bounds know of a union: (1 - s) B + s hull(B) is in hull(B).  A set that is cut by the range
    of the data is cut about the point, too.  The point is held fixed when differentiating.  At share 0 this is the loss
    at the point of an attack with the full radius, at share 1 `loss` itself.
    """

    def small(network, threat, x, y):
        s = weight_of(share, x)
        point = x + found_by(attack)(network, threat.scaled(1 - s), x, y)
        return loss(network, threat.scaled(s).at(point), point, y)

    return small


def sabr(attack: attacks.Method, share: Coefficient, bound: str = "ibp") -> Loss:
    """Small adversarial bounding regions: the bound's loss over share * B about an adversarial point, `around_attack`.

    It is below the bound's loss over all of B for "ibp", which tightens as its set shrinks; other bounds need not.
    Raises `ValueError` for an unknown bound.

    **Source:** Mueller et al. (2023), "Certified training: small boxes are all you need".
    """
    return around_attack(attack, share, certified(bound))
