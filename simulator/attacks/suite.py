"""Attacks from several starts, and the strongest combination of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from simulator.attacks.attack import OBJECTIVES, Attack, weakest
from simulator.attacks.auto_pgd import apgd
from simulator.attacks.worst_case import exact, has_exact
from simulator.networks import Network
from simulator.threats import Threat

Draw = Callable[[PRNGKeyArray], Float[Array, " d"]]
"""A random direction from its key: `task.isotropic` in the coordinates of a folded task."""


def starting_points(key: PRNGKeyArray, threat: Threat, x: Float[Array, " d"], count: int, draw: Draw | None) -> Array:
    """x itself, then random extreme points of the threat, as perturbations: [count, d]."""
    draw = (lambda key: jr.normal(key, x.shape, x.dtype)) if draw is None else draw
    return jax.vmap(lambda k: threat.worst(draw(k)))(jr.split(key, count)).at[0].set(0)


def restarts(
    key: PRNGKeyArray, attack, network: Network, threat: Threat, x, label, count: int, draw: Draw | None = None
) -> Attack:
    """The best of `count` runs of an attack that takes `start=`: from x itself, then from random extreme points.

    `draw` says what random is: N(0, I) in the coordinates of x unless given.
    """
    starts = starting_points(key, threat, x, count, draw)
    return weakest(jax.lax.map(lambda start: attack(network, threat, x, label, start=start), starts))


def strongest(
    key: PRNGKeyArray,
    network: Network,
    threat: Threat,
    x,
    label,
    *,
    steps: int,
    count: int,
    draw: Draw | None = None,
) -> Attack:
    """The exact worst case where it is computable; else the best of APGD on every one of `objectives`.

    All use `steps` steps and the same `count` starts, of which `draw` says what random is (see `restarts`).  This is
    the papers' suite with its margin loss replaced by one that is valid for two classes; `describe` says in words what
    a network and threat get.
    """
    if has_exact(network, threat):
        return exact(network, threat, x, label)
    scores = [OBJECTIVES[name] for name in objectives(network)]

    def run(which):
        index, start = which

        # Chosen by a number rather than a name, so that the attack is compiled once for all objectives.
        def objective(margins):
            return jnp.stack([score(margins) for score in scores])[index]

        return apgd(network, threat, x, label, steps=steps, objective=objective, start=start)

    starts = starting_points(key, threat, x, count, draw)
    which = jnp.repeat(jnp.arange(len(scores)), count)
    return weakest(jax.lax.map(run, (which, jnp.concatenate([starts] * len(scores)))))


def objectives(network: Network) -> tuple[str, ...]:
    """What `strongest` maximises: cross-entropy and the margin; of two classes the margin alone.

    There the cross-entropy is an increasing function of minus the one margin, and APGD only asks for directions of
    gradients and for comparisons of values: it would walk through the same points again, and underflow on confident
    ones.
    """
    return ("margin",) if network.classes == 2 else ("cross-entropy", "margin")


def describe(network: Network, threat: Threat, *, steps: int, count: int) -> str:
    """What `strongest` runs on this network and threat, for the provenance of a result."""
    if has_exact(network, threat):
        return "exact worst case"
    each = " each" if len(objectives(network)) > 1 else ""
    return f"{' + '.join(f'apgd-{name}' for name in objectives(network))}, {steps} steps, {count} starts{each}"
