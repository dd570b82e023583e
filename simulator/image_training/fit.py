"""Training one network of images at length: compiled stretches of steps, with checkpoints and progress between them.

The whole training set stays on the device as bytes.  Batches are spread over all devices of the process.  Whatever is
random is a function of the key and of the number of the step, so that a training that was interrupted ends with the
same weights as one that was not.
"""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from simulator import attacks
from simulator.image_training.augment import augmented, centred
from simulator.image_training.checkpoints import Checkpoints
from simulator.image_training.gradient import mean_gradient
from simulator.image_training.placement import everywhere, spread
from simulator.image_training.preset import Preset
from simulator.losses import Loss, Schedule
from simulator.networks import Network, Shape, fitted, label, margins
from simulator.threats import Threat

MakeLoss = Callable[[PRNGKeyArray], Loss | Schedule]
"""The loss of a step, given a key for what is random in it.  Compiled once for every function: use the same one."""

STATISTICS = 2000
"""Training images at most whose clean activations give batch normalisations their final statistics."""

STRETCH_SECONDS = 5.0
"""About how long steps run between two looks at the clock."""

CHUNK = 250
"""Images examined at once."""


class Labelled(NamedTuple):
    """Labelled images as they are stored."""

    images: Num[Array, "n channels rows columns"]
    labels: Int[Array, " n"]
    levels: int
    """The value that means 1."""

    def vectors(self, shape: Shape) -> Float[Array, "n d"]:
        """The middle of the images, of the size the network reads, as vectors of values in [0, 1]."""
        return centred(self.images, shape, self.levels, jnp.result_type(float))


class Progress(NamedTuple):
    """What the surroundings of a training are told and may ask."""

    say: Callable[[str], None] = lambda sentence: None
    stopping: Callable[[], bool] = lambda: False


class Interrupted(Exception):
    """The training was asked to stop and has saved where it is."""


class ImageFit(NamedTuple):
    """A trained network and how it came about."""

    network: Network
    """That of the best epoch at the full radius on the validation images; without any, of the last epoch."""
    history: dict[str, Float[Array, " epochs"]]
    """By epoch: mean "loss" of the steps, "radius" at the end, "standard_error" and "robust_error" on the validation
    images; errors are NaN below the full radius."""
    best_epoch: int
    """Counted from 1."""
    seconds: float
    """Of the steps and validations, interruptions left out, compilation included."""
    examples_per_second: float
    """Of the steps, without the first stretch, which compiles; NaN if there was no other."""
    diverged: bool


class _State(NamedTuple):
    """All that changes along a training, as arrays."""

    network: Network
    memory: Any
    best: Network
    score: Float[Array, "2"]
    """Robust and standard error of the best epoch so far."""
    best_epoch: Int[Array, ""]
    step: Int[Array, ""]
    loss: Float[Array, ""]
    """Sum of the losses of this epoch's steps."""
    history: Float[Array, "epochs 4"]
    clock: Float[Array, "3"]
    """Seconds in all; seconds and examples of the stretches that did not compile."""


_HISTORY = ("loss", "radius", "standard_error", "robust_error")


def optimizer_of(preset: Preset) -> optax.GradientTransformation:
    """The rule of a recipe, without the learning rate, which changes along the training."""
    rule = optax.scale_by_adam() if preset.optimizer == "adam" else optax.trace(preset.momentum)
    clip = [] if preset.clip is None else [optax.clip_by_global_norm(preset.clip)]
    decay = [] if preset.weight_decay == 0 else [optax.add_decayed_weights(preset.weight_decay)]
    return optax.chain(*clip, *decay, rule)


@lru_cache(maxsize=32)
def stretch_of(preset: Preset, make_loss: MakeLoss, shape: Shape, levels: int, at_once: int = 0) -> Callable:
    """The compiled function that takes some steps of one epoch.

    (key, network, memory, sum of losses, threat, images, labels, first step, number of steps) -> the same three.
    """
    rule = optimizer_of(preset)

    def one_step(key, threat, images, labels, index, carry):
        network, memory, total = carry
        steps, dtype = preset.steps(labels.shape[0]), total.dtype
        epoch = index.astype(dtype) / steps
        order = jr.permutation(jr.fold_in(jr.fold_in(key, 0), index // steps), labels.shape[0])
        chosen = jax.lax.dynamic_slice_in_dim(order, (index % steps) * preset.batch, preset.batch)
        image_key, loss_key = jr.split(jr.fold_in(jr.fold_in(key, 1), index))
        x = augmented(image_key, images[chosen], shape, levels, dtype, padding=preset.padding, flip=preset.flip)
        x, y = spread((x, labels[chosen]))
        share = preset.share(epoch, jnp.asarray(threat.radius, dtype))
        loss = make_loss(loss_key)
        loss = loss.at(share) if isinstance(loss, Schedule) else loss
        with jax.default_matmul_precision("bfloat16" if preset.fast_products else "highest"):
            value, gradient = mean_gradient(network, threat.scaled(share), loss, x, y, at_once)
        # The library mixes types of numbers, which a user may have forbidden.
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = rule.update(gradient, memory, network)
        rate = preset.rate(epoch)
        network = jax.tree.map(lambda leaf, update: leaf - rate * update, network, updates)
        return network, memory, total + value

    @jax.jit
    def run(key, network, memory, total, threat, images, labels, first, count):
        step = partial(one_step, key, threat, images, labels)
        return jax.lax.fori_loop(first, first + count, step, (network, memory, total))

    return run


@jax.jit
def _examined(network, threat, x, y):
    """Whether images are wrong as they are, and wrong after ten steps of APGD on the smallest margin."""
    x, y = spread((x, y))

    def one(x, y):
        clean = jnp.min(margins(network, x, label(y)))
        found = attacks.apgd(network, threat, x, label(y), steps=10, objective="margin")
        # Not "at most 0": a margin that is no number is not right.
        return ~(clean > 0), ~(jnp.minimum(clean, found.margin) > 0)

    return jax.vmap(one)(x, y)


def validation_errors(network: Network, threat: Threat, x: Float[Array, "n d"], y: Int[Array, " n"]) -> np.ndarray:
    """[robust error, standard error] under ten steps of APGD from the image, `CHUNK` images at a time."""
    found = []
    for start in range(0, len(y), CHUNK):
        own = slice(start, start + CHUNK)
        clean, attacked = _examined(network, threat, x[own], y[own])
        found.append(np.stack([attacked, clean]))
    return np.mean(np.concatenate(found, axis=1), axis=1)


def fit(
    key: PRNGKeyArray,
    network: Network,
    train: Labelled,
    threat: Threat,
    make_loss: MakeLoss,
    preset: Preset,
    shape: Shape,
    *,
    validation: Labelled | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    at_once: int = 0,
) -> ImageFit:
    """Train by a recipe; continue where the checkpoints end, if they hold a part of the same training.

    The network reads vectors of images of `shape`; the threat's radius is in their units, values of [0, 1].  The epoch
    that is kept has the smallest robust error on the validation images (ties: standard error, then the first), among
    those at the full radius: one rule for every defence.  `at_once` examples of a device have their gradients computed
    together, 0 all of them (see `mean_gradient`): time and memory depend on it, results up to rounding.  Raises
    `Interrupted` if `progress.stopping` says so, after saving, and `ValueError` if there is not a single batch.
    """
    checkpoints = Checkpoints(None, 0) if checkpoints is None else checkpoints
    progress = Progress() if progress is None else progress
    key, train, threat, validation = (_placed(part) for part in (key, train, threat, validation))
    training = _Training(key, train, threat, make_loss, preset, shape, validation, checkpoints, progress, at_once)
    state = training.start(network)
    while int(state.step) < training.steps * preset.epochs:
        state = training.advanced(state)
    return training.finished(state)


def _placed(part: Any) -> Any:
    """Arrays of a part everywhere, its plain numbers as they are."""
    return jax.tree.map(lambda leaf: everywhere(leaf) if isinstance(leaf, jax.Array) else leaf, part)


class _Training(NamedTuple):
    """One training: everything but its state."""

    key: PRNGKeyArray
    train: Labelled
    threat: Threat
    make_loss: MakeLoss
    preset: Preset
    shape: Shape
    validation: Labelled | None
    checkpoints: Checkpoints
    progress: Progress
    at_once: int

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.preset.steps(len(self.train.labels))

    @property
    def dtype(self):
        return jnp.result_type(float)

    def start(self, network: Network) -> _State:
        """The state at the beginning, or that of the checkpoint."""
        epochs, zero = self.preset.epochs, jnp.zeros((), jnp.int32)
        memory = optimizer_of(self.preset).init(network)
        worst, history = jnp.full(2, jnp.inf, self.dtype), jnp.full((epochs, len(_HISTORY)), jnp.nan, self.dtype)
        fresh = _State(
            network, memory, network, worst, zero, zero, jnp.zeros((), self.dtype), history, jnp.zeros(3, self.dtype)
        )
        leaves, structure = jax.tree.flatten(everywhere(fresh))
        kept = self.checkpoints.restore(leaves)
        return jax.tree.unflatten(structure, leaves if kept is None else kept)

    def advanced(self, state: _State) -> _State:
        """A few seconds further: some steps, the end of an epoch if they reach it, a checkpoint if it is time."""
        began, step = time.perf_counter(), int(state.step)
        count = min(self._stretch(state), self.steps - step % self.steps)
        run = stretch_of(self.preset, self.make_loss, self.shape, self.train.levels, self.at_once)
        images, labels = self.train.images, self.train.labels
        moved = run(
            self.key,
            state.network,
            state.memory,
            state.loss,
            self.threat,
            images,
            labels,
            np.int32(step),
            np.int32(count),
        )
        network, memory, loss = jax.block_until_ready(moved)
        stepped = time.perf_counter() - began
        state = state._replace(network=network, memory=memory, loss=loss, step=jnp.int32(step + count))
        if (step + count) % self.steps == 0:
            state = self._epoch_done(state, (step + count) // self.steps)
        first = step == 0
        clock = np.array(
            [time.perf_counter() - began, 0 if first else stepped, 0 if first else count * self.preset.batch]
        )
        state = state._replace(clock=state.clock + jnp.asarray(clock, self.dtype))
        self._keep(state)
        return state

    def _stretch(self, state: _State) -> int:
        """Steps that take about `STRETCH_SECONDS`; one to begin with."""
        _, seconds, examples = (float(one) for one in state.clock)
        return max(1, int(STRETCH_SECONDS * examples / self.preset.batch / seconds)) if seconds else 1

    def _epoch_done(self, state: _State, epochs: int) -> _State:
        """The state with the epoch written down, and with its network if it is the best one so far."""
        at_full = epochs > self.preset.full_from
        share = self.preset.share(jnp.asarray(epochs - 1 / self.steps, self.dtype), self._radius)
        errors = np.full(2, np.nan, self.dtype)
        if at_full and self.validation is not None:
            held_out = self.validation.vectors(self.shape), self.validation.labels
            # In the precision in which the best one is kept, so that a tie is a tie.
            errors = validation_errors(state.network, self.threat, *held_out).astype(self.dtype)
        row = jnp.asarray(
            [float(state.loss) / self.steps, float(share * self._radius), errors[1], errors[0]], self.dtype
        )
        state = state._replace(history=state.history.at[epochs - 1].set(row), loss=jnp.zeros((), self.dtype))
        better = tuple(errors) < tuple(np.asarray(state.score))
        if better or self.validation is None:
            score = jnp.asarray(errors, self.dtype)
            state = state._replace(best=state.network, score=score, best_epoch=jnp.int32(epochs))
        return state

    @property
    def _radius(self) -> Float[Array, ""]:
        return jnp.asarray(self.threat.radius, self.dtype)

    def _keep(self, state: _State) -> None:
        """Save if it is time or the training is to stop, and say how far it is."""
        step, total = int(state.step), self.steps * self.preset.epochs
        asked = self.progress.stopping() and step < total
        if asked or step == total or self.checkpoints.due():
            self.checkpoints.save(step, jax.tree.leaves(state))
        self.progress.say(self._sentence(state, total))
        if asked:
            raise Interrupted(f"the training is at step {step} of {total}")

    def _sentence(self, state: _State, total: int) -> str:
        step = int(state.step)
        _, seconds, examples = (float(one) for one in state.clock)
        epoch = min(step // self.steps + 1, self.preset.epochs)
        if not seconds:
            return f"epoch {epoch} of {self.preset.epochs}: compiled"
        left = (total - step) * self.preset.batch * seconds / examples
        rate = f"{examples / seconds:,.0f} examples per second, about {left:,.0f} s left"
        return f"epoch {epoch} of {self.preset.epochs}: {rate}"

    def finished(self, state: _State) -> ImageFit:
        """What a training ends with."""
        network = state.network if int(state.best_epoch) == 0 else state.best
        some = self.train._replace(images=self.train.images[:STATISTICS])
        network = fitted(network, some.vectors(self.shape))
        finite = [bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.network)]
        whole, seconds, examples = (float(one) for one in state.clock)
        return ImageFit(
            network,
            dict(zip(_HISTORY, state.history.T, strict=True)),
            int(state.best_epoch) or self.preset.epochs,
            whole,
            examples / seconds if seconds else float("nan"),
            not all(finite),
        )
