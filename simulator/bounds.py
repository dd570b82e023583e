"""The upper side of the sandwich: certified lower bounds on a network's margins over a threat.

Everything here walks our own layer list for one example; batches are `jax.vmap`.  Two ways to bound a ReLU network:

- *interval*: boxes carried forward; the first affine layer by the threat's support function, which is exact there;
- *backward*: a linear lower bound carried from the margin back to the input, each unstable ReLU (l < 0 < u) replaced by
  a pair of lines, the input term resolved by the support function: min over B of <w, x + delta> = <w, x> - h(-w).

A `Method` says which of the two gives the pre-activation bounds, which the final bound, and which lower line a ReLU
gets.  `METHODS` is the table; a new bound of this family is a new row.

No row dominates another: for one unstable neuron with positive outgoing weight, `ibp` is exact and `coap` is not.
Interval bounds tighten monotonically as the radius shrinks; the backward bounds need not.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simulator.networks import Affine, Layers, Network, ReLU, by_row, contrast, times
from simulator.threats import Threat


class Method(eqx.Module):
    """A row of the table of bounds."""

    intermediates: str = eqx.field(static=True)
    """Pre-activation bounds by "interval" or "backward" propagation."""
    final: str = eqx.field(static=True)
    """The margin by "interval" or "backward" propagation."""
    slope: str = eqx.field(static=True, default="adaptive")
    """The lower line of an unstable ReLU, a key of `LOWER_SLOPES`."""


LOWER_SLOPES = {
    "adaptive": lambda middle, chord: (middle > 0).astype(chord.dtype),  # 1 or 0: whichever leaves the smaller triangle
    "same": lambda middle, chord: chord,  # parallel to the upper line: the Wong-Kolter dual
    "zero": lambda middle, chord: jnp.zeros_like(chord),
}

METHODS = {
    "ibp": Method("interval", "interval"),
    "crown-ibp": Method("interval", "backward", "adaptive"),
    "crown": Method("backward", "backward", "adaptive"),
    "coap": Method("backward", "backward", "same"),
    "crown-zero": Method("backward", "backward", "zero"),
    "crown-ibp-same": Method("interval", "backward", "same"),
    "crown-ibp-zero": Method("interval", "backward", "zero"),
}
"""Bounds by name.  ibp: Gowal et al. (2018).  coap: Wong & Kolter (2018).  crown: Zhang et al. (2018).
crown-ibp: Zhang et al. (2020).  The last three change only the lower line, to separate tightness from the rest."""


class Box(eqx.Module):
    """Elementwise bounds middle - reach <= z <= middle + reach, each [width].

    Kept so because the reach of a first layer is the same for every example: a batch divides by it once.
    """

    middle: Float[Array, " width"]
    reach: Float[Array, " width"]

    @staticmethod
    def between(lower: Float[Array, " width"], upper: Float[Array, " width"]) -> "Box":
        """The box with these corners."""
        return Box((upper + lower) / 2, (upper - lower) / 2)

    @property
    def lower(self) -> Float[Array, "*batch width"]:
        """The least values."""
        return self.middle - self.reach

    @property
    def upper(self) -> Float[Array, "*batch width"]:
        """The greatest values."""
        return self.middle + self.reach

    @property
    def unstable(self) -> Bool[Array, "*batch width"]:
        """Where 0 is inside: lower < 0 < upper."""
        return jnp.abs(self.middle) < self.reach


class Bound(eqx.Module):
    """What a method proves about one example."""

    lower: Float[Array, " K"]
    """Lower bounds of logit[label] - logit[k] over x + B; 0 at k = label."""
    worst: Float[Array, "K d"]
    """The perturbation at which the linear bound attains its minimum (the dual vector's perturbation); for "ibp",
    which has no linear bound, `threat.worst` of minus the gradient of the bound with respect to x."""
    unstable: Float[Array, ""]
    """The share of hidden neurons with l < 0 < u."""


def _method(name: str) -> Method:
    if name not in METHODS:
        raise ValueError(f"there is no bound {name!r}; the bounds are {', '.join(METHODS)}")
    return METHODS[name]


def _first_box(affine: Affine, threat: Threat, z: Float[Array, " h"]) -> Box:
    """Exact bounds of the first affine layer, whose value at x is z: z - h(-w) and z + h(w) for each row w."""
    up = jax.vmap(threat.support)(affine.weight)
    if threat.symmetric:
        return Box(z, up)
    down = jax.vmap(threat.support)(-affine.weight)
    return Box(z + (up - down) / 2, (up + down) / 2)


def _affine_box(affine: Affine, box: Box) -> Box:
    return Box(affine(box.middle), jnp.abs(affine.weight) @ box.reach)


def _interval_boxes(layers: Layers, threat: Threat, z: Float[Array, " h"]) -> list[Box]:
    """The box before every ReLU and, last, the box of the final affine layer; z is the first layer's value at x."""
    boxes = [_first_box(layers[0], threat, z)]
    for affine in layers[2::2]:
        before = boxes[-1]
        boxes.append(_affine_box(affine, Box.between(jax.nn.relu(before.lower), jax.nn.relu(before.upper))))
    return boxes


def _relu_lines(box: Box, slope: str) -> tuple[Array, Array, Array]:
    """Lower slope, upper slope and upper intercept of each ReLU; exact lines where the neuron is stable."""
    # A box too narrow for the square of its reach to be a number has no chord; its neuron is as good as stable.
    wide = box.reach > jnp.sqrt(jnp.finfo(box.reach.dtype).tiny)
    reach = jnp.where(wide, box.reach, 1)
    unstable, active = wide & box.unstable, (box.middle > 0).astype(box.middle.dtype)
    chord = 0.5 + box.middle * (0.5 / reach)  # u / (u - l)
    below, upper = LOWER_SLOPES[slope](box.middle, chord), jnp.where(unstable, chord, active)
    # Parallel lines are one array, not two equal ones: their gradients are then one sum over a batch.
    lower = upper if below is chord else jnp.where(unstable, below, active)
    return lower, upper, jnp.where(unstable, chord * (reach - box.middle), 0)


def _backward(
    layers: Layers, row: Float[Array, " out"], boxes: list[Box], slope: str
) -> tuple[Float[Array, " h"], Float[Array, ""]]:
    """(a, c) with <row, layers(x')> >= <a, (first affine layer)(x')> + c wherever the boxes hold."""
    constant = jnp.zeros((), row.dtype)
    remaining = list(boxes)
    for layer in reversed(layers[1:]):
        if isinstance(layer, ReLU):
            lower, upper, intercept = _relu_lines(remaining.pop(), slope)
            # A neuron is bounded from below where it counts positively, from above where it counts negatively.
            constant = constant + jnp.sum(jnp.where(row < 0, row * intercept, 0))
            row = row * (upper if lower is upper else jnp.where(row < 0, upper, lower))
        else:
            constant = constant + times(row, layer.bias)
            row = times(row, layer.weight)
    return row, constant


def _resolve(first: Affine, threat: Threat, z: Float[Array, " h"], row: Float[Array, " h"], constant) -> Array:
    """min over x + B of <row, first(x')> + constant, where z = first(x)."""
    return row @ z + constant + threat.least_through(first.weight, row)


def _backward_lower(
    layers: Layers, threat: Threat, z: Float[Array, " h"], rows: Float[Array, "m out"], boxes: list[Box], slope: str
) -> Float[Array, " m"]:
    """Lower bounds over x + B of <row, layers(x')>, where z is the first layer's value at x."""
    return by_row(lambda row: _resolve(layers[0], threat, z, *_backward(layers, row, boxes, slope)), rows)


def _backward_boxes(layers: Layers, threat: Threat, z: Float[Array, " h"], slope: str) -> list[Box]:
    """The box before every ReLU, each by a backward pass over the layers below it."""
    boxes = [_first_box(layers[0], threat, z)]
    for end in range(2, len(layers) - 1, 2):
        width = layers[end].bias.shape[0]
        identity = jnp.eye(width, dtype=z.dtype)
        rows = jnp.concatenate([identity, -identity])
        both = _backward_lower(layers[: end + 1], threat, z, rows, boxes, slope)
        boxes.append(Box.between(both[:width], -both[width:]))
    return boxes


def preactivations(network: Network, threat: Threat, x: Float[Array, " d"], method: str) -> list[Box]:
    """The bounds the method uses before each ReLU, from the first hidden layer to the last (empty if linear).

    Raises `ValueError` for an unknown method.
    """
    return _preactivations(network, threat, network.layers[0](x), _method(method))


def _preactivations(network: Network, threat: Threat, z: Float[Array, " h"], row: Method) -> list[Box]:
    if len(network.layers) == 1:
        return []
    if row.intermediates == "interval":
        return _interval_boxes(network.layers[:-1], threat, z)
    return _backward_boxes(network.layers, threat, z, row.slope)


def _merged(network: Network, rows: Float[Array, "m outputs"]) -> Layers:
    """The layers with rows @ (last layer) in place of the last layer."""
    last = network.layers[-1]
    return (*network.layers[:-1], Affine(rows @ last.weight, rows @ last.bias))


def _interval_lower(network: Network, threat: Threat, x, rows, merged: bool) -> Float[Array, " m"]:
    # With a single output there is nothing to gain by merging: |c w| = |c| |w|.
    if merged and rows.shape[1] > 1:
        layers = _merged(network, rows)
        return _interval_boxes(layers, threat, layers[0](x))[-1].lower
    box = _interval_boxes(network.layers, threat, network.layers[0](x))[-1]
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
    row = _method(method)
    if row.final == "interval":
        return _interval_lower(network, threat, x, rows, merged)
    z = network.layers[0](x)
    boxes = _preactivations(network, threat, z, row)
    return _backward_lower(network.layers, threat, z, rows, boxes, row.slope)


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
    `merged=False` bounds the logits separately before subtracting, for "ibp" only: a looser bound than folding the
    subtraction into the last layer.  Values and gradients with respect to weights, x and radius are finite everywhere.
    Raises `ValueError` for an unknown method.

    **Source:** Wong & Kolter (2018) for "coap"; Zhang et al. (2018, 2020) for "crown" and "crown-ibp"; Gowal et al.
    (2018) for "ibp".
    """
    row = _method(method)
    rows = contrast(network, label, jnp.arange(network.classes))
    first = network.layers[0]
    z = first(x)
    boxes = _preactivations(network, threat, z, row)
    if row.final == "interval":
        bound = lower(network, threat, x, rows, method, merged)
        worst = _gradient_worst(network, threat, x, rows, method, merged)
    else:

        def resolved(one):
            slopes, constant = _backward(network.layers, one, boxes, row.slope)
            return _resolve(first, threat, z, slopes, constant), threat.worst_through(first.weight, -slopes)

        bound, worst = by_row(resolved, rows)
    return Bound(bound, worst, unstable_share(boxes, x.dtype))


def unstable_share(boxes: list[Box], dtype) -> Float[Array, ""]:
    """The share of neurons with l < 0 < u; 0 for a linear network, which has none."""
    if not boxes:
        return jnp.zeros((), dtype)
    unstable = jnp.concatenate([box.unstable for box in boxes])
    return jnp.mean(unstable.astype(dtype))
