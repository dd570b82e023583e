"""COAP with random projections: an estimate of the bound, as the papers trained with under l2 balls.  Not a bound.

With the chord's slopes the pre-activation of a neuron, seen from the input, is a linear function plus errors:
z_i in m_i +- (h(nu_i) + sum over layers of |diag(c) w_i|_1 / 2), where m is the pass of x through the layers with every
ReLU replaced by chord z + c/2, nu_i and w_i are the rows that a backward pass from neuron i leaves at the input and
behind a ReLU, and c are the intercepts of the upper lines.  Their lengths need a backward pass per neuron; instead a
few random vectors are passed forward.  For a Gaussian G with p columns |nu G|_2 / sqrt(p) estimates |nu|_2; for a
Cauchy C the median of |nu C| estimates |nu|_1.

**Source:** Wong et al. (2018), Scaling provable adversarial defenses, arXiv 1805.12514; derived again here.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator.bounds.backward import bounded, lower_of_rows
from simulator.bounds.bound import unstable_share
from simulator.bounds.box import Box, relu_lines
from simulator.bounds.head import Head, over_rows, rows_at_once, split
from simulator.bounds.median import median
from simulator.networks import Layers, Network, ReLU, Residual, contrast
from simulator.threats import L2, LInf, Threat


class Estimate(eqx.Module):
    """What random projections make of the COAP bound of one example.  It may lie on either side of that bound, and of
    the truth: it proves nothing, and has another type than `Bound` so that nobody takes it for one."""

    margins: Float[Array, " K"]
    """Estimated lower bounds of logit[label] - logit[k] over x + B; 0 at k = label."""
    unstable: Float[Array, ""]
    """The share of hidden neurons with l < 0 < u, by the estimated boxes."""


def estimate(
    key: PRNGKeyArray,
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    projections: int = 50,
) -> Estimate:
    """The COAP margins with every pre-activation box behind the first ReLU estimated by `projections` random vectors.

    The first boxes and the last backward pass are exact, so that of a network with one hidden layer the estimate is the
    bound.  Raises `ValueError` for a threat other than `L2` and `LInf`, or projections < 1.
    """
    if not isinstance(threat, (L2, LInf)):
        raise ValueError(f"random projections estimate l2 and l1 lengths, not {type(threat).__name__}: use L2 or LInf")
    if projections < 1:
        raise ValueError(f"projections is {projections}: give at least 1")
    head, layers = split(network.layers)
    z = head(x)
    boxes = _boxes(key, head, layers, threat, z, projections)
    steps = bounded(layers, iter(boxes), lambda box: relu_lines(box, "same"))
    rows = contrast(network, label, jnp.arange(network.classes))
    return Estimate(lower_of_rows(head, steps, threat, z, rows), unstable_share(boxes, x.dtype))


class _Pushed(NamedTuple):
    """What has been passed forward to some place between layers."""

    middle: Float[Array, " h"]
    """The pass of x with every ReLU replaced by the middle of its lines."""
    at_input: Float[Array, "p h"]
    """Random vectors of the threat's radius, drawn at the input."""
    errors: tuple[Float[Array, "p h"], ...]
    """Random vectors drawn behind every ReLU so far, of the length of its intercepts."""


def _boxes(
    key: PRNGKeyArray, head: Head, layers: Layers, threat: Threat, z: Float[Array, " h"], projections: int
) -> list[Box]:
    """The box before every ReLU, in the order of the layers: the first exact, the others estimated."""
    at_input = _pushed_input(jr.fold_in(key, len(layers)), head, threat, z, projections)
    # Only what follows the head at once is known exactly.
    known = head.box(threat, z) if layers and isinstance(layers[0], ReLU) else None
    return _passed(key, layers, threat, _Pushed(z, at_input, ()), known)[1]


def _passed(
    key: PRNGKeyArray, layers: Layers, threat: Threat, pushed: _Pushed, known: Box | None = None
) -> tuple[_Pushed, list[Box]]:
    """What is behind the layers, and the boxes before their ReLUs; `known` is that of the first layer, if it is."""
    boxes: list[Box] = []
    for number, layer in enumerate(layers):
        own = jr.fold_in(key, number)
        if isinstance(layer, ReLU):
            boxes.append(_box_of(threat, pushed) if known is None or number else known)
            pushed = _activated(own, boxes[-1], pushed)
        elif isinstance(layer, Residual):
            pushed, inside = _around(own, layer, threat, pushed)
            boxes += inside
        else:
            middle = layer(pushed.middle)
            push = partial(over_rows, layer.linear, largest=max(pushed.middle.size, middle.size))
            pushed = _Pushed(middle, push(pushed.at_input), tuple(map(push, pushed.errors)))
    return pushed, boxes


def _around(key: PRNGKeyArray, block: Residual, threat: Threat, pushed: _Pushed) -> tuple[_Pushed, list[Box]]:
    """What is behind a residual block, and the boxes before its ReLUs."""

    def both(pushed: _Pushed) -> tuple[_Pushed, list[Box]]:
        along, past = (
            _passed(jr.fold_in(key, k), path, threat, pushed) for k, path in enumerate((block.branch, block.shortcut))
        )
        return _joined(pushed, along[0], past[0]), along[1] + past[1]

    projections, size = pushed.at_input.shape
    # Where memory does not allow all vectors at once, those inside a block are computed again for the gradient.
    fits = rows_at_once(projections, size, pushed.middle.dtype) == projections
    return both(pushed) if fits else jax.checkpoint(both)(pushed)


def _box_of(threat: Threat, pushed: _Pushed) -> Box:
    reach = _length(threat, pushed.at_input)
    return Box(pushed.middle, reach + sum((_cauchy_length(e) for e in pushed.errors), jnp.zeros_like(reach)))


def _activated(key: PRNGKeyArray, box: Box, pushed: _Pushed) -> _Pushed:
    """What is behind a ReLU before which this box is known: a source of errors more."""
    lines = relu_lines(box, "same")
    noise = jr.cauchy(key, pushed.at_input.shape, pushed.middle.dtype)
    return _Pushed(
        lines.above * pushed.middle + lines.intercept / 2,
        lines.above[None] * pushed.at_input,
        (*(lines.above[None] * error for error in pushed.errors), noise * lines.intercept[None] / 2),
    )


def _joined(before: _Pushed, first: _Pushed, second: _Pushed) -> _Pushed:
    """What two paths from the same place add up to: sources of errors that both have passed on, and those of one."""
    shared = len(before.errors)
    both = tuple(a + b for a, b in zip(first.errors[:shared], second.errors[:shared], strict=True))
    own = (*first.errors[shared:], *second.errors[shared:])
    return _Pushed(first.middle + second.middle, first.at_input + second.at_input, (*both, *own))


def _pushed_input(key: PRNGKeyArray, head: Head, threat: Threat, z: Float[Array, " h"], projections: int) -> Array:
    """Random vectors of the threat's radius at the input, behind the head: [projections, h]."""
    draw = jr.normal if isinstance(threat, L2) else jr.cauchy
    vectors = draw(key, (projections, head.inputs(z)), z.dtype) * jnp.asarray(threat.radius, z.dtype)
    for layer in head.layers:
        vectors = jax.vmap(layer.linear)(vectors)
    return vectors


def _length(threat: Threat, vectors: Float[Array, "p h"]) -> Float[Array, " h"]:
    """The estimate of the support from random vectors passed forward."""
    if not isinstance(threat, L2):
        return _cauchy_length(vectors)
    square = jnp.mean(vectors**2, axis=0)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _cauchy_length(vectors: Float[Array, "p h"]) -> Float[Array, " h"]:
    return median(jnp.abs(vectors))
