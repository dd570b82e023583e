"""What an attack finds, and what it maximises."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.attacks.targeted import dlr
from simulator.networks import Network, cross_entropy, margins
from simulator.threats import Threat


class Attack(eqx.Module):
    """The best perturbation found at one example."""

    delta: Float[Array, " d"]
    margin: Float[Array, ""]
    """min over k != label of logit[label] - logit[k] at x + delta: not positive means misclassified."""


Method = Callable[[Network, Threat, Float[Array, " d"], Int[Array, ""]], Attack]
"""(network, threat, x, label) -> the attack, at one example; the threat is the set there."""


OBJECTIVES = {"cross-entropy": cross_entropy, "margin": lambda margins: -jnp.min(margins), "dlr": dlr}
"""What an attack maximises, as a function of the margins [rivals].  The first two are valid for two classes; the
difference of logits ratio (DLR) is not, since it divides by the third-largest logit: it is refused there."""

Objective = str | Callable[[Float[Array, " rivals"]], Float[Array, ""]]
"""What an attack ascends: a key of `OBJECTIVES`, or a function of the margins that rises as they fall."""


def objective_of(objective: Objective, network: Network, x: Float[Array, " d"], label: Int[Array, ""]):
    """delta -> (objective, smallest margin)."""
    if isinstance(objective, str) and objective not in OBJECTIVES:
        raise ValueError(f"there is no objective {objective!r}; the objectives are {', '.join(OBJECTIVES)}")
    score = OBJECTIVES[objective] if isinstance(objective, str) else objective

    def value(delta):
        found = margins(network, x + delta, label)
        return score(found), jnp.min(found)

    return value


def weakest(found: Attack) -> Attack:
    """Of attacks stacked along a leading axis, the one with the smallest margin (ties: the first)."""
    best = jnp.argmin(found.margin)
    return jax.tree.map(lambda leaf: leaf[best], found)


def each_piece(threat: Threat, attack: Callable[[Threat], Attack]) -> Attack:
    """The weakest attack over the members of a union, or over the set itself."""
    pieces = threat.pieces()
    return attack(threat) if pieces is None else weakest(jax.vmap(attack)(pieces))
