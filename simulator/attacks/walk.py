"""The perturbations an iterative attack moves among, in the coordinates in which its steps are cheapest."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.attacks.attack import Attack, Objective, objective_of
from simulator.networks import Affine, Network, margins
from simulator.threats import L2, Threat


class Point(eqx.Module):
    """The perturbation scale * parts.

    Two factors, since projecting onto a ball changes the scale alone, which is one number of an example.
    """

    scale: Float[Array, ""]
    parts: Any
    """A pytree in which a sum of perturbations is the sum of the leaves."""


def total(*terms: tuple[Any, Point]) -> Point:
    """The sum of (factor, point) terms."""
    factors = [factor * point.scale for factor, point in terms]
    parts = jax.tree.map(
        lambda *leaves: sum(factor * leaf for factor, leaf in zip(factors, leaves, strict=True)),
        *(point.parts for _, point in terms),
    )
    return Point(jnp.ones_like(factors[0]), parts)


class Walk(eqx.Module):
    """The perturbations an iterative attack moves among, in coordinates that make its steps cheap."""

    first: Point
    """The point the attack starts at."""
    ascend: Callable
    """point -> ((objective, smallest margin), gradient)."""
    uphill: Callable
    """gradient -> the step of the threat that climbs along it, as a point."""
    project: Callable
    """point -> the nearest member of the threat, as a point."""
    attack: Callable
    """(point, smallest margin there) -> the same as an `Attack`."""


def walk_of(network: Network, threat: Threat, x, label, objective: Objective, start) -> Walk:
    """Perturbations themselves, or the same ones in the coordinates of the first layer where that is cheaper."""
    if isinstance(threat, L2) and _narrows(network):
        return _hidden_walk(network, threat, x, label, objective, start)
    one, value = jnp.ones((), x.dtype), objective_of(objective, network, x, label)
    first = Point(one, jnp.zeros_like(x) if start is None else start)

    def ascend(point):
        return jax.value_and_grad(value, has_aux=True)(point.scale * point.parts)

    def uphill(gradient):
        return Point(one, threat.uphill(gradient))

    def project(point):
        return Point(one, threat.project(point.scale * point.parts))

    def attack(point, least):
        return Attack(point.scale * point.parts, least)

    return Walk(project(first), ascend, uphill, project, attack)


def _narrows(network: Network) -> bool:
    """Whether the first of several layers is a matrix with fewer rows than twice its columns."""
    first = network.layers[0]
    if len(network.layers) == 1 or not isinstance(first, Affine):
        return False
    return first.weight.shape[0] < 2 * first.weight.shape[1]


def _hidden_walk(network: Network, ball: L2, x, label, objective: Objective, start) -> Walk:
    """An l2 attack without a product over the d inputs in any step, for networks whose first layer W is affine.

    Every gradient with respect to x is W^T g, so the iterates are delta = W^T c + s start.  The parts of a point are
    (c, W delta, s, <start, delta>): W delta is all the rest of the network needs to know, and |delta|^2 = c . W delta
    + s <start, delta>.  A step costs one product with W W^T, which all examples share; it is the cheaper form while
    h < 2 d.
    """
    affine, rest = network.layers[0], Network(network.layers[1:])
    gram, z, radius = affine.weight @ affine.weight.T, affine(x), jnp.asarray(ball.radius, x.dtype)
    value = objective_of(objective, rest, z, label)
    origin = jnp.zeros_like(x) if start is None else start
    along = jnp.zeros_like(z) if start is None else affine.weight @ start
    zero, one, unit = jnp.zeros((), x.dtype), jnp.ones((), x.dtype), _unit_of_gradients(rest)

    def in_units(image):
        score, least = value(image)
        return score * unit, (score, least)

    def scale_to(length, square):
        return jnp.where(square > 0, length * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)

    def square_of(parts):
        c, image, s, product = parts
        # Not c @ image: a batch of dot products is slower than the sum of a product.
        return jnp.sum(c * image) + s * product

    def ascend(point):
        (_, found), gradient = jax.value_and_grad(in_units, has_aux=True)(point.scale * point.parts[1])
        return found, gradient

    def uphill(gradient):
        parts = (gradient, gradient @ gram, zero, jnp.sum(along * gradient) if start is not None else zero)
        return Point(scale_to(radius, square_of(parts)), parts)

    def project(point):
        square = point.scale**2 * square_of(point.parts)
        return Point(point.scale * jnp.where(square > radius**2, scale_to(radius, square), 1), point.parts)

    def attack(point, _):
        c, _, s, _ = point.parts
        delta = point.scale * (c @ affine.weight)
        # Where rows of W cancel, the length above is a poor one: the ball decides once more, in full.
        delta = ball.project(delta if start is None else delta + point.scale * s * start)
        return Attack(delta, jnp.min(margins(network, x + delta, label)))

    parts = (jnp.zeros_like(z), along, zero if start is None else one, jnp.sum(origin * origin))
    return Walk(project(Point(one, parts)), ascend, uphill, project, attack)


def _unit_of_gradients(network: Network) -> Float[Array, ""]:
    """A factor that brings gradients to the order of 1, from the largest weights.

    Only their direction counts, and of a network that blew up the square of a gradient is no number.
    """
    sizes = [jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(network) if leaf.ndim > 1]
    size = jnp.prod(jnp.stack(sizes))
    return 1 / jnp.where(size > 0, size, 1)


def either(first: Array, one: Any, other: Any) -> Any:
    """`one` where `first`, else `other`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)
