"""The perturbations an iterative attack moves among, in the coordinates in which its steps are cheapest."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from simulator.attacks.attack import Attack, Objective, objective_of
from simulator.networks import Network, margins
from simulator.threats import L2, Threat

Point = Any
"""A perturbation, as a pytree in which a sum of perturbations is the sum of the leaves."""


def total(*terms: tuple[Any, Point]) -> Point:
    """The sum of (factor, point) terms."""
    return jax.tree.map(
        lambda *leaves: sum(factor * leaf for (factor, _), leaf in zip(terms, leaves, strict=True)),
        *(point for _, point in terms),
    )


class Walk(eqx.Module):
    """The perturbations an iterative attack moves among, in coordinates that make its steps cheap."""

    first: Point
    """The point the attack starts at."""
    ascend: Callable
    """point -> ((objective, smallest margin), gradient)."""
    worst: Callable
    """gradient -> the member of the threat furthest along it, as a point."""
    project: Callable
    """point -> the nearest member of the threat, as a point."""
    attack: Callable
    """(point, smallest margin there) -> the same as an `Attack`."""


def walk_of(network: Network, threat: Threat, x, label, objective: Objective, start) -> Walk:
    """Perturbations themselves, or the same ones in the coordinates of the first layer where that is cheaper."""
    affine = network.layers[0]
    if len(network.layers) > 1 and isinstance(threat, L2) and affine.weight.shape[0] < 2 * affine.weight.shape[1]:
        return _hidden_walk(network, threat, x, label, objective, start)
    first = threat.project(jnp.zeros_like(x) if start is None else start)
    value = objective_of(objective, network, x, label)
    return Walk(first, jax.value_and_grad(value, has_aux=True), threat.worst, threat.project, Attack)


def _hidden_walk(network: Network, ball: L2, x, label, objective: Objective, start) -> Walk:
    """An l2 attack without a product over the d inputs in any step, for networks whose first layer W is affine.

    Every gradient with respect to x is W^T g, so the iterates are delta = W^T c + s start.  A point is (c, W delta, s,
    <start, delta>): W delta is all the rest of the network needs to know, and |delta|^2 = c . W delta + s <start,
    delta>.  A step costs one product with W W^T, which all examples share; it is the cheaper form while h < 2 d.
    """
    affine, rest = network.layers[0], Network(network.layers[1:])
    gram, z, radius = affine.weight @ affine.weight.T, affine(x), jnp.asarray(ball.radius, x.dtype)
    value = objective_of(objective, rest, z, label)
    origin = jnp.zeros_like(x) if start is None else start
    along = jnp.zeros_like(z) if start is None else affine.weight @ start
    zero = jnp.zeros((), x.dtype)

    def scale_to(length, square):
        return jnp.where(square > 0, length * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)

    def square_of(point):
        c, image, s, product = point
        # Not c @ image: a batch of dot products is slower than the sum of a product.
        return jnp.sum(c * image) + s * product

    def ascend(point):
        return jax.value_and_grad(value, has_aux=True)(point[1])

    def worst(gradient):
        point = (gradient, gradient @ gram, zero, jnp.sum(along * gradient) if start is not None else zero)
        return total((scale_to(radius, square_of(point)), point))

    def project(point):
        square = square_of(point)
        return total((jnp.where(square > radius**2, scale_to(radius, square), 1), point))

    def attack(point, _):
        delta = point[0] @ affine.weight
        # Where rows of W cancel, the length above is a poor one: the ball decides once more, in full.
        delta = ball.project(delta if start is None else delta + point[2] * start)
        return Attack(delta, jnp.min(margins(network, x + delta, label)))

    first = (jnp.zeros_like(z), along, zero if start is None else zero + 1, jnp.sum(origin * origin))
    return Walk(project(first), ascend, worst, project, attack)


def either(first: Array, one: Any, other: Any) -> Any:
    """`one` where `first`, else `other`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)
