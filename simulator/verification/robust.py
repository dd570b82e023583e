"""The smallest margin by whatever solves it exactly, and the exact robust error of a sample."""

import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from simulator import attacks, networks
from simulator.networks import Network
from simulator.threats import Threat
from simulator.verification.branch import branch_and_bound
from simulator.verification.milp import milp
from simulator.verification.polytopes import is_polyhedral
from simulator.verification.problem import attack, attained, check, double, known, problems
from simulator.verification.verdict import RobustError, Verdict, ended

CHUNK = 50
"""Examples bounded and attacked at once."""


def smallest_margin(
    network: Network,
    threat: Threat,
    x: Any,
    label: Any,
    *,
    tolerance: float = 1e-3,
    threshold: float | None = None,
    max_nodes: int = 20_000,
    time_limit: float | None = None,
) -> Verdict:
    """The smallest margin min over k != label, over x + B, of logit[label] - logit[k], of one example.

    By `attacks.exact` where it knows the value, by `milp` for polytopes and unions of them, else by `branch_and_bound`,
    to which `threshold` and `max_nodes` go; all obey `tolerance`, the last two `time_limit` (seconds).  `threat` is the
    set at this example.  Raises `ValueError` for another network than a plain dense one, or a batch.
    """
    if attacks.has_exact(network, threat):
        return _closed_form(network, threat, x, label, tolerance)
    if is_polyhedral(threat):
        return milp(network, threat, x, label, tolerance=tolerance, time_limit=time_limit)
    return branch_and_bound(
        network,
        threat,
        x,
        label,
        tolerance=tolerance,
        threshold=threshold,
        max_nodes=max_nodes,
        time_limit=time_limit,
    )


_exact = eqx.filter_jit(attacks.exact)


def _closed_form(network: Network, threat: Threat, x: Any, label: Any, tolerance: float) -> Verdict:
    start = time.perf_counter()
    members = problems(network, threat, x, label)
    with jax.enable_x64(True):
        network, threat, x = double((network, threat, x))
        found = _exact(network, threat, x, jnp.asarray(int(label), jnp.int32))
    upper, delta = attained(members[0]._replace(threat=threat), np.asarray(found.delta))
    lower = min(float(found.margin), upper) - max(member.rounding for member in members)
    return Verdict(lower, upper, delta, ended(lower, upper, tolerance, None), 0, time.perf_counter() - start)


def robust_error(
    network: Network,
    threat: Threat | Sequence[Threat],
    xs: Any,
    ys: Any,
    signals: Any = None,
    *,
    tolerance: float = 1e-3,
    max_nodes: int = 20_000,
    time_limit: float | None = None,
) -> RobustError:
    """The share of examples with a margin <= 0 somewhere in x + B, exact but for those that stay undecided.

    `threat` is one set for all examples, placed by `at(x, signal)` where `signals` [n, d] are given, or one set an
    example; `xs` are [n, d], `ys` [n] are -1, +1 or class indices.  An example that is misclassified at x or attacked
    is wrong at once, one that a bound certifies is right at once; `smallest_margin` decides the rest, each within
    `max_nodes` and `time_limit` (seconds).  None is dropped: those it leaves open count in `upper` alone.

    Raises `ValueError` for another network than a plain dense one, for no examples, and for lengths that differ.
    """
    xs, labels = np.asarray(xs), np.asarray(networks.label(jnp.asarray(ys)))
    placed = _placed(threat, xs, signals)
    if xs.ndim != 2 or not len(xs) or {len(labels), len(placed)} != {len(xs)}:
        raise ValueError(
            f"xs has shape {xs.shape}, ys {labels.shape} and there are {len(placed)} threats: "
            "give n >= 1 examples [n, d], n labels and one threat or n"
        )
    for one, x, label in zip(placed, xs, labels, strict=True):
        check(network, one, x, int(label))
    wrong, right = _screened(network, placed, xs, labels)
    for i in np.flatnonzero(~wrong & ~right):
        found = smallest_margin(
            network,
            placed[i],
            xs[i],
            labels[i],
            tolerance=tolerance,
            threshold=0.0,
            max_nodes=max_nodes,
            time_limit=time_limit,
        )
        wrong[i], right[i] = found.upper <= 0, found.lower > 0
    undecided = float(np.mean(~wrong & ~right))
    return RobustError(float(np.mean(wrong)), float(np.mean(~right)), undecided)


def _placed(threat: Threat | Sequence[Threat], xs: np.ndarray, signals: Any) -> list[Threat]:
    if not isinstance(threat, Threat):
        return list(threat)
    directions = [None] * len(xs) if signals is None else jnp.asarray(signals)
    return [threat.at(x, signal) for x, signal in zip(jnp.asarray(xs), directions, strict=True)]


def _screened(
    network: Network, placed: list[Threat], xs: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which examples are misclassified at x or at an attack's point, and which are certified by a bound."""
    with jax.enable_x64(True):
        network, xs = double((network, xs))
        threats = jax.tree.map(lambda *leaves: double(np.stack([np.asarray(one) for one in leaves])), *placed)
        margin, proven = _screen(network, threats, xs, np.asarray(labels, np.int32))
        return np.array(margin) <= 0, np.array(proven) > 0


@eqx.filter_jit
def _screen(network: Network, threats: Threat, xs: Any, labels: Any) -> tuple[Array, Array]:
    def one(example):
        threat, x, label = example
        clean = jnp.min(networks.margins(network, x, label))
        reached = attack(network, threat, x, label, jnp.zeros_like(x)).margin
        return jnp.minimum(clean, reached), jnp.min(known(network, threat, x, label).proven)

    return jax.lax.map(one, (threats, xs, labels), batch_size=CHUNK)
