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


def _starts(key: PRNGKeyArray, threat: Threat, x: Float[Array, " d"], count: int, draw: Draw | None) -> Array:
    """x itself, then random extreme points of the threat: [count, d]."""
    draw = (lambda key: jr.normal(key, x.shape, x.dtype)) if draw is None else draw
    return jax.vmap(lambda k: threat.worst(draw(k)))(jr.split(key, count)).at[0].set(0)


def restarts(
    key: PRNGKeyArray, attack, network: Network, threat: Threat, x, label, count: int, draw: Draw | None = None
) -> Attack:
    """The best of `count` runs of an attack that takes `start=`: from x itself, then from random extreme points.

    `draw` says what random is: N(0, I) in the coordinates of x unless given.
    """
    starts = _starts(key, threat, x, count, draw)
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
    """The exact worst case where it is computable; else the better of APGD on cross-entropy and on the margin.

    Both use `steps` steps and the same `count` starts, of which `draw` says what random is (see `restarts`).  The
    papers' suite with its margin loss replaced by one that is valid for two classes; `describe` says in words which of
    the two a network and threat get.
    """
    if has_exact(network, threat):
        return exact(network, threat, x, label)

    def run(which):
        index, start = which

        # Chosen by a number rather than a name, so that the attack is compiled once for all objectives.
        def objective(margins):
            return jnp.stack([score(margins) for score in OBJECTIVES.values()])[index]

        return apgd(network, threat, x, label, steps=steps, objective=objective, start=start)

    starts = _starts(key, threat, x, count, draw)
    return weakest(jax.lax.map(run, (jnp.repeat(jnp.arange(2), count), jnp.concatenate([starts, starts]))))


def describe(network: Network, threat: Threat, *, steps: int, count: int) -> str:
    """What `strongest` runs on this network and threat, for the provenance of a result."""
    if has_exact(network, threat):
        return "exact worst case"
    return f"apgd-ce + apgd-margin, {steps} steps, {count} starts each"
