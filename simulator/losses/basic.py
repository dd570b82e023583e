"""The losses everything else is made of: standard, attacked, exact and certified, and their mixture."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator import attacks, bounds
from simulator.networks import Network, contrast, cross_entropy, label, margins, others
from simulator.threats import Threat

Loss = Callable[[Network, Threat, Float[Array, " d"], Int[Array, ""]], Float[Array, ""]]
"""(network, threat, x, y) -> the loss at one example; the threat is the set there."""
Margins = Callable[[Network, Threat, Float[Array, " d"], Int[Array, ""]], Float[Array, " rivals"]]
"""Margins against the classes other than y, in the order of `networks.others`."""


def standard(network: Network, threat: Threat, x: Float[Array, " d"], y: Int[Array, ""]) -> Float[Array, ""]:
    """Cross-entropy at x: standard training ignores the threat."""
    return cross_entropy(margins(network, x, label(y)))


def found_by(attack: attacks.Method) -> Callable[..., Float[Array, " d"]]:
    """The perturbation an attack finds at one example, held fixed when differentiating."""

    def delta(network, threat, x, y):
        # Stopped before the attack rather than after it, so that its steps are not differentiated only to be dropped.
        return attack(*jax.lax.stop_gradient((network, threat, x)), label(y)).delta

    return delta


def attacked_margins(attack: attacks.Method) -> Margins:
    """The margins at the point an attack finds."""

    def found(network, threat, x, y):
        return margins(network, x + found_by(attack)(network, threat, x, y), label(y))

    return found


def bounded_margins(method: str, merged: bool = True) -> Margins:
    """Lower bounds on the margins over the threat.  Raises `ValueError` for an unknown method."""

    def least(network, threat, x, y):
        rows = contrast(network, label(y), others(network, label(y)))
        return bounds.lower(network, threat, x, rows, method, merged)

    if method not in bounds.METHODS:
        raise ValueError(f"there is no bound {method!r}; the bounds are {', '.join(bounds.METHODS)}")
    return least


def attacked(attack: attacks.Method) -> Loss:
    """Cross-entropy at the point an attack finds: adversarial training.

    The perturbation is held fixed when differentiating, as every implementation of adversarial training does.  Where
    the loss is smooth in the perturbation and the attack attains the maximum, that is its gradient (Danskin); at a
    kink inside the threat it is not: see `exact`.
    """

    def loss(network, threat, x, y):
        return cross_entropy(attacked_margins(attack)(network, threat, x, y))

    return loss


def exact(network: Network, threat: Threat, x: Float[Array, " d"], y: Int[Array, ""]) -> Float[Array, ""]:
    """Cross-entropy at the exact worst point, where `attacks.exact` knows it: for two classes the exact robust loss.

    Differentiated through the worst point, which moves with the weights where it is a kink of the network inside the
    threat; holding it fixed there gives the slope of one side or the other, by rounding.
    """
    return cross_entropy(margins(network, x + attacks.exact(network, threat, x, label(y)).delta, label(y)))


def certified(method: str, beta: Float[Array, ""] | float = 1.0, merged: bool = True) -> Loss:
    """Cross-entropy of lower bounds on the margins: an upper bound on the worst loss over the threat.

    With beta < 1 the bounds are beta * (method) + (1 - beta) * ibp, as CROWN-IBP training anneals them (Zhang et al.,
    2020; see `crown_ibp`); a mixture of sound bounds is sound.  Raises `ValueError` for an unknown method.
    """
    tight, intervals = bounded_margins(method, merged), bounded_margins("ibp", merged)

    def loss(network, threat, x, y):
        least = tight(network, threat, x, y)
        if not isinstance(beta, float) or beta != 1.0:
            least = beta * least + (1 - beta) * intervals(network, threat, x, y)
        return cross_entropy(least)

    return loss


def weight_of(coefficient: Float[Array, ""] | float, like: Float[Array, "..."]) -> Float[Array, ""]:
    """A coefficient, perhaps traced, in the precision of the data."""
    return jnp.asarray(coefficient, like.dtype)


def estimated(key: PRNGKeyArray, projections: int = 50) -> Loss:
    """Cross-entropy of COAP margins estimated by random projections, as the papers trained on images.

    The same projections serve every example and step.  An estimate, neither an upper nor a lower bound on the worst
    loss; see `bounds.estimate`, whose errors it raises.
    """

    def loss(network, threat, x, y):
        found = bounds.estimate(key, network, threat, x, label(y), projections)
        return cross_entropy(found.margins[others(network, label(y))])

    return loss


def mix(first: Loss, second: Loss, weight: Float[Array, ""] | float) -> Loss:
    """(1 - weight) * first + weight * second."""

    def loss(network, threat, x, y):
        return (1 - weight) * first(network, threat, x, y) + weight * second(network, threat, x, y)

    return loss
