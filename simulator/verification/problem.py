"""The question in double precision, with everything that is proven about it before a search starts."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simulator import attacks, bounds
from simulator.networks import Affine, Network, ReLU, contrast, margins, others
from simulator.threats import Threat

METHODS = ("ibp", "crown")
"""The bounds before each ReLU are the tighter of these, neuron by neuron."""

_STEPS = 30


class Problem(NamedTuple):
    """min over delta in B and over rows C of <C, outputs(x + delta)>; every array is in double precision."""

    network: Network
    threat: Threat
    """A convex set; of a union, one member."""
    x: Float[np.ndarray, " d"]
    label: int
    rows: Float[np.ndarray, "rivals outputs"]
    """`contrast` against every other class."""
    lower: list[Float[np.ndarray, " width"]]
    upper: list[Float[np.ndarray, " width"]]
    """Bounds before every ReLU, rounded outwards."""
    proven: Float[np.ndarray, " rivals"]
    """Lower bounds of every row, rounded down."""
    rounding: float
    """The largest error of a margin."""
    unit: float
    """The error of a sum of products through the network, in units of the sum of its absolute terms."""

    @property
    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(weight, bias) of the affine layers."""
        return [(np.asarray(layer.weight), np.asarray(layer.bias)) for layer in self.network.layers[::2]]


def check(network: Network, threat: Threat, x: Any, label: int) -> None:
    """Raise `ValueError` unless everything is one plain dense network, one example and one radius."""
    kinds = [type(layer) for layer in network.layers]
    wanted = [Affine if index % 2 == 0 else ReLU for index in range(len(kinds))]
    if kinds != wanted or len(kinds) % 2 == 0:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"the layers are {names}, but only Affine, ReLU, ..., Affine in turn can be verified exactly")
    ranks = {layer.weight.ndim for layer in network.layers[::2]} | {np.ndim(x) + 1}
    if ranks != {2} or any(np.ndim(leaf) > 0 for leaf in [threat.radius]):
        raise ValueError("a batch of networks, radii or examples was given: verify one example [d] at a time")
    dim = network.layers[0].weight.shape[1]
    if np.shape(x) != (dim,):
        raise ValueError(f"x has shape {np.shape(x)}, but the network takes [{dim}]")
    if not 0 <= label < network.classes:
        raise ValueError(f"label is {label}, but it is a class index 0..{network.classes - 1}")
    leaves = jax.tree.leaves((network, threat, x))
    if not all(np.all(np.isfinite(np.asarray(leaf))) for leaf in leaves):
        raise ValueError("a weight, a number of the threat or of x is not finite, so that there is no margin to bound")


def double(tree: Any) -> Any:
    """The same tree in double precision, where that is enabled."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), tree)


def attack(network: Network, threat: Threat, x: Any, label: Any, start: Any) -> attacks.Attack:
    """The attack of a search: from one point, on the margin."""
    return attacks.apgd(network, threat, x, label, steps=_STEPS, objective="margin", start=start)


class Known(NamedTuple):
    """What bounds say about one example, rounding included."""

    lower: list[Array]
    upper: list[Array]
    proven: Array
    rounding: Array
    unit: float


def known(network: Network, threat: Threat, x: Any, label: Any) -> Known:
    """Bounds before every ReLU, rounded outwards, and lower bounds of every row, rounded down.

    A sum of n products is off by at most n eps times the sum of its absolute values (eps = 2^-52): through the network
    n is the sum of all widths, taken four times.  A backward bound through k layers sums up to 2^k times the terms of
    the value itself, since each ReLU adds an intercept no larger than the bound it replaces.
    """
    rows = contrast(network, label, others(network, label))
    boxes = [bounds.preactivations(network, threat, x, method) for method in METHODS]
    proven = jnp.stack([bounds.lower(network, threat, x, rows, method) for method in METHODS])
    affine = network.layers[::2]
    unit = 2.0**-52 * 4 * (x.size + sum(layer.bias.size for layer in affine))
    axes, slack = jnp.eye(x.size, dtype=x.dtype), []
    size = jnp.abs(x) + jnp.maximum(jax.vmap(threat.support)(axes), jax.vmap(threat.support)(-axes))
    for layer in affine:
        size = jnp.abs(layer.weight) @ size + jnp.abs(layer.bias)
        slack.append(unit * 2 ** len(affine) * size)
    rounding = jnp.abs(rows) @ slack[-1]
    return Known(
        [jnp.max(jnp.stack([box.lower for box in each]), axis=0) - off for each, off in _layers(boxes, slack)],
        [jnp.min(jnp.stack([box.upper for box in each]), axis=0) + off for each, off in _layers(boxes, slack)],
        jnp.max(proven, axis=0) - rounding,
        jnp.max(rounding),
        unit,
    )


def _layers(boxes: list[list[bounds.Box]], slack: list[Array]) -> Any:
    """The boxes of all methods with their slack, layer by layer; the last slack is that of the outputs."""
    return zip(zip(*boxes, strict=True), slack[:-1], strict=True)


_known, _attack = eqx.filter_jit(known), eqx.filter_jit(attack)


def problems(network: Network, threat: Threat, x: Any, label: Any) -> list[Problem]:
    """The questions about the convex members of a threat, each with its bounds.

    Raises `ValueError` for anything but a plain dense network, one example, one radius and a class index.
    """
    label = int(label)
    check(network, threat, x, label)
    with jax.enable_x64(True):
        network, threat = double((network, threat))
        x, pieces = np.asarray(x, np.float64), threat.pieces()
        if pieces is None:
            return [_problem(network, threat, x, label)]
        count = jax.tree.leaves(pieces)[0].shape[0]
        members = [jax.tree.map(lambda leaf, j=j: leaf[j], pieces) for j in range(count)]
        return [_problem(network, member, x, label) for member in members]


def _problem(network: Network, threat: Threat, x: np.ndarray, label: int) -> Problem:
    index = jnp.asarray(label, jnp.int32)
    rows = np.asarray(contrast(network, index, others(network, index)))
    found = _known(network, threat, x, index)
    lower, upper, proven, rounding = jax.tree.map(np.asarray, found[:4])
    return Problem(network, threat, x, label, rows, lower, upper, proven, float(rounding), found.unit)


def attained(problem: Problem, delta: np.ndarray) -> tuple[float, np.ndarray]:
    """The smallest margin at the member nearest to delta, and that member."""
    with jax.enable_x64(True):
        margin, inside = _at_member(problem.network, problem.threat, problem.x, _index(problem), delta)
    return float(margin), np.asarray(inside)


def attacked(problem: Problem, start: np.ndarray) -> tuple[float, np.ndarray]:
    """The smallest margin that an attack finds from a start, or at x itself, and the member behind it."""
    with jax.enable_x64(True):
        found = _attack(problem.network, problem.threat, problem.x, _index(problem), start)
    return attained(problem, np.asarray(found.delta))


def _index(problem: Problem) -> Array:
    return jnp.asarray(problem.label, jnp.int32)


@eqx.filter_jit
def _at_member(network: Network, threat: Threat, x: Any, label: Any, delta: Any) -> tuple[Array, Array]:
    inside = threat.project(delta)
    return jnp.min(margins(network, x + inside, label)), inside


def remaining(limit: float | None, spent: float) -> float:
    """What is left of a time limit in seconds, not below 0; infinite without one."""
    return math.inf if limit is None else max(limit - spent, 0.0)
