"""The lower side of the sandwich: perturbations that lower a network's margin, and the exact worst case where known.

Every attack works on one example and returns the `Attack` it found: a member of the threat and the margin there.  A
gradient step moves along `threat.worst(gradient)`, the steepest direction of that threat, then `threat.project`s, so
one implementation serves every threat; a union (`threat.pieces()`) is attacked piece by piece.

Attacks are deterministic: they start at `start`, by default the example itself.  `restarts` adds random starts.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator.networks import Affine, Network, ReLU, contrast, cross_entropy, margins, others
from simulator.threats import L2, Segments, SignalDirected, Threat


class Attack(eqx.Module):
    """The best perturbation found at one example."""

    delta: Float[Array, " d"]
    margin: Float[Array, ""]
    """min over k != label of logit[label] - logit[k] at x + delta: not positive means misclassified."""


Method = Callable[[Network, Threat, Float[Array, " d"], Int[Array, ""]], Attack]


OBJECTIVES = {"cross-entropy": cross_entropy, "margin": lambda margins: -jnp.min(margins)}
"""What an attack maximises, as a function of the margins [rivals].  Both are valid for two classes; the difference of
logits ratio (DLR) of the standard suite is not, since it divides by the third-largest logit."""

Objective = str | Callable[[Float[Array, " rivals"]], Float[Array, ""]]


def _objective(objective: Objective, network: Network, x: Float[Array, " d"], label: Int[Array, ""]):
    """delta -> (objective, smallest margin)."""
    if isinstance(objective, str) and objective not in OBJECTIVES:
        raise ValueError(f"there is no objective {objective!r}; the objectives are {', '.join(OBJECTIVES)}")
    score = OBJECTIVES[objective] if isinstance(objective, str) else objective

    def value(delta):
        found = margins(network, x + delta, label)
        return score(found), jnp.min(found)

    return value


def weakest(found: Attack) -> Attack:
    """Of attacks stacked along a leading axis, the one with the smallest margin (ties: the first)."""
    best = jnp.argmin(found.margin)
    return jax.tree.map(lambda leaf: leaf[best], found)


def _each_piece(threat: Threat, attack: Callable[[Threat], Attack]) -> Attack:
    pieces = threat.pieces()
    return attack(threat) if pieces is None else weakest(jax.vmap(attack)(pieces))


Point = Any
"""A perturbation, as a pytree in which a sum of perturbations is the sum of the leaves."""


def _sum(*terms: tuple[Any, Point]) -> Point:
    """The sum of (factor, point) terms."""
    return jax.tree.map(
        lambda *leaves: sum(factor * leaf for (factor, _), leaf in zip(terms, leaves, strict=True)),
        *(point for _, point in terms),
    )


class _Walk(eqx.Module):
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


def _walk(network: Network, threat: Threat, x, label, objective: Objective, start) -> _Walk:
    """Perturbations themselves, or the same ones in the coordinates of the first layer where that is cheaper."""
    affine = network.layers[0]
    if len(network.layers) > 1 and isinstance(threat, L2) and affine.weight.shape[0] < 2 * affine.weight.shape[1]:
        return _hidden_walk(network, threat, x, label, objective, start)
    first = threat.project(jnp.zeros_like(x) if start is None else start)
    value = _objective(objective, network, x, label)
    return _Walk(first, jax.value_and_grad(value, has_aux=True), threat.worst, threat.project, Attack)


def _hidden_walk(network: Network, ball: L2, x, label, objective: Objective, start) -> _Walk:
    """An l2 attack without a product over the d inputs in any step, for networks whose first layer W is affine.

    Every gradient with respect to x is W^T g, so the iterates are delta = W^T c + s start.  A point is (c, W delta, s,
    <start, delta>): W delta is all the rest of the network needs to know, and |delta|^2 = c . W delta + s <start,
    delta>.  A step costs one product with W W^T, which all examples share; it is the cheaper form while h < 2 d.
    """
    affine, rest = network.layers[0], Network(network.layers[1:])
    gram, z, radius = affine.weight @ affine.weight.T, affine(x), jnp.asarray(ball.radius, x.dtype)
    value = _objective(objective, rest, z, label)
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
        return _sum((scale_to(radius, square_of(point)), point))

    def project(point):
        square = square_of(point)
        return _sum((jnp.where(square > radius**2, scale_to(radius, square), 1), point))

    def attack(point, _):
        delta = point[0] @ affine.weight
        # Where rows of W cancel, the length above is a poor one: the ball decides once more, in full.
        delta = ball.project(delta if start is None else delta + point[2] * start)
        return Attack(delta, jnp.min(margins(network, x + delta, label)))

    first = (jnp.zeros_like(z), along, zero if start is None else zero + 1, jnp.sum(origin * origin))
    return _Walk(project(first), ascend, worst, project, attack)


def fgsm(network: Network, threat: Threat, x, label, objective: Objective = "cross-entropy") -> Attack:
    """One step to the edge of the threat along the gradient at x (Goodfellow et al., 2015)."""
    value = _objective(objective, network, x, label)
    gradient = jax.grad(lambda delta: value(delta)[0])(jnp.zeros_like(x))
    # On a union, `worst` already picks the best member for the linearised objective.
    delta = threat.worst(gradient)
    return Attack(delta, value(delta)[1])


def pgd(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    *,
    steps: int = 10,
    step_size: float = 0.25,
    objective: Objective = "cross-entropy",
    start: Float[Array, " d"] | None = None,
) -> Attack:
    """Projected gradient ascent, delta <- project(delta + step_size * worst(gradient)); the best iterate is returned.

    `step_size` is a share of the radius; `start` (default 0) is projected first.  Source: Madry et al. (2018).
    """

    def on_piece(piece: Threat) -> Attack:
        walk = _walk(network, piece, x, label, objective, start)

        def step(state, _):
            point, best, best_value = state
            (now, least), gradient = walk.ascend(point)
            best = _either(now > best_value, (point, least), best)
            point = walk.project(_sum((1, point), (step_size, walk.worst(gradient))))
            return (point, best, jnp.maximum(now, best_value)), None

        begin = (walk.first, (walk.first, jnp.array(jnp.inf, x.dtype)), jnp.array(-jnp.inf, x.dtype))
        (last, best, best_value), _ = jax.lax.scan(step, begin, length=steps)
        (now, least), _ = walk.ascend(last)
        return walk.attack(*_either(now > best_value, (last, least), best))

    return _each_piece(threat, on_piece)


def _either(first: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def _checkpoints(steps: int) -> list[bool]:
    """At which of the steps APGD reconsiders its step size: 0.22, 0.41, 0.57, ... of the way (Croce & Hein, 2020)."""
    share, before, marks = 0.22, 0.0, set()
    while share < 1:
        # Rounded up, but not for a share such as 0.57 that is a rounding error above the step it means.
        marks.add(math.ceil(share * steps - 1e-9))
        share, before = share + max(share - before - 0.03, 0.06), share
    return [step + 1 in marks for step in range(steps)]


class _Search(eqx.Module):
    """The state of APGD between two steps; every delta is a point of the walk."""

    delta: Point
    before: Point  # the previous one, for the momentum
    gradient: Array
    size: Array  # step size as a share of the radius
    best: tuple[Point, Array]  # the point with the largest objective, and its margin
    best_value: Array
    best_gradient: Array
    value: Array
    improved: Array  # steps since the last checkpoint that raised the objective
    since: Array  # steps since the last checkpoint
    halved: Array  # the step size was halved at the last checkpoint
    value_at_mark: Array  # best_value at the last checkpoint


def apgd(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    label: Int[Array, ""],
    *,
    steps: int = 10,
    objective: Objective = "cross-entropy",
    start: Float[Array, " d"] | None = None,
) -> Attack:
    """Auto-PGD: momentum 0.75, step size from 2 radii, halved at checkpoints that show no progress.

    The best iterate is returned.  Source: Croce & Hein (2020), algorithm 1 with rho = 0.75.
    """

    def on_piece(piece: Threat) -> Attack:
        walk = _walk(network, piece, x, label, objective, start)
        state = _begin(walk.first, *walk.ascend(walk.first))
        state, _ = jax.lax.scan(lambda s, mark: (_apgd_step(walk, s, mark), None), state, _marks(steps))
        return walk.attack(*state.best)

    return _each_piece(threat, on_piece)


def _marks(steps: int) -> Array:
    return jnp.array(_checkpoints(steps), dtype=bool)


def _begin(delta: Point, found: tuple[Array, Array], gradient: Array) -> _Search:
    now, least = found
    return _Search(
        delta=delta,
        before=delta,
        gradient=gradient,
        size=jnp.full((), 2.0, now.dtype),
        best=(delta, least),
        best_value=now,
        best_gradient=gradient,
        value=now,
        improved=jnp.zeros((), jnp.int32),
        since=jnp.zeros((), jnp.int32),
        halved=jnp.zeros((), bool),
        value_at_mark=now,
    )


def _apgd_step(walk: _Walk, s: _Search, mark: Array) -> _Search:
    plain = walk.project(_sum((1, s.delta), (s.size, walk.worst(s.gradient))))
    delta = walk.project(_sum((0.5, s.delta), (0.75, plain), (-0.25, s.before)))
    (now, least), gradient = walk.ascend(delta)
    better = now > s.best_value
    best = _either(better, (delta, least), s.best)
    best_value = jnp.maximum(now, s.best_value)
    best_gradient = jnp.where(better, gradient, s.best_gradient)
    improved, since = s.improved + (now > s.value).astype(jnp.int32), s.since + 1
    few = improved.astype(now.dtype) < 0.75 * since.astype(now.dtype)
    stuck = ~s.halved & (best_value <= s.value_at_mark)
    halve = mark & (few | stuck)
    return _Search(
        delta=_either(halve, best[0], delta),
        before=_either(halve, best[0], s.delta),
        gradient=jnp.where(halve, best_gradient, gradient),
        size=jnp.where(halve, s.size / 2, s.size),
        best=best,
        best_value=best_value,
        best_gradient=best_gradient,
        value=jnp.where(halve, best_value, now),
        improved=jnp.where(mark, 0, improved),
        since=jnp.where(mark, 0, since),
        halved=jnp.where(mark, halve, s.halved),
        value_at_mark=jnp.where(mark, best_value, s.value_at_mark),
    )


def _starts(key: PRNGKeyArray, threat: Threat, x: Float[Array, " d"], count: int) -> Float[Array, "count d"]:
    """x itself, then random extreme points of the threat."""
    return jax.vmap(lambda k: threat.worst(jr.normal(k, x.shape, x.dtype)))(jr.split(key, count)).at[0].set(0)


def restarts(key: PRNGKeyArray, attack, network: Network, threat: Threat, x, label, count: int) -> Attack:
    """The best of `count` runs of an attack that takes `start=`: from x itself, then from random extreme points."""
    runs = jax.lax.map(lambda start: attack(network, threat, x, label, start=start), _starts(key, threat, x, count))
    return weakest(runs)


def strongest(key: PRNGKeyArray, network: Network, threat: Threat, x, label, *, steps: int, count: int) -> Attack:
    """The exact worst case where it is computable; else the better of APGD on cross-entropy and on the margin.

    Both use `steps` steps and the same `count` starts.  The papers' suite with its margin loss replaced by one that is
    valid for two classes; `describe` says in words which of the two a network and threat get.
    """
    if has_exact(network, threat):
        return exact(network, threat, x, label)

    def run(which):
        index, start = which

        # Chosen by a number rather than a name, so that the attack is compiled once for all objectives.
        def objective(margins):
            return jnp.stack([score(margins) for score in OBJECTIVES.values()])[index]

        return apgd(network, threat, x, label, steps=steps, objective=objective, start=start)

    starts = _starts(key, threat, x, count)
    return weakest(jax.lax.map(run, (jnp.repeat(jnp.arange(2), count), jnp.concatenate([starts, starts]))))


def describe(network: Network, threat: Threat, *, steps: int, count: int) -> str:
    """What `strongest` runs on this network and threat, for the provenance of a result."""
    if has_exact(network, threat):
        return "exact worst case"
    return f"apgd-ce + apgd-margin, {steps} steps, {count} starts each"


def _one_hidden_layer(network: Network) -> bool:
    kinds = tuple(type(layer) for layer in network.layers)
    return kinds == (Affine, ReLU, Affine)


def has_exact(network: Network, threat: Threat) -> bool:
    """Whether `exact` can compute the worst case: linear networks and single hidden neurons for every threat;
    networks with one hidden layer on `SignalDirected` and `Segments`."""
    if len(network.layers) == 1:
        return True
    if not _one_hidden_layer(network):
        return False
    return network.layers[0].bias.shape[-1] == 1 or isinstance(threat, (SignalDirected, Segments))


def exact(network: Network, threat: Threat, x: Float[Array, " d"], label: Int[Array, ""]) -> Attack:
    """The perturbation with the smallest margin over the whole threat, in closed form or by exact search.

    - linear network: margin k is minimised at `threat.worst(-w_k)`;
    - one hidden neuron: its pre-activation covers an interval, and the margin is monotone or one-kinked on it;
    - one hidden layer, `SignalDirected` or `Segments`: the margin is piecewise linear along a segment, so its minimum
      is at a breakpoint (where a neuron switches) or at an end.

    For a union the minimum is over its members, not their hull.  Raises `ValueError` where `has_exact` is false.
    """
    if not has_exact(network, threat):
        raise ValueError(
            f"no exact worst case is known for {type(threat).__name__} on a network of {len(network.layers)} layers: "
            "use a linear network, one hidden neuron, or one hidden layer with SignalDirected or Segments"
        )
    if len(network.layers) == 1:
        rows = contrast(network, label, others(network, label)) @ network.last.weight
        candidates = jax.vmap(threat.worst)(-rows)
    elif isinstance(threat, (SignalDirected, Segments)):
        return _each_piece(threat, lambda segment: _along_segment(network, segment, x, label))
    else:
        theta = network.layers[0].weight[0]
        # The margin is monotone in the pre-activation: its minimum is at one end of the interval it covers.
        candidates = jnp.stack([threat.worst(theta), threat.worst(-theta)])
    return weakest(jax.vmap(lambda delta: Attack(delta, jnp.min(margins(network, x + delta, label))))(candidates))


def _along_segment(network: Network, segment: Any, x: Float[Array, " d"], label: Int[Array, ""]) -> Attack:
    """The smallest margin of a one-hidden-layer network over x + beta s, |beta| <= radius."""
    hidden, _, last = network.layers
    direction, radius = segment.along(x)
    at_x, along = hidden(x), hidden.weight @ direction
    moving = along != 0
    switch = jnp.where(moving, -at_x / jnp.where(moving, along, 1), 0)
    betas = jnp.concatenate([jnp.clip(switch, -radius, radius), jnp.stack([-radius, radius])])
    spec = contrast(network, label, others(network, label))

    # One neuron at a time, for all candidates: the [candidates, neurons] table would fall out of the cache.
    def add(total, neuron):
        z, slope, outgoing = neuron
        return total + jnp.outer(outgoing, jax.nn.relu(z + slope * betas)), None

    start = jnp.broadcast_to((spec @ last.bias)[:, None], (spec.shape[0], betas.size))
    margin_at, _ = jax.lax.scan(add, start, (at_x, along, (spec @ last.weight).T))
    least = jnp.min(margin_at, axis=0)
    best = jnp.argmin(least)
    return Attack(betas[best] * direction, least[best])
