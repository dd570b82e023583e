"""The upper side of the sandwich: certified lower bounds on a network's margins over a threat.

Everything here walks our own layer list for one example; batches are `jax.vmap`.  Three ways to bound a ReLU network:

- *interval*: boxes carried forward; the linear layers it starts with by the threat's support function, exact there;
- *forward*: two planes per neuron in terms of the input, carried forward;
- *backward*: a linear lower bound carried from the margin back to the input, each unstable ReLU (l < 0 < u) replaced by
  a pair of lines, the input term resolved by the support function: min over B of <w, x + delta> = <w, x> - h(-w).

A `Method` says which of them gives the pre-activation bounds, which the final bound, and which lines a ReLU gets.
`METHODS` is the table; a new bound of this family is a new row.

No row dominates another: for one unstable neuron with positive outgoing weight, `ibp` is exact and `coap` is not.
Interval bounds tighten monotonically as the radius shrinks; the backward bounds need not.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator.bounds.backward import Steps, backward, bounded, resolve
from simulator.bounds.box import Box, relu_lines
from simulator.bounds.boxes import backward_boxes
from simulator.bounds.forward import Planes, forward
from simulator.bounds.head import Head, largest_vector, over_rows, split
from simulator.bounds.interval import interval
from simulator.bounds.methods import Method, method_of
from simulator.bounds.optimised import optimised_steps
from simulator.networks import Affine, Layers, Network, by_row, contrast, times
from simulator.threats import Threat


class Bound(eqx.Module):
    """What a method proves about one example."""

    lower: Float[Array, " K"]
    """Lower bounds of logit[label] - logit[k] over x + B; 0 at k = label."""
    worst: Float[Array, "K d"]
    """The perturbation at which the linear bound attains its minimum (the dual vector's perturbation); for "ibp" and
    "forward", which have none, `threat.worst` of minus the gradient of the bound with respect to x."""
    unstable: Float[Array, ""]
    """The share of hidden neurons with l < 0 < u."""


def preactivations(network: Network, threat: Threat, x: Float[Array, " d"], method: str) -> list[Box]:
    """The bounds the method uses before each ReLU, from the first hidden layer to the last (empty if linear).

    Raises `ValueError` for an unknown method.
    """
    head, layers = split(network.layers)
    return _boxes_of(head, layers, threat, x, head(x), method_of(method))


def _boxes_of(
    head: Head, layers: Layers, threat: Threat, x: Float[Array, " d"], z: Float[Array, " h"], method: Method
) -> list[Box]:
    """The box before every ReLU of the layers after a head, whose value at x is z."""
    if not layers:
        return []
    match method.intermediates:
        case "interval":
            return interval(layers[:-1], head.box(threat, z))[0]
        case "forward":
            return _forward(head, layers[:-1], threat, x, method)[0]
        case _:
            return backward_boxes(head, layers, threat, z, method)


def _forward(head: Head, layers: Layers, threat: Threat, x: Float[Array, " d"], method: Method):
    def lines_of(box):
        return relu_lines(box, method.slope, method.upper)

    return forward((*head.layers, *layers), threat, x, Planes.identity(x), lines_of)


def _steps_of_row(
    head: Head, layers: Layers, boxes: list[Box], threat: Threat, z: Float[Array, " h"], method: Method
) -> Callable[[Float[Array, " outputs"]], Steps]:
    """row of the outputs -> the steps of the layers with the lines to bound it by."""
    if method.ascents and layers:
        return lambda row: optimised_steps(head, layers, boxes, threat, z, row, method)
    # The same for all rows.
    steps = bounded(layers, iter(boxes), lambda box: relu_lines(box, method.slope, method.upper))
    return lambda row: steps


def _merged(network: Network, rows: Float[Array, "m outputs"]) -> Layers:
    """The layers with rows @ (last layer) in place of the last layer."""
    last = network.layers[-1]
    return (*network.layers[:-1], Affine(rows @ last.weight, rows @ last.bias))


def _without_lines(
    network: Network, threat: Threat, x, rows: Float[Array, "m outputs"], method: Method, merged: bool
) -> Float[Array, " m"]:
    """Lower bounds of rows @ outputs by a forward pass."""
    # With a single output there is nothing to gain by merging: |c w| = |c| |w|.
    merges = merged and rows.shape[1] > 1
    head, layers = split(_merged(network, rows) if merges else network.layers)
    if method.final == "forward":
        box = _forward(head, layers, threat, x, method)[1].box(threat, x)
    else:
        box = interval(layers, head.box(threat, head(x)))[1]
    if merges:
        return box.lower
    return by_row(lambda row: times(jnp.maximum(row, 0), box.lower) + times(jnp.minimum(row, 0), box.upper), rows)


def lower(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    rows: Float[Array, "m outputs"],
    method: str,
    merged: bool = True,
) -> Float[Array, " m"]:
    """Lower bounds over x + B of rows @ outputs, for any linear functions of the outputs (see `networks.contrast`)."""
    row = method_of(method)
    if row.final != "backward":
        return _without_lines(network, threat, x, rows, row, merged)
    head, layers = split(network.layers)
    z = head(x)
    steps = _steps_of_row(head, layers, _boxes_of(head, layers, threat, x, z, row), threat, z, row)
    largest = largest_vector(head, layers, z)
    return over_rows(lambda one: resolve(head, threat, z, *backward(steps(one), one)), rows, largest)


def _gradient_worst(network: Network, threat: Threat, x, rows, method: str, merged: bool) -> Float[Array, "m d"]:
    _, pull = jax.vjp(lambda point: lower(network, threat, point, rows, method, merged), x)
    gradients = jax.vmap(lambda one: pull(one)[0])(jnp.eye(rows.shape[0], dtype=x.dtype))
    return jax.vmap(threat.worst)(-gradients)


def margin(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    method: str = "coap",
    merged: bool = True,
) -> Bound:
    """Certified lower bounds of logit[label] - logit[k], k = 0..K-1, over x + B: the one call everything uses.

    `threat` is the set at this example (`threat.at(x, signal)` where it depends on it); `method` is a key of `METHODS`.
    `merged=False` bounds the logits separately before subtracting, for "ibp" and "forward" only: a looser bound than
    folding the subtraction into the last layer.  Values and gradients with respect to weights, x and radius are finite
    everywhere.  Raises `ValueError` for an unknown method.

    **Source:** Wong & Kolter (2018) for "coap"; Zhang et al. (2018, 2020) for "crown" and "crown-ibp"; Gowal et al.
    (2018) for "ibp".
    """
    row = method_of(method)
    rows = contrast(network, label, jnp.arange(network.classes))
    head, layers = split(network.layers)
    z = head(x)
    boxes = _boxes_of(head, layers, threat, x, z, row)
    if row.final != "backward":
        bound = lower(network, threat, x, rows, method, merged)
        worst = _gradient_worst(network, threat, x, rows, method, merged)
    else:
        steps = _steps_of_row(head, layers, boxes, threat, z, row)

        def resolved(one):
            slopes, constant = backward(steps(one), one)
            return resolve(head, threat, z, slopes, constant), head.worst(threat, -slopes)

        bound, worst = over_rows(resolved, rows, largest_vector(head, layers, z))
    return Bound(bound, worst, unstable_share(boxes, x.dtype))


def unstable_share(boxes: list[Box], dtype) -> Float[Array, ""]:
    """The share of neurons with l < 0 < u; 0 for a linear network, which has none."""
    if not boxes:
        return jnp.zeros((), dtype)
    unstable = jnp.concatenate([box.unstable for box in boxes])
    return jnp.mean(unstable.astype(dtype))
