"""COAP with random projections: an estimate of the bound, as the papers trained with under l2 balls.  Not a bound.

With the chord's slopes the pre-activation of a neuron, seen from the input, is a linear function plus errors:
z_i in m_i +- (h(nu_i) + sum over layers of |diag(c) w_i|_1 / 2), where m is the pass of x through the layers with every
ReLU replaced by chord z + c/2, nu_i and w_i are the rows that a backward pass from neuron i leaves at the input and
behind a ReLU, and c are the intercepts of the upper lines.  Their lengths need a backward pass per neuron; instead a
few random vectors are passed forward.  For a Gaussian G with p columns |nu G|_2 / sqrt(p) estimates |nu|_2; for a
Cauchy C the median of |nu C| estimates |nu|_1.

**Source:** Wong et al. (2018), Scaling provable adversarial defenses, arXiv 1805.12514; derived again here.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator.bounds.backward import bounded, lower_of_rows
from simulator.bounds.bound import unstable_share
from simulator.bounds.box import Box, relu_lines
from simulator.bounds.head import Head, split
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
    bound.  Raises `ValueError` for a threat other than `L2` and `LInf`, a residual network, or projections < 1.
    """
    if not isinstance(threat, (L2, LInf)):
        raise ValueError(f"random projections estimate l2 and l1 lengths, not {type(threat).__name__}: use L2 or LInf")
    if any(isinstance(layer, Residual) for layer in network.layers):
        raise ValueError("random projections are for layers in a row: use a bound for residual networks")
    if projections < 1:
        raise ValueError(f"projections is {projections}: give at least 1")
    head, layers = split(network.layers)
    z = head(x)
    boxes = _boxes(key, head, layers, threat, z, projections)
    steps = bounded(layers, iter(boxes), lambda box: relu_lines(box, "same"))
    rows = contrast(network, label, jnp.arange(network.classes))
    return Estimate(lower_of_rows(head, steps, threat, z, rows), unstable_share(boxes, x.dtype))


def _boxes(
    key: PRNGKeyArray, head: Head, layers: Layers, threat: Threat, z: Float[Array, " h"], projections: int
) -> list[Box]:
    """The box before every ReLU: the first exact, the others estimated."""
    boxes: list[Box] = []
    errors: list[Array] = []
    middle, at_input = z, _pushed_input(jr.fold_in(key, len(layers)), head, threat, z, projections)
    for number, layer in enumerate(layers):
        if not isinstance(layer, ReLU):
            middle = layer(middle)
            at_input, *errors = (jax.vmap(layer.linear)(vectors) for vectors in (at_input, *errors))
            continue
        reach = _length(threat, at_input) + sum((_cauchy_length(e) for e in errors), jnp.zeros_like(middle))
        boxes.append(Box(middle, reach) if boxes else head.box(threat, z))
        lines = relu_lines(boxes[-1], "same")
        middle = lines.above * middle + lines.intercept / 2
        at_input, *errors = (lines.above[None] * vectors for vectors in (at_input, *errors))
        noise = jr.cauchy(jr.fold_in(key, number), (projections, middle.size), middle.dtype)
        errors.append(noise * lines.intercept[None] / 2)
    return boxes


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
