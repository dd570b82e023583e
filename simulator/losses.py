"""Losses: `(network, threat, x, y) -> scalar` for one example, and mixtures of them, which are losses too.

`y` is -1, +1 or a class index; `threat` is the set at this example.  Every loss is the cross-entropy of margins
m_k = logit[y] - logit[k]: log(1 + sum over k != y of exp(-m_k)), taken at x, at a worst point, or at lower bounds.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int

from simulator import attacks, bounds
from simulator.networks import Network, contrast, cross_entropy, label, margins, others
from simulator.threats import Threat

Loss = Callable[[Network, Threat, Float[Array, " d"], Int[Array, ""]], Float[Array, ""]]


def standard(network: Network, threat: Threat, x: Float[Array, " d"], y: Int[Array, ""]) -> Float[Array, ""]:
    """Cross-entropy at x: standard training ignores the threat."""
    return cross_entropy(margins(network, x, label(y)))


def attacked(attack: attacks.Method) -> Loss:
    """Cross-entropy at the point an attack finds: adversarial training.

    The perturbation is held fixed when differentiating, as every implementation of adversarial training does.  Where
    the loss is smooth in the perturbation and the attack attains the maximum, that is its gradient (Danskin); at a
    kink inside the threat it is not: see `exact`.
    """

    def loss(network, threat, x, y):
        # Stopped before the attack rather than after it, so that its steps are not differentiated only to be dropped.
        delta = attack(*jax.lax.stop_gradient((network, threat, x)), label(y)).delta
        return cross_entropy(margins(network, x + delta, label(y)))

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
    2020); a mixture of sound bounds is sound.  Raises `ValueError` for an unknown method.
    """

    def loss(network, threat, x, y):
        rows = contrast(network, label(y), others(network, label(y)))
        least = bounds.lower(network, threat, x, rows, method, merged)
        if not isinstance(beta, float) or beta != 1.0:
            least = beta * least + (1 - beta) * bounds.lower(network, threat, x, rows, "ibp", merged)
        return cross_entropy(least)

    if method not in bounds.METHODS:
        raise ValueError(f"there is no bound {method!r}; the bounds are {', '.join(bounds.METHODS)}")
    return loss


def mix(first: Loss, second: Loss, weight: Float[Array, ""] | float) -> Loss:
    """(1 - weight) * first + weight * second."""

    def loss(network, threat, x, y):
        return (1 - weight) * first(network, threat, x, y) + weight * second(network, threat, x, y)

    return loss
