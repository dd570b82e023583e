"""Errors of a network on images: attacks that pass on what they could not break, bounds, classes and directions.

| name | meaning |
|---|---|
| `standard_error` | share of images misclassified as they are |
| `robust_error` | share misclassified as they are, or at what any attack of the cascade found |
| `certified_error` | share not proven right by any of the bounds asked for |
| certified_error_(bound) | the same by one bound alone |
| `estimated_error` | share not right by the estimate of random projections, which proves nothing |
| `discrepancy`, `robust_discrepancy` | (max_k R_k - R) / (1 - R) of the standard, robust error; R_k that of class k |
| `excess` | the largest amount by which a bound is above the margin an attack reached: above rounding, a bug |
| `broken_by` | share of images that each attack was the first to break |

Every attack sees only the images that all before it left right, so that the last and dearest ones see few.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator import attacks, bounds
from simulator.attacks import QUERIES, TARGETS, Attack
from simulator.metrics import cosine
from simulator.networks import Network, label, margins, others
from simulator.threats import Threat

CASCADE = ("apgd-margin", "apgd-cross-entropy", "apgd-margin-targeted", "apgd-dlr-targeted", "fab", "square")
"""The attacks in their order, cheap ones first; those that need more classes than there are are left out."""

ATTACKED_AT_ONCE, BOUNDED_AT_ONCE = 50, 10
"""Images of a call; a bound that goes backward from every neuron takes far more room."""


class Attacked(NamedTuple):
    """What the cascade found, image by image."""

    clean: Float[np.ndarray, " n"]
    """The smallest margin at the image itself."""
    margin: Float[np.ndarray, " n"]
    """The smallest margin that was found, the image itself included."""
    delta: Float[np.ndarray, "n d"]
    """Where it was found; 0 where nothing is smaller than at the image."""
    broken_by: Int[np.ndarray, " n"]
    """The attack that first found a margin that is not above 0, by its place in `cascade_of`; -1: none, -2: the image
    itself is wrong."""


def cascade_of(classes: int) -> tuple[str, ...]:
    """The attacks a network of so many classes is given: of two classes the margins are one, of three there is no
    targeted ratio of logits."""
    if classes == 2:
        return ("apgd-margin", "fab", "square")
    return tuple(name for name in CASCADE if classes > 3 or name != "apgd-dlr-targeted")


def describe_cascade(classes: int, steps: int, starts: int) -> str:
    """The cascade in words, for the provenance of a result."""
    names = ", ".join(cascade_of(classes))
    return (
        f"{names}, in this order, each on the images left right: {steps} steps ({QUERIES * steps} of square), {starts} "
        f"starts; targeted ones aim at the nearest {min(TARGETS, classes - 1)} rivals"
    )


@lru_cache(maxsize=32)
def _stage(name: str, steps: int, starts: int) -> Callable:
    """(keys, network, threat, images, labels) -> `Attack` of each: one attack of the cascade, compiled."""

    def one(key, network, threat, x, y):
        k = label(y)
        if name.endswith("targeted"):
            return _at_rivals(name, key, network, threat, x, k, steps, starts)
        if name == "square":
            return _random_searches(jr.split(key, starts), network, threat, x, k, QUERIES * steps)
        method = _fab(steps) if name == "fab" else _apgd(name.removeprefix("apgd-"), steps)
        return attacks.restarts(key, method, network, threat, x, k, starts)

    return jax.jit(jax.vmap(one, in_axes=(0, None, None, 0, 0)))


def _apgd(objective, steps: int) -> Callable:
    def attack(network, threat, x, y, start):
        return attacks.apgd(network, threat, x, y, steps=steps, objective=objective, start=start)

    return attack


def _random_searches(keys, network: Network, threat: Threat, x, y, steps: int) -> Attack:
    """The best of independent searches from x."""
    return attacks.weakest(jax.lax.map(lambda key: attacks.square(key, network, threat, x, y, steps=steps), keys))


def _fab(steps: int) -> Callable:
    def attack(network, threat, x, y, start):
        found = attacks.fab(network, threat, x, y, steps=steps, starts=start[None] / 2)
        return attacks.within(found, network, threat, x, y)

    return attack


def _at_rivals(name: str, key, network: Network, threat: Threat, x, y, steps: int, starts: int) -> Attack:
    """The best of a targeted attack on each of the nearest rivals."""
    aim = attacks.dlr_targeted if name == "apgd-dlr-targeted" else attacks.margin_targeted
    rivals = jnp.argsort(margins(network, x, y))[: min(TARGETS, network.classes - 1)]

    def at(rival):
        return attacks.restarts(key, _apgd(aim(rival), steps), network, threat, x, y, starts)

    return attacks.weakest(jax.lax.map(at, rivals))


@jax.jit
def _clean(network: Network, x, y) -> Float[Array, " n"]:
    return jax.vmap(lambda x, y: jnp.min(margins(network, x, label(y))))(x, y)


def attack(
    key: PRNGKeyArray,
    network: Network,
    threat: Threat,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    *,
    steps: int,
    starts: int,
    say: Callable[[str], None] = lambda sentence: None,
) -> Attacked:
    """Attack the images by every method of the cascade in turn, each of them on those that are still right."""
    clean = np.asarray(_clean(network, x, y))
    margin, delta = clean.copy(), np.zeros(x.shape, x.dtype)
    # Not "at most 0": a margin that is no number is not right.
    broken_by = np.where(clean > 0, -1, -2)
    for place, name in enumerate(cascade_of(network.classes)):
        left = np.flatnonzero(broken_by == -1)
        say(f"{name} on {len(left)} of {len(y)} images")
        keys = jr.split(jr.fold_in(key, place), len(y))
        for chosen in _chunks(left, ATTACKED_AT_ONCE):
            found = _stage(name, steps, starts)(keys[chosen], network, threat, x[chosen], y[chosen])
            reached, where = np.asarray(found.margin), np.asarray(found.delta)
            lower = ~(reached >= margin[chosen])
            margin[chosen[lower]], delta[chosen[lower]] = reached[lower], where[lower]
            broken_by[chosen[~(reached > 0)]] = place
    return Attacked(clean, margin, delta, broken_by)


def _chunks(indices: np.ndarray, size: int):
    """Indices in pieces of one size; the last piece repeats its last index to be as long."""
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        yield np.concatenate([part, np.full(size - len(part), part[-1])]) if len(part) < size else part


@lru_cache(maxsize=32)
def _bound(method: str) -> Callable:
    """(network, threat, images, labels) -> the smallest certified margin of each, and the worst input of that rival."""

    def one(network, threat, x, y):
        found = bounds.margin(network, threat, x, label(y), method)
        rivals = found.lower.at[label(y)].set(jnp.inf)
        return jnp.min(rivals), found.worst[jnp.argmin(rivals)]

    return jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))


def bound(
    network: Network, threat: Threat, x: Float[Array, "n d"], y: Int[Array, " n"], method: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
    """The smallest certified margin of every image by one bound, and the perturbation its linear bound is smallest at
    (the dual vector).  Raises `ValueError` for an unknown method."""
    lower, worst = np.zeros(len(y), x.dtype), np.zeros(x.shape, x.dtype)
    for chosen in _chunks(np.arange(len(y)), BOUNDED_AT_ONCE):
        found = _bound(method)(network, threat, x[chosen], y[chosen])
        lower[chosen], worst[chosen] = (np.asarray(one) for one in found)
    return lower, worst


@lru_cache(maxsize=8)
def _estimate(projections: int) -> Callable:
    def one(key, network, threat, x, y):
        found = bounds.estimate(key, network, threat, x, label(y), projections)
        return jnp.min(found.margins[others(network, label(y))])

    return jax.jit(jax.vmap(one, in_axes=(None, None, None, 0, 0)))


def estimate(
    key: PRNGKeyArray, network: Network, threat: Threat, x: Float[Array, "n d"], y: Int[Array, " n"], projections: int
) -> Float[np.ndarray, " n"]:
    """The smallest margin of every image as random projections estimate COAP's bound: it proves nothing."""
    least = np.zeros(len(y), x.dtype)
    for chosen in _chunks(np.arange(len(y)), BOUNDED_AT_ONCE):
        least[chosen] = np.asarray(_estimate(projections)(key, network, threat, x[chosen], y[chosen]))
    return least


def by_class(wrong: np.ndarray, y: np.ndarray, classes: int) -> Float[np.ndarray, " classes"]:
    """The error of every class; NaN for a class without an image."""
    counts = np.bincount(y, minlength=classes)
    sums = np.bincount(y, weights=wrong, minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def discrepancy(wrong: np.ndarray, y: np.ndarray, classes: int) -> float:
    """(max_k R_k - R) / (1 - R): how far the worst class lags, 0 if all classes fare alike, 1 if one is always wrong.

    NaN where all images are wrong or a class has none.  **Source:** thesis, section 3.1.
    """
    error = float(np.mean(wrong))
    return float((np.max(by_class(wrong, y, classes)) - error) / (1 - error)) if error < 1 else float("nan")


def evaluate(
    key: PRNGKeyArray,
    network: Network,
    threat: Threat,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    *,
    steps: int,
    starts: int,
    methods: Sequence[str],
    projections: int = 0,
    directions: dict[str, Float[Array, "n d"]] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """The numbers of the module's table on given images.

    `methods` are the bounds to certify with; `projections` > 0 asks for the estimate.  `directions` names unit vectors
    at every image: alignment_attack_(name) and alignment_dual_(name) are the mean cosines with them of the cascade's
    perturbation and of the dual vector of the last bound, over the images where these are not 0.
    """
    attack_key, estimate_key = jr.split(key)
    attacked = attack(attack_key, network, threat, x, y, steps=steps, starts=starts, say=say)
    bounded = {}
    for method in methods:
        say(f"{method} on {len(y)} images")
        bounded[method] = bound(network, threat, x, y, method)
    labels, classes = np.asarray(y), network.classes
    wrong, broken = ~(attacked.clean > 0), ~(attacked.margin > 0)
    lower = {name: found[0] for name, found in bounded.items()}
    unproven = {name: ~(value > 0) for name, value in lower.items()}
    values: dict[str, Any] = {
        "standard_error": np.mean(wrong),
        "robust_error": np.mean(broken),
        "certified_error": np.mean(np.all(list(unproven.values()), axis=0)),
        **{f"certified_error_{name}": np.mean(value) for name, value in unproven.items()},
        "class_error": by_class(wrong, labels, classes),
        "class_robust_error": by_class(broken, labels, classes),
        "discrepancy": discrepancy(wrong, labels, classes),
        "robust_discrepancy": discrepancy(broken, labels, classes),
        "excess": max(float(np.max(value - attacked.margin)) for value in lower.values()),
        "broken_by": np.array([np.mean(attacked.broken_by == at) for at in range(len(cascade_of(classes)))]),
    }
    if projections:
        least = estimate(estimate_key, network, threat, x, y, projections)
        values["estimated_error"] = np.mean(~(least > 0))
    deltas = {"attack": attacked.delta, "dual": bounded[methods[-1]][1]}
    for name, vectors in (directions or {}).items():
        for which, delta in deltas.items():
            values[f"alignment_{which}_{name}"] = mean_cosine(vectors, delta)
    return values


@lru_cache(maxsize=8)
def _smallest(steps: int) -> Callable:
    """(network, threat, images, labels) -> the smallest perturbation that breaks each, and whether there is one."""

    def one(network, threat, x, y):
        found = attacks.fab(network, threat, x, label(y), steps=steps)
        return found.delta, (found.radius > 0) & jnp.isfinite(found.radius)

    return jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))


def towards_boundary(
    network: Network,
    threat: Threat,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    *,
    steps: int,
    say: Callable[[str], None] = lambda sentence: None,
) -> Float[np.ndarray, "n d"]:
    """At every image the direction of the smallest perturbation found that breaks a network, a unit vector.

    Of the threat only the shape counts (see `attacks.fab`).  0 where the network errs at the image itself, and where
    nothing was found.
    """
    directions = np.zeros(x.shape, x.dtype)
    for chosen in _chunks(np.arange(len(y)), ATTACKED_AT_ONCE):
        delta, there = (np.asarray(one) for one in _smallest(steps)(network, threat, x[chosen], y[chosen]))
        lengths = np.linalg.norm(delta, axis=1, keepdims=True)
        directions[chosen] = np.where(there[:, None] & (lengths > 0), delta / np.where(lengths > 0, lengths, 1), 0)
        say(f"smallest perturbations of {chosen[-1] + 1} of {len(y)} images")
    return directions


@jax.jit
def _cosines(a, b):
    return jax.vmap(cosine)(a, b)


def mean_cosine(directions: Float[Array, "n d"], deltas: Float[np.ndarray, "n d"]) -> float:
    """The mean cosine of perturbations with directions, over the images where both are not 0; NaN if there is none."""
    angles, defined = (np.asarray(one) for one in _cosines(jnp.asarray(directions), jnp.asarray(deltas)))
    return float(np.mean(angles[defined])) if np.any(defined) else float("nan")
