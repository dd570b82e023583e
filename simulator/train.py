"""Training: one pure scan over epochs, so that a grid of trainings is one compiled program.

Numbers of a `Recipe` (learning rate, momentum, warm-up) are array leaves and can be swept inside one program; what
changes the program (epochs, batch, optimizer) is static.  Divergence is data: `Fit.diverged`, never an exception.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from simulator.losses import Loss
from simulator.networks import Network
from simulator.threats import Threat

OPTIMIZERS = ("sgd", "adam")


def _leaf(value) -> Any:
    return jnp.asarray(value, jnp.result_type(float)) if isinstance(value, (int, float)) else value


class Recipe(eqx.Module):
    """How to train.  Leaves: sweep them in one program.  Static fields: one compile each."""

    learning_rate: Float[Array, ""] | float = eqx.field(converter=_leaf, default=0.1)
    momentum: Float[Array, ""] | float = eqx.field(converter=_leaf, default=0.0)
    """Of SGD: v <- momentum v + gradient, step -learning_rate v.  Ignored by Adam."""
    warmup: Float[Array, ""] | float = eqx.field(converter=_leaf, default=0.0)
    """Epochs over which the training radius grows linearly from 0 to the threat's."""
    weight_decay: Float[Array, ""] | float | None = eqx.field(converter=_leaf, default=None)
    """Adds weight_decay * parameter to every gradient, biases included, as PyTorch's optimizers do; None: none."""
    epochs: int = eqx.field(static=True, default=100)
    batch: int = eqx.field(static=True, default=0)
    """Examples per step; 0 is the full training set.  Each epoch reshuffles and drops an incomplete last batch."""
    optimizer: str = eqx.field(static=True, default="sgd")

    def __check_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}, but the optimizers are {', '.join(OPTIMIZERS)}")
        if self.epochs < 1 or self.batch < 0:
            raise ValueError(f"epochs is {self.epochs} and batch is {self.batch}: give epochs >= 1 and batch >= 0")


class Fit(eqx.Module):
    """The outcome of a training run."""

    network: Network
    history: dict[str, Any]
    """Leading axis: the epochs of `recorded_epochs`.  "loss" is the mean training loss at the full radius; the rest
    is what `measure` returned."""
    diverged: Bool[Array, ""]
    """Whether any parameter or recorded loss is not finite."""


def recorded_epochs(epochs: int, every: int) -> list[int]:
    """The epochs at which history is kept: 0 (before training), every, 2 every, ..., epochs.

    Raises `ValueError` unless `every` divides `epochs`.
    """
    if every < 1 or epochs % every:
        raise ValueError(f"history every {every} epochs does not divide {epochs} epochs: choose a divisor")
    return list(range(0, epochs + 1, every))


def _optimizer(recipe: Recipe, dtype) -> optax.GradientTransformation:
    learning_rate = jnp.asarray(recipe.learning_rate, dtype)
    if recipe.optimizer == "adam":
        rule = optax.adam(learning_rate)
    else:
        rule = optax.sgd(learning_rate, jnp.asarray(recipe.momentum, dtype))
    if recipe.weight_decay is None:
        return rule
    return optax.chain(optax.add_decayed_weights(jnp.asarray(recipe.weight_decay, dtype)), rule)


CHUNK = 500
"""Examples whose losses are computed at once: enough to fill matrix products, few enough to stay in the cache."""


def _mean_loss(loss: Loss, threat: Threat, network: Network, examples: tuple[Array, ...]) -> Float[Array, ""]:
    n = examples[0].shape[0]
    whole = n - n % CHUNK if n > CHUNK else 0
    total = jnp.sum(_losses(loss, threat, network, tuple(leaf[whole:] for leaf in examples)))
    if whole:
        chunks = tuple(leaf[:whole].reshape(whole // CHUNK, CHUNK, *leaf.shape[1:]) for leaf in examples)
        total = total + jnp.sum(jax.lax.map(lambda part: jnp.sum(_losses(loss, threat, network, part)), chunks))
    return total / n


def _losses(loss: Loss, threat: Threat, network: Network, examples: tuple[Array, ...]) -> Float[Array, " n"]:
    def one(x, y, *signal):
        return loss(network, threat.at(x, *signal) if signal else threat, x, y)

    return jax.vmap(one)(*examples)


def _with_radius(threat: Threat, share: Array) -> Threat:
    radius = jnp.asarray(threat.radius)
    return eqx.tree_at(lambda t: t.radius, threat, radius * share.astype(radius.dtype))


def _batches(key: PRNGKeyArray, n: int, batch: int) -> Int[Array, "steps batch"]:
    """Indices of one epoch's batches."""
    steps = n // batch
    return jr.permutation(key, n)[: steps * batch].reshape(steps, batch)


def fit(
    key: PRNGKeyArray,
    network: Network,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    threat: Threat,
    loss: Loss,
    recipe: Recipe,
    *,
    signal: Float[Array, "n d"] | None = None,
    trainable: Network | None = None,
    measure: Callable[[Network], dict[str, Any]] | None = None,
    every: int | None = None,
) -> Fit:
    """Minimise the mean of `loss` over (x, y), from `network`, by `recipe`; pure, jit- and vmap-able.

    The key is consumed by the shuffling of minibatches alone.  `signal` holds each example's signal direction, which a
    threat tied to it needs (`jax.vmap(task.signal)(x, y)`); without it the threat is used as it is.  `trainable` is a
    pytree like `network` whose entries multiply every update (0 freezes a parameter).  `measure(network)` is recorded
    every `every` epochs (default: only before and after training).  Raises `ValueError` if the batch exceeds n or
    `every` does not divide the epochs.
    """
    n = x.shape[0]
    batch = recipe.batch or n
    if batch > n:
        raise ValueError(f"batch is {batch}, but there are only {n} training examples: give batch <= n, or 0 for all")
    every = recipe.epochs if every is None else every
    records = len(recorded_epochs(recipe.epochs, every))
    examples = (x, y) if signal is None else (x, y, signal)
    optimizer = _optimizer(recipe, x.dtype)

    def step(radius_share, state, index):
        network, memory = state
        part = examples if batch == n else tuple(leaf[index] for leaf in examples)
        gradient = jax.grad(lambda net: _mean_loss(loss, _with_radius(threat, radius_share), net, part))(network)
        updates, memory = optimizer.update(gradient, memory, network)
        if trainable is not None:
            updates = jax.tree.map(jnp.multiply, updates, trainable)
        return (optax.apply_updates(network, updates), memory), None

    def epoch(state, number):
        share = jnp.minimum((number + 1).astype(x.dtype) / jnp.maximum(jnp.asarray(recipe.warmup, x.dtype), 1), 1)
        if batch == n:
            return step(share, state, None)[0]
        return jax.lax.scan(lambda s, i: step(share, s, i), state, _batches(jr.fold_in(key, number), n, batch))[0]

    def record(network):
        measured = {} if measure is None else measure(network)
        return {"loss": _mean_loss(loss, threat, network, examples), **measured}

    def stretch(state, index):
        # No epoch before the first record.  A loop of dynamic length, so that `record` is traced and compiled once.
        first = every * (index - 1)
        state = jax.lax.fori_loop(0, jnp.where(index == 0, 0, every), lambda i, s: epoch(s, first + i), state)
        return state, record(state[0])

    state, history = jax.lax.scan(stretch, (network, optimizer.init(network)), jnp.arange(records))
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((state[0], history["loss"]))]
    return Fit(state[0], history, ~jnp.all(jnp.stack(finite)))
