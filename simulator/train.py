"""Training: one pure scan over epochs, so that a grid of trainings is one compiled program.

Numbers of a `Recipe` (learning rate, momentum, warm-up) are array leaves and can be swept inside one program; what
changes the program (epochs, batch, optimizer) is static.  Divergence is data: `Fit.diverged`, never an exception.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from simulator.losses import Loss, Schedule
from simulator.networks import Network, fitted
from simulator.threats import Threat

OPTIMIZERS = ("sgd", "adam")
"""The optimisers of a `Recipe`."""

_TURN = 0.25
"""The share of the warm-up after which a smoothed one is linear."""


def _smoothed(share: Float[Array, ""]) -> Float[Array, ""]:
    """a share^4 up to the turn t, from there on its tangent; a = 1/(t^3 (4 - 3 t)) makes it 1 at 1."""
    quartic = jnp.minimum(share, _TURN) ** 4 + 4 * _TURN**3 * jnp.maximum(share - _TURN, 0)
    return quartic / (_TURN**3 * (4 - 3 * _TURN))


CURRICULA = {"linear": lambda share: share, "smoothed": _smoothed}
"""The share of the radius as a function of the share of the warm-up that has passed.  `smoothed` starts slowly, as in
Xu et al. (2020), "Automatic perturbation analysis for scalable certified robustness and beyond"."""


def _leaf(value) -> Any:
    return jnp.asarray(value, jnp.result_type(float)) if isinstance(value, (int, float)) else value


class Recipe(eqx.Module):
    """How to train.  Leaves: sweep them in one program.  Static fields: one compile each."""

    learning_rate: Float[Array, ""] | float = eqx.field(converter=_leaf, default=0.1)
    momentum: Float[Array, ""] | float = eqx.field(converter=_leaf, default=0.0)
    """Of SGD: v <- momentum v + gradient, step -learning_rate v.  Ignored by Adam."""
    warmup: Float[Array, ""] | float = eqx.field(converter=_leaf, default=0.0)
    """Epochs over which the training radius grows from 0 to the threat's."""
    schedule: Float[Array, " epochs"] | None = None
    """The training radius in every epoch as a share of the threat's, which may exceed 1; None: 1 throughout."""
    weight_decay: Float[Array, ""] | float | None = eqx.field(converter=_leaf, default=None)
    """Adds weight_decay * parameter to every gradient, biases included, as PyTorch's optimizers do; None: none."""
    epochs: int = eqx.field(static=True, default=100)
    batch: int = eqx.field(static=True, default=0)
    """Examples per step; 0 is the full training set.  Each epoch reshuffles and drops an incomplete last batch."""
    optimizer: str = eqx.field(static=True, default="sgd")
    curriculum: str = eqx.field(static=True, default="linear")
    """How the radius grows over the warm-up, a key of `CURRICULA`."""

    def __check_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}, but the optimizers are {', '.join(OPTIMIZERS)}")
        if self.curriculum not in CURRICULA:
            raise ValueError(f"curriculum is {self.curriculum!r}, but the curricula are {', '.join(CURRICULA)}")
        if self.epochs < 1 or self.batch < 0:
            raise ValueError(f"epochs is {self.epochs} and batch is {self.batch}: give epochs >= 1 and batch >= 0")
        if self.schedule is not None and self.schedule.shape[-1:] != (self.epochs,):
            raise ValueError(
                f"schedule has shape {self.schedule.shape}, but there are {self.epochs} epochs: give a share for each"
            )


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


class _Examples(NamedTuple):
    """Training examples, along the leading axis of every leaf."""

    x: Array
    y: Array
    signal: Array | None
    weight: Array | None

    def part(self, index) -> "_Examples":
        """The examples at an index, a slice or an array of indices."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def _mean_loss(loss: Loss, threat: Threat, network: Network, examples: _Examples) -> Float[Array, ""]:
    """The mean over the examples, weighted where they have weights; 0 where all weights are 0."""
    network, n = fitted(network, examples.x), examples.x.shape[0]
    whole = n - n % CHUNK if n > CHUNK else 0
    total = jnp.sum(_losses(loss, threat, network, examples.part(slice(whole, None))))
    if whole:
        chunks = jax.tree.map(lambda leaf: leaf[:whole].reshape(whole // CHUNK, CHUNK, *leaf.shape[1:]), examples)
        total = total + jnp.sum(jax.lax.map(lambda part: jnp.sum(_losses(loss, threat, network, part)), chunks))
    if examples.weight is None:
        return total / n
    weights = jnp.sum(examples.weight)
    return total / jnp.where(weights > 0, weights, 1)


def _losses(loss: Loss, threat: Threat, network: Network, examples: _Examples) -> Float[Array, " n"]:
    def one(example):
        value = loss(network, threat.at(example.x, example.signal), example.x, example.y)
        return value if example.weight is None else example.weight * value

    return jax.vmap(one)(examples)


def _batches(key: PRNGKeyArray, n: int, batch: int) -> Int[Array, "steps batch"]:
    """Indices of one epoch's batches."""
    steps = n // batch
    return jr.permutation(key, n)[: steps * batch].reshape(steps, batch)


class _Steps(NamedTuple):
    """Epochs of one training; a state is (network, memory of the optimizer)."""

    key: PRNGKeyArray
    examples: _Examples
    threat: Threat
    loss: Loss | Schedule
    recipe: Recipe
    optimizer: optax.GradientTransformation
    trainable: Network | None

    def in_batches(self, state, first, count):
        """`count` epochs of minibatches; also the loss at their end."""

        def epoch(i, state):
            def step(state, index):
                return self._advance(state, self._share(first + i), self.examples.part(index))[0], None

            order = _batches(jr.fold_in(self.key, first + i), len(self.examples.x), self.recipe.batch)
            return jax.lax.scan(step, state, order)[0]

        state = jax.lax.fori_loop(0, count, epoch, state)
        full = jnp.ones((), self.examples.x.dtype)
        return state, _mean_loss(self._loss_at(full), self.threat, state[0], self.examples)

    def at_once(self, state, first, count):
        """The same for the full batch: the loss is that of one more step, which is not taken, so that loss and attack
        are traced and compiled once."""

        def epoch(i, now):
            ends = i == count
            moved, value = self._advance(now[0], jnp.where(ends, 1, self._share(first + i)), self.examples)
            return jax.tree.map(partial(jnp.where, ends), now[0], moved), value

        return jax.lax.fori_loop(0, count + 1, epoch, (state, jnp.zeros((), self.examples.x.dtype)))

    def _share(self, epoch) -> Float[Array, ""]:
        """The radius of an epoch as a share of the threat's."""
        dtype = self.examples.x.dtype
        passed = jnp.minimum((epoch + 1).astype(dtype) / jnp.maximum(jnp.asarray(self.recipe.warmup, dtype), 1), 1)
        warm = CURRICULA[self.recipe.curriculum](passed)
        return warm if self.recipe.schedule is None else warm * self.recipe.schedule.astype(dtype)[epoch]

    def _loss_at(self, share) -> Loss:
        return self.loss.at(jnp.minimum(share, 1)) if isinstance(self.loss, Schedule) else self.loss

    def _advance(self, state, share, part):
        """One step at a share of the radius; also the loss before it."""
        network, memory = state
        mean_loss = partial(_mean_loss, self._loss_at(share), self.threat.scaled(share), examples=part)
        value, gradient = jax.value_and_grad(mean_loss)(network)
        updates, memory = self.optimizer.update(gradient, memory, network)
        if self.trainable is not None:
            updates = jax.tree.map(jnp.multiply, updates, self.trainable)
        return (optax.apply_updates(network, updates), memory), value


def fit(
    key: PRNGKeyArray,
    network: Network,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    threat: Threat,
    loss: Loss | Schedule,
    recipe: Recipe,
    *,
    signal: Float[Array, "n d"] | None = None,
    weight: Float[Array, " n"] | None = None,
    trainable: Network | None = None,
    measure: Callable[[Network], dict[str, Any]] | None = None,
    every: int | None = None,
) -> Fit:
    """Minimise the mean of `loss` over (x, y), from `network`, by `recipe`; pure, jit- and vmap-able.

    The key is consumed by the shuffling of minibatches alone.  `signal` holds each example's signal direction, which a
    threat tied to it needs (`jax.vmap(task.signal)(x, y)`); without it the threat is used as it is.  With `weight`, not
    negative, the mean is sum(weight * loss) / sum(weight), of a minibatch its own.  `trainable` is a pytree like
    `network` whose entries multiply every update (0 freezes a parameter).  `measure(network)` is recorded every `every`
    epochs (default: only before and after training).  Batch normalisations have the statistics of the clean examples of
    a step, and in the end those of all.  Raises `ValueError` if the batch exceeds n or `every` does not divide the
    epochs.
    """
    n = x.shape[0]
    if recipe.batch > n:
        raise ValueError(
            f"batch is {recipe.batch}, but there are only {n} training examples: give batch <= n, or 0 for all"
        )
    every = recipe.epochs if every is None else every
    records = len(recorded_epochs(recipe.epochs, every))
    steps = _Steps(key, _Examples(x, y, signal, weight), threat, loss, recipe, _optimizer(recipe, x.dtype), trainable)
    train = steps.at_once if recipe.batch in (0, n) else steps.in_batches

    def stretch(state, index):
        # No epoch before the first record.  A loop of dynamic length, so that one program serves all records.
        state, value = train(state, every * (index - 1), jnp.where(index == 0, 0, every))
        return state, {"loss": value, **({} if measure is None else measure(fitted(state[0], x)))}

    state, history = jax.lax.scan(stretch, (network, steps.optimizer.init(network)), jnp.arange(records))
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((state[0], history["loss"]))]
    return Fit(fitted(state[0], x), history, ~jnp.all(jnp.stack(finite)))
