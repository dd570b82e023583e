r"""What lies between the attacked and the certified loss of one network at one example, and what that is worth.

A bound replaces the worst loss over a threat by something larger.  Three views of how much, for the same weights:

- `worst`: margins and losses by the attack given, by the exact search where there is one, and by bounds;
- `triangle_area`: what relaxing the unstable neurons adds to their graphs, before it reaches the margin;
- `effective_budgets`: the radius at which the true worst loss equals the certified loss at the threat's own radius, so
  that training on the bound pays for that larger budget.

Losses are kept as logarithms: those of confident networks are no numbers otherwise, and an error of a margin by t
changes the logarithm of its cross-entropy by at most t.
"""

from collections.abc import Callable, Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simulator import attacks, bounds
from simulator.bounds import Box
from simulator.networks import Network, contrast, label, log_cross_entropy, margins, others
from simulator.threats import Threat

BOUNDS = ("alpha-crown", "crown", "coap", "crown-ibp", "ibp")
"""The bounds that are compared unless others are named."""

HALVINGS = 12
"""Bisections behind an effective budget: it is found to within 2^-12 of the largest radius tried."""

_ROUNDINGS = 2**10
"""Rounding errors of a margin that are no difference: two ways to sum a hundred terms differ by less."""


class Worst(eqx.Module):
    """What a method says of the worst case at one example."""

    margin: Float[Array, ""]
    """The smallest of logit[label] - logit[k], k != label, or a lower bound of it."""
    log_loss: Float[Array, ""]
    """The logarithm of the cross-entropy there, or of an upper bound of it."""

    @property
    def loss(self) -> Float[Array, "..."]:
        """The cross-entropy; 0 where it is too small to be a number."""
        return jnp.exp(self.log_loss)


def _of(margins: Float[Array, " rivals"]) -> Worst:
    return Worst(jnp.min(margins), log_cross_entropy(margins))


def _worse(first: Worst, second: Worst) -> Worst:
    return Worst(jnp.minimum(first.margin, second.margin), jnp.maximum(first.log_loss, second.log_loss))


def realised(network: Network, threat: Threat, x: Float[Array, " d"], y: Int[Array, ""], attack) -> Worst:
    """The worse of what an attack finds and of x itself, which is a member of every threat: never above the truth."""
    clean, delta = _of(margins(network, x, label(y))), attack(network, threat, x, label(y)).delta
    return _worse(clean, _of(margins(network, x + delta, label(y))))


def certified(network: Network, threat: Threat, x: Float[Array, " d"], y: Int[Array, ""], method: str) -> Worst:
    """What a bound proves of the worst case.  Raises `ValueError` for an unknown method."""
    rows = contrast(network, label(y), others(network, label(y)))
    return _of(bounds.lower(network, threat, x, rows, method))


def worst(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    y: Int[Array, ""],
    attack: attacks.Method,
    methods: Sequence[str] = BOUNDS,
) -> dict[str, Worst]:
    """The worst case at one example by every method: "clean" (at x), "attack", "exact" where it is known, and bounds.

    Of losses clean <= attack <= every bound, and of margins the reverse; "exact" lies between attack and bounds, its
    loss for two classes only: for more it is the loss at the smallest margin, of which another may be larger.
    `y` is -1, +1 or a class index.  Raises `ValueError` for an unknown method.
    """
    found = {
        "clean": _of(margins(network, x, label(y))),
        "attack": realised(network, threat, x, y, attack),
    }
    if attacks.has_exact(network, threat):
        found["exact"] = realised(network, threat, x, y, attacks.exact)
    return {**found, **{name: certified(network, threat, x, y, name) for name in methods}}


def triangle_area(boxes: Sequence[Box], dtype) -> Float[Array, ""]:
    """The mean over all hidden neurons of the area of their relaxation's triangle; 0 for a network without any.

    For l < 0 < u the triangle has the corners (l, 0), (0, 0) and (u, u), hence the area -l u / 2; a stable neuron has
    none.  Of the unstable neurons alone the mean is this over `bounds.unstable_share`.  `boxes` are those of
    `bounds.preactivations`.

    **Source:** Wong & Kolter (2018), section 3.1, for the triangle.
    """
    if not boxes:
        return jnp.zeros((), dtype)
    areas = [jnp.where(box.unstable, -box.lower * box.upper / 2, 0).ravel() for box in boxes]
    return jnp.mean(jnp.concatenate(areas))


def least_radius(
    log_loss: Callable[[Float[Array, ""]], Float[Array, ""]],
    target: Float[Array, ""],
    most: Float[Array, ""] | float,
    halvings: int = HALVINGS,
) -> Float[Array, ""]:
    """The least radius in [0, most] at which a loss that grows with the radius reaches a target, by bisection.

    At the radius r that is returned the loss is at least the target, and at r - most / 2^halvings it is not; 0 where it
    is reached at radius 0, inf where it is not at `most`, nan where one of the two is nan.  `log_loss` and `target` are
    logarithms; a shortfall of 1024 roundings of 1 counts as reached, since a bound and the network itself sum in
    another order.
    """
    most, least = jnp.asarray(most, target.dtype), target - _ROUNDINGS * jnp.finfo(target.dtype).eps

    # The two ends are steps of the loop, so that a loss that takes long to compile is compiled once.
    def step(index, state):
        low, high, at_zero, at_most = state
        radius = jnp.where(index == 0, 0, jnp.where(index == 1, most, (low + high) / 2))
        value = log_loss(radius)
        halved = jnp.where(value >= least, low, radius), jnp.where(value >= least, radius, high)
        low, high = (jnp.where(index < 2, old, new) for old, new in zip((low, high), halved, strict=True))
        return low, high, jnp.where(index == 0, value, at_zero), jnp.where(index == 1, value, at_most)

    zero = jnp.zeros_like(most)
    _, high, at_zero, at_most = jax.lax.fori_loop(0, halvings + 2, step, (zero, most, zero, zero))
    found = jnp.where(at_zero >= least, 0, jnp.where(at_most >= least, high, jnp.inf))
    return jnp.where(jnp.isnan(at_most) | jnp.isnan(target), jnp.nan, found)


def effective_budgets(
    network: Network,
    threat: Threat,
    x: Float[Array, " d"],
    y: Int[Array, ""],
    attack: attacks.Method,
    most: Float[Array, ""] | float,
    methods: Sequence[str] = BOUNDS,
    halvings: int = HALVINGS,
) -> dict[str, Float[Array, ""]]:
    """For every bound the radius at which the worst loss of one example equals its loss certified at the threat's own.

    The worst loss is the exact one where that is known, else that of the attack.  The sets are nested, so the exact one
    grows with the radius, and at the threat's own radius it is at most the certified loss: a budget is at least that
    radius, but for 0 where the certified loss is the clean one.  It is that radius where the bound is tight: for linear
    networks, and for backward bounds where every neuron is stable.  An attack finds less than the worst loss, hence a
    budget that is at least the true one.  What is returned where no radius reaches it is said at `least_radius`.

    `threat` is the set at this example, and of a kind that is nested in its radius.
    """
    threats = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], threat)
    return mean_budgets(network, threats, x[None], jnp.asarray(y)[None], attack, most, methods, halvings)


def mean_budgets(
    network: Network,
    threats: Threat,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    attack: attacks.Method,
    most: Float[Array, ""] | float,
    methods: Sequence[str] = BOUNDS,
    halvings: int = HALVINGS,
) -> dict[str, Float[Array, ""]]:
    """For every bound the one radius at which the mean worst loss of the examples equals their mean certified loss.

    `threats` are the sets at the examples, stacked: `jax.vmap(threat.at)(x, signal)`.  See `effective_budgets`.
    """
    if not methods:
        return {}
    strongest = attacks.exact if attacks.has_exact(network, threats) else attack

    def mean(worst_of: Callable[..., Worst], threats):
        found = jax.vmap(lambda threat, x, y: worst_of(network, threat, x, y).log_loss)(threats, x, y)
        return log_mean(found)

    def at(radius):
        everywhere = threats.with_radius(jnp.full(len(y), radius, x.dtype))
        return mean(partial(realised, attack=strongest), everywhere)

    targets = jnp.stack([mean(partial(certified, method=name), threats) for name in methods])
    found = jax.vmap(lambda target: least_radius(at, target, most, halvings))(targets)
    return dict(zip(methods, found, strict=True))


def log_mean(logarithms: Float[Array, " n"]) -> Float[Array, ""]:
    """The logarithm of the mean of what has these logarithms."""
    return jax.nn.logsumexp(logarithms) - jnp.log(jnp.asarray(logarithms.size, logarithms.dtype))


def turned(delta: Float[Array, " d"], signal: Float[Array, " d"], cosine: Float[Array, ""]) -> Float[Array, " d"]:
    r"""The vector as long as `delta`, in the plane of `delta` and of the unit vector s, whose cosine with s is given.

    |delta| (c s + sqrt(1 - c^2) e), e the unit vector of delta - <delta, s> s: `delta` keeps its side of s.  With c = 0
    its signal component is projected out and its length restored.  Where delta is parallel to s there is no plane, and
    it stays as it is.
    """
    moving = jnp.any(delta != 0)
    length = jnp.where(moving, jnp.linalg.norm(jnp.where(moving, delta, 1)), 0)
    unit = delta / jnp.where(moving, length, 1)
    across = unit - (unit @ signal) * signal
    # Of a vector that is parallel rounding leaves a few units in the last place.
    planar = jnp.sum(across * across) > (8 * jnp.finfo(delta.dtype).eps) ** 2
    across = jnp.where(planar, across, 1)
    # Projected twice: what is left of a vector almost parallel to s is not orthogonal to it otherwise.
    across = across - (across @ signal) * signal
    across = across / jnp.where(planar, jnp.linalg.norm(jnp.where(planar, across, 1)), 1)
    sine = jnp.sqrt(jnp.maximum(1 - cosine**2, 0))
    return jnp.where(planar, length * (cosine * signal + sine * across), delta)
