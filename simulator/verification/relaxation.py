r"""Lower bounds under split neurons, for a batch of subproblems at once.

A subproblem fixes the sign of some pre-activations: s_j z_j >= 0 with s_j = +1 (active) or -1 (inactive), s_j = 0 where
neuron j is not split.  Below it f = <row, outputs(x + delta)> is bounded from the outputs backwards.  For a row r on
the hidden values h of a layer:

- a stable or split neuron is a line: h = z or h = 0;
- another one has alpha z <= h <= u (z - l) / (u - l) for any 0 <= alpha <= 1, so r h >= r alpha z where r >= 0 and
  r h >= r u (z - l) / (u - l) where r < 0;
- for any beta_j >= 0, f >= f - sum_j beta_j s_j z_j on the subproblem: beta_j s_j is subtracted from the row on z.

What remains is <w, x + delta> + c, whose least value over all of B is <w, x> + c - h(-w), h the support function.  It
is a lower bound for every alpha and beta; the best ones are the multipliers of the linear (for a ball: conic) program
with triangles for ReLUs, whose value the ascent here approaches.  Where every unstable neuron is split, that program
is the subproblem itself.

**Source:** Wang et al. (2021), arXiv 2103.06624 (beta-CROWN); derived again here.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.networks import Layers, Network, ReLU, margins
from simulator.threats import Threat


class Node(eqx.Module):
    """A subproblem and its multipliers; over the hidden neurons of all layers in turn."""

    row: Float[Any, "*batch outputs"]
    split: Float[Any, "*batch H"]
    """+1, -1, or 0 where not split."""
    alpha: Float[Any, "*batch H"]
    beta: Float[Any, "*batch H"]


class Bounded(eqx.Module):
    """What is known of a subproblem after its ascent."""

    node: Node
    lower: Float[Array, "*batch"]
    """Proven, rounding included."""
    branch: Int[Array, "*batch"]
    """The unstable neuron whose split promises most; -1 where all are split."""
    delta: Float[Array, "*batch d"]
    """The minimiser of the bound's linear function over B."""
    margin: Float[Array, "*batch"]
    """The smallest margin there."""


def _by_layer(values: Float[Array, " H"], widths: list[int]) -> list[Array]:
    ends = [sum(widths[: index + 1]) for index in range(len(widths))]
    return jnp.split(values, ends[:-1]) if widths else []


class Lines(eqx.Module):
    """Of every neuron of a layer: h >= lower z and h <= upper z + intercept on the subproblem."""

    lower: Float[Array, " width"]
    upper: Float[Array, " width"]
    intercept: Float[Array, " width"]
    loose: Float[Array, " width"]
    """1 where the two differ, else 0."""


def _lines(low: Array, high: Array, split: Array, alpha: Array) -> Lines:
    loose = (low < 0) & (high > 0) & (split == 0)
    active = jnp.where((low >= 0) | (split > 0), jnp.ones_like(low), 0)
    # A neuron that is split against a stable sign is a contradiction: any line holds on the empty set.
    chord = high / jnp.where(loose, high - low, 1)
    return Lines(
        jnp.where(loose, alpha, active),
        jnp.where(loose, chord, active),
        jnp.where(loose, -chord * low, 0),
        loose.astype(low.dtype),
    )


def _linear(
    layers: Layers, row: Array, lines: list[Lines], pushes: list[Array]
) -> tuple[Array, Array, Array, Array, list[Array]]:
    """(w, c) of the bound, the same with every term at its absolute value, and the rows on the hidden layers."""
    constant, absolute, size = jnp.zeros((), row.dtype), jnp.abs(row), jnp.zeros((), row.dtype)
    left, rows = list(zip(lines, pushes, strict=True)), list[Array]()
    for layer in reversed(layers):
        if isinstance(layer, ReLU):
            line, push = left.pop()
            rows.insert(0, row)
            constant = constant + jnp.sum(jnp.where(row < 0, row * line.intercept, 0))
            size = size + absolute @ line.intercept
            row = row * jnp.where(row < 0, line.upper, line.lower) - push
            absolute = absolute * jnp.maximum(line.upper, line.lower) + jnp.abs(push)
        else:
            constant, size = constant + row @ layer.bias, size + absolute @ jnp.abs(layer.bias)
            row, absolute = row @ layer.weight, absolute @ jnp.abs(layer.weight)
    return row, constant, absolute, size, rows


def _bound(network: Network, threat: Threat, x: Array, box: tuple[Array, Array], unit: Array, node: Node) -> Any:
    """The bound, the minimiser of its linear function, and what splitting each neuron promises."""
    widths = [layer.bias.shape[0] for layer in network.layers[:-1:2]]
    low, high, split, alpha, push = (
        _by_layer(values, widths) for values in (*box, node.split, node.alpha, node.beta * node.split)
    )
    lines = [_lines(*each) for each in zip(low, high, split, alpha, strict=True)]
    w, constant, absolute, size, rows = _linear(network.layers, node.row, lines, push)
    reach = threat.support(-w)
    largest = size + absolute @ jnp.abs(x) + jnp.abs(reach)
    lower = w @ x + constant - reach - unit * largest
    # At most row * (difference of the two lines) is lost at a neuron.
    losses = [
        jnp.where(row < 0, -row * line.intercept, row * jnp.maximum(-a * l, (1 - a) * u)) * line.loose
        for row, line, a, l, u in zip(rows, lines, alpha, low, high, strict=True)
    ]
    nothing = jnp.zeros(0, x.dtype)
    loose = jnp.concatenate([nothing, *(line.loose for line in lines)])
    return lower, (threat.worst(-w), jnp.where(loose > 0, jnp.concatenate([nothing, *losses]), -1))


def _climb(bound: Any, node: Node, scale: Array, steps: Array) -> Node:
    """The best alpha and beta of `steps` that Adam, projected, meets; beta moves in units of `scale`.

    Its rate falls from 0.2 to a fiftieth of that, since the bound has kinks at which a fixed one would oscillate.
    Written out, since that of optax needs the dtypes of steps and numbers promoted implicitly.
    """
    width, dtype = scale.shape[0], scale.dtype

    def at(free):
        return eqx.tree_at(lambda one: (one.alpha, one.beta), node, (free[:width], free[width:] * scale))

    def step(index, state):
        free, mean, square, best, best_value = state
        now, slope = jax.value_and_grad(lambda point: bound(at(point))[0])(free)
        best, best_value = jnp.where(now > best_value, free, best), jnp.maximum(now, best_value)
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        done = jnp.asarray(index, dtype)
        rate = 0.2 * 0.02 ** (done / jnp.asarray(steps, dtype))
        move = mean / (1 - 0.9 ** (done + 1)) / (jnp.sqrt(square / (1 - 0.99 ** (done + 1))) + 1e-12)
        free = jnp.maximum(free + rate * move, 0)
        return free.at[:width].min(1), mean, square, best, best_value

    first = jnp.concatenate([node.alpha, node.beta / scale])
    still = jnp.zeros_like(first)
    begin = (first, still, still, first, jnp.full((), -jnp.inf, dtype))
    return at(jax.lax.fori_loop(0, steps, step, begin)[3])


@eqx.filter_jit
def examine(
    network: Network,
    threat: Threat,
    x: Float[Any, " d"],
    label: Int[Any, ""],
    box: tuple[Float[Any, " H"], Float[Any, " H"]],
    unit: Float[Any, ""],
    scale: Float[Any, " H"],
    nodes: Node,
    steps: Int[Any, ""],
) -> Bounded:
    """Bounds of a batch of nodes after `steps` of ascent (0: at the multipliers given)."""

    def one(node):
        def bound(node):
            return _bound(network, threat, x, box, unit, node)

        node = _climb(bound, node, scale, steps)
        lower, (delta, losses) = bound(node)
        branch = jnp.where(jnp.max(losses) >= 0, jnp.argmax(losses), -1) if losses.size else jnp.full((), -1)
        return Bounded(node, lower, branch, delta, jnp.min(margins(network, x + delta, label)))

    return jax.vmap(one)(nodes)
