"""The thorough evaluation: an ensemble of different attacks, with a record of what each of them reached."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator.attacks.attack import OBJECTIVES, Attack, weakest
from simulator.attacks.auto_pgd import apgd
from simulator.attacks.minimum_norm import fab, within
from simulator.attacks.square import square
from simulator.attacks.suite import Draw, objectives, starting_points
from simulator.attacks.targeted import dlr_targeted, margin_targeted
from simulator.attacks.walk import either
from simulator.attacks.worst_case import exact, has_exact
from simulator.networks import Network, margins
from simulator.threats import Threat

TARGETS = 9
"""Rivals that the targeted attack aims at, at most, as in the published suite."""
QUERIES = 10
"""Steps of the random search per step of the others: with 100 steps and 5 starts its published 5000 queries."""


class Ensemble(eqx.Module):
    """What an ensemble of attacks found at one example."""

    best: Attack
    """The perturbation with the smallest margin (ties: the first attack)."""
    smallest: dict[str, Float[Array, ""]]
    """The smallest margin that each attack reached, by its name; an attack succeeds where it is not positive."""


def ensemble(
    key: PRNGKeyArray,
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    *,
    steps: int = 100,
    count: int = 5,
    draw: Draw | None = None,
) -> Ensemble:
    """The exact worst case where it is computable, recorded as "exact"; else the `search` by all attacks.

    `describe_ensemble` says in words what a network and threat get.
    """
    if has_exact(network, threat):
        found = exact(network, threat, x, label)
        return Ensemble(found, {"exact": found.margin})
    return search(key, network, threat, x, label, steps=steps, count=count, draw=draw)


def search(
    key: PRNGKeyArray,
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    *,
    steps: int = 100,
    count: int = 5,
    draw: Draw | None = None,
) -> Ensemble:
    """The best of five attacks, each from the same `count` starts: x itself, then random extreme points of the threat.

    - APGD on the cross-entropy (for more than two classes) and on the smallest margin;
    - APGD on the margin to one rival (for more than two classes) and on the targeted ratio of logits (for at least
      four), for each of the nearest 9 rivals at x;
    - `fab`, from half way to the starts; where its radius is larger than the threat's it records the margin at x;
    - `square`, with 10 times as many steps, each of which costs a forward pass alone.

    With fewer than four classes the ratio is left out, since it is not defined; the margins take its place.  They stay
    beside it with more: to one rival the margin of a linear network is linear, while the smallest of several has local
    minima.  `draw` says what a random direction is (see `restarts`).

    **Source:** Croce & Hein (2020), arXiv 2003.01690, section 5.
    """
    starts_key, square_key = jr.split(key)
    starts = starting_points(starts_key, threat, x, count, draw)
    best, smallest = _auto_pgd(network, threat, x, label, starts, steps)
    nearby = within(fab(network, threat, x, label, steps=steps, starts=starts / 2), network, threat, x, label)

    def random_search(which):
        key, start = which
        return square(key, network, threat, x, label, steps=QUERIES * steps, start=start)

    tried = weakest(jax.lax.map(random_search, (jr.split(square_key, count), starts)))
    smallest = {**smallest, "fab": nearby.margin, "square": tried.margin}
    return Ensemble(weakest(jax.tree.map(lambda *leaves: jnp.stack(leaves), best, nearby, tried)), smallest)


def _auto_pgd(network: Network, threat: Threat, x, label, starts: Float[Array, "count d"], steps: int):
    """The best of APGD on all objectives from all starts, and the smallest margin for each objective."""
    plain, aimed, targets = objectives(network), _targeted(network), min(TARGETS, network.classes - 1)
    rivals = jnp.argsort(margins(network, x, label))[:targets]

    def run(best, which):
        index, rival, start = which

        # Chosen by a number rather than a name, so that the attack is compiled once for all objectives.
        def objective(margins):
            scores = [*(OBJECTIVES[name] for name in plain), *(aim(rival) for aim in aimed.values())]
            return jnp.stack([score(margins) for score in scores])[index]

        found = apgd(network, threat, x, label, steps=steps, objective=objective, start=start)
        # A margin that is no number beats all others: it must not be lost.
        return either((found.margin < best.margin) | jnp.isnan(found.margin), found, best), found.margin

    # One row of runs for every plain objective, and one for every pair of a targeted one and a rival.
    names = [*plain, *(name for name in aimed for _ in range(targets))]
    order = [*plain, *aimed]
    index = jnp.array([order.index(name) for name in names])
    rival = rivals[jnp.array([0] * len(plain) + [*range(targets)] * len(aimed))]
    rows = jnp.repeat(index, len(starts)), jnp.repeat(rival, len(starts)), jnp.tile(starts, (len(names), 1))
    nothing = Attack(jnp.zeros_like(x), jnp.full((), jnp.inf, x.dtype))
    best, reached = jax.lax.scan(run, nothing, rows)
    least = jnp.min(reached.reshape(-1, len(starts)), axis=1)
    places = {name: [place for place, one in enumerate(names) if one == name] for name in order}
    return best, {f"apgd-{name}": jnp.min(least[jnp.array(where)]) for name, where in places.items()}


def _targeted(network: Network) -> dict[str, Callable[[Int[Array, ""]], Callable]]:
    """The objectives that aim at one rival each: none of two classes, where there is one rival."""
    aimed = {"margin-targeted": margin_targeted, "dlr-targeted": dlr_targeted}
    return dict(list(aimed.items())[: min(network.classes - 2, 2)])


def describe_ensemble(network: Network, threat: Threat, *, steps: int = 100, count: int = 5) -> str:
    """What `ensemble` runs on this network and threat and what it leaves out, for the provenance of a result."""
    if has_exact(network, threat):
        return "exact worst case"
    targets = min(TARGETS, network.classes - 1)
    names = [*objectives(network), *(f"{name} ({targets} rivals)" for name in _targeted(network))]
    runs = " + ".join([*(f"apgd-{name}" for name in names), "fab"])
    words = [f"{runs}, {steps} steps; square, {QUERIES * steps} steps; {count} starts each"]
    if network.classes < 4:
        instead = "apgd-margin" if network.classes == 2 else "apgd-margin-targeted"
        words.append(f"no apgd-dlr-targeted, which needs 4 classes and here are {network.classes}: {instead} instead")
    if "cross-entropy" not in objectives(network):
        words.append("no apgd-cross-entropy, which for 2 classes takes the steps of apgd-margin")
    return "; ".join(words)
