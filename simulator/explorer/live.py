"""Train two defences on one sample and measure both, in programs compiled once per shape.

Everything but the dimension and the width is an argument of the programs: the data, the set of perturbations and the
defence are chosen by numbers, and the training set has room for `MOST_EXAMPLES`, of which the first n have weight.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from simulator import attacks, data, metrics, networks, threats, train
from simulator.explorer.controls import INNER, MOST_EXAMPLES, NOISE, SETS, TASKS, Controls, Shape
from simulator.networks import Network
from simulator.studies.defences import DEFENCES, loss_of

EPOCHS, LEARNING_RATE, MOMENTUM = 300, 0.05, 0.9
"""Full-batch steps of SGD, from PyTorch's initialisation."""
ATTACK_STEPS = 10
"""Of APGD on the margin, in training and in the measurement."""
RECORDS = 30
"""Of the loss along training."""
TEST_EXAMPLES = 400
"""Fresh examples of every measurement."""
ARROWS = 12
"""Training examples at which perturbations are drawn; the first of them is the one they are explained at."""
PIXELS = 81
"""Points along each side of a drawn region."""
ANGLES = 64
"""Directions in which the extent of the set of perturbations is drawn."""


class Scalars(NamedTuple):
    """The arguments of a program: all of them leaves."""

    seed: Any
    task: Any
    threat: Any
    epsilon: Any
    margin: Any
    n: Any
    defence: Any
    reach: Any

    @classmethod
    def of(cls, controls: Controls, defence: str) -> "Scalars":
        """A setting as numbers, in types that are always the same."""
        return cls(
            seed=np.int32(controls.seed),
            task=np.int32(list(TASKS).index(controls.task)),
            threat=np.int32(list(SETS).index(controls.threat)),
            epsilon=np.float32(controls.epsilon),
            margin=np.float32(controls.margin),
            n=np.int32(controls.n),
            defence=np.int32(DEFENCES.index(defence)),
            reach=np.float32(reach_of(controls)),
        )


def reach_of(controls: Controls) -> float:
    """Half the side of the drawn square: all data, and the set of perturbations at them."""
    if controls.task == "concentric spheres":
        largest = INNER + controls.margin
    else:
        # The example shown lies in the plane, as far across as its noise is long.
        largest = max(controls.margin, NOISE * max(2.5, 1.2 * (controls.dim - 1) ** 0.5))
    return round(1.15 * largest + 0.4 * controls.epsilon, 3)


class Problem(NamedTuple):
    """What both defences are trained and measured on."""

    task: data.OneOf
    threat: threats.OneOf
    x: Float[Array, "m d"]
    y: Int[Array, " m"]
    weight: Float[Array, " m"]
    shown: Int[Array, ""]
    """The example at which perturbations are explained: the first of the class y = -1."""
    plane: Float[Array, "2 d"]
    """Two orthonormal directions, the axes of the picture."""


def _attack(network: Network, threat: threats.Threat, x, label) -> attacks.Attack:
    return attacks.apgd(network, threat, x, label, steps=ATTACK_STEPS, objective="margin")


def _loss(index: Int[Array, ""]):
    """The loss of the defence at an index: a branch, of which only one is computed."""
    branches: Any = [loss_of(name, _attack) for name in DEFENCES]
    return lambda network, threat, x, y: jax.lax.switch(index, branches, network, threat, x, y)


def problem(shape: Shape, at: Scalars) -> Problem:
    """The data of a setting.  Common random numbers: a slider moves the sample, it does not draw another."""
    task = data.OneOf(tuple(make(shape.dim, at.margin) for make in TASKS.values()), at.task)
    sets: tuple[threats.Threat, ...] = tuple(make(at.epsilon) for make in SETS.values())
    threat = threats.OneOf(at.epsilon, sets, at.threat)
    x, y = task.sample(_keys(at)[0], MOST_EXAMPLES)
    used = jnp.arange(MOST_EXAMPLES) < at.n
    shown, other = jnp.argmax((y < 0) & used), jnp.argmax((y > 0) & used)
    return Problem(task, threat, x, y, used.astype(x.dtype), shown, _plane(at.task, x[shown], x[other]))


def _keys(at: Scalars) -> Array:
    """Of the training data, the initial weights, the test data, the attacks."""
    return jr.split(jr.key(at.seed), 4)


def _plane(task: Int[Array, ""], shown: Float[Array, " d"], other: Float[Array, " d"]) -> Float[Array, "2 d"]:
    """In two dimensions the coordinates; in more the plane through the origin, the example shown and either the signal
    (linear data) or an example of the other class (spheres), whose first axis is the signal direction's."""
    dim = shown.shape[0]
    if dim == 2:
        return jnp.eye(2, dtype=shown.dtype)
    along = jnp.zeros_like(shown).at[0].set(1)
    first = jnp.where(task == list(TASKS).index("linearly separable"), along, shown / jnp.linalg.norm(shown))
    second = jnp.where(task == list(TASKS).index("linearly separable"), shown, other)
    rest = second - (second @ first) * first
    return jnp.stack([first, rest / jnp.linalg.norm(rest)])


def trained(shape: Shape, at: Scalars) -> train.Fit:
    """The network a defence ends with, and its loss along the way."""
    _, init_key, _, batch_key = _keys(at)
    made = problem(shape, at)
    signal = jax.vmap(made.task.signal)(made.x, made.y)
    start = networks.mlp(init_key, shape.dim, (shape.width,))
    recipe = train.Recipe(LEARNING_RATE, MOMENTUM, epochs=EPOCHS)
    return train.fit(
        batch_key,
        start,
        made.x,
        made.y,
        made.threat,
        _loss(at.defence),
        recipe,
        signal=signal,
        weight=made.weight,
        every=EPOCHS // RECORDS,
    )


def measured(shape: Shape, at: Scalars, fit: train.Fit) -> dict[str, Array]:
    """Errors and alignments on fresh examples, and what the picture of a network shows."""
    _, _, test_key, attack_key = _keys(at)
    made, network = problem(shape, at), fit.network

    def keyed(key, *example):
        del key
        return _attack(*example)

    examined = metrics.examine_all(
        attack_key, network, made.task, made.threat, *made.task.sample(test_key, TEST_EXAMPLES), keyed
    )
    cosines = {
        f"cosine_{name}": jnp.where(examined[f"alignment_{name}_defined"] > 0, examined[f"alignment_{name}"], jnp.nan)
        for name in ("attack", "dual")
    }
    return {
        **metrics.means(examined),
        **cosines,
        **_drawn(made, network, at),
        "loss": fit.history["loss"],
        "diverged": fit.diverged,
    }


def _drawn(made: Problem, network: Network, at: Scalars) -> dict[str, Array]:
    """The learnt region and the perturbations, in the plane of the picture."""
    side = jnp.linspace(-at.reach, at.reach, PIXELS)

    def margin_at(u, v):
        logits = network(u * made.plane[0] + v * made.plane[1])
        return logits[1] - logits[0]

    # The example that is shown, then the first ones.
    index = jnp.concatenate([made.shown[None], jnp.arange(ARROWS - 1)])
    x, y = made.x[index], made.y[index]
    signal = jax.vmap(made.task.signal)(x, y)

    def perturbed(x, y, signal):
        here = made.threat.at(x, signal)
        found, _, _ = metrics.perturbations(
            jr.key(0), network, here, x, networks.label(y), lambda key, *example: _attack(*example)
        )
        return found["attack"], found["dual"]

    attack, dual = jax.vmap(perturbed)(x, y, signal)
    angle = jnp.linspace(0, 2 * jnp.pi, ANGLES, endpoint=False)
    ways = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1) @ made.plane
    # The shadow of a convex set reaches furthest, in every direction, where the set does.
    outline = jax.vmap(made.threat.at(x[0], signal[0]).worst)(ways)
    flat = {"x": made.x, "places": x, "signal": signal[0], "attack": attack, "dual": dual, "outline": outline}
    return {
        "margin_map": jax.vmap(lambda v: jax.vmap(lambda u: margin_at(u, v))(side))(side),
        "y": made.y,
        "cosine_shown_attack": metrics.cosine(signal[0], attack[0])[0],
        "cosine_shown_dual": metrics.cosine(signal[0], dual[0])[0],
        **{name: value @ made.plane.T for name, value in flat.items()},
    }


class Programs(NamedTuple):
    """What serves one shape: (scalars) -> fit, (scalars, fit) -> numbers and pictures."""

    train: Callable
    measure: Callable


def compile_programs(shape: Shape) -> Programs:
    """Compile the training and the measurement of a shape.  They take any setting of it, and never compile again."""
    at = Scalars.of(Controls(dim=shape.dim, width=shape.width), "coap")
    training = jax.jit(lambda at: trained(shape, at)).lower(at)
    measuring = jax.jit(lambda at, fit: measured(shape, at, fit)).lower(at, training.out_info)
    # Compiling takes longer than everything else: little of it for what runs once per setting, the usual passes but
    # for the dearest for the training.
    effort: Any = ({"xla_backend_optimization_level": level} for level in (1, 0))
    with ThreadPoolExecutor(2) as pool:
        compiling = [
            pool.submit(program.compile, compiler_options=options)
            for program, options in zip((training, measuring), effort, strict=True)
        ]
        return Programs(*(one.result() for one in compiling))


class Live:
    """Answers one setting after another; safe to ask from several threads."""

    def __init__(self):
        self.compiled: dict[Shape, float] = {}
        """Seconds that compiling took, by shape."""
        self._programs: dict[Shape, Programs] = {}
        self._lock = threading.Lock()

    def programs(self, shape: Shape) -> Programs:
        """The programs of a shape, compiled when they are first asked for."""
        with self._lock:
            if shape not in self._programs:
                began = time.perf_counter()
                self._programs[shape] = compile_programs(shape)
                self.compiled[shape] = time.perf_counter() - began
            return self._programs[shape]

    def answer(self, controls: Controls) -> xr.Dataset:
        """Train and measure both defences of a setting."""
        new = controls.shape not in self.compiled
        programs = self.programs(controls.shape)
        began = time.perf_counter()
        scalars = [Scalars.of(controls, defence) for defence in (controls.left, controls.right)]

        def one_side(at: Scalars) -> dict[str, np.ndarray]:
            return jax.device_get(programs.measure(at, programs.train(at)))

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(one_side, scalars))
        result = _dataset(controls, found)
        compiling = self.compiled[controls.shape] if new else 0.0
        return result.assign_attrs(seconds=time.perf_counter() - began, compile_seconds=compiling)


@lru_cache(maxsize=1)
def shared() -> Live:
    """The one that everybody who has the page open asks, so that a shape is compiled for all of them."""
    return Live()


_DIMS = {
    "margin_map": ("v", "u"),
    "loss": ("epoch",),
    "attack": ("arrow", "xy"),
    "dual": ("arrow", "xy"),
    "cosine_attack": ("test",),
    "cosine_dual": ("test",),
}
"""Of what differs between the two defences and is no number."""
_SHARED = {
    "x": ("point", "xy"),
    "y": ("point",),
    "places": ("arrow", "xy"),
    "signal": ("xy",),
    "outline": ("angle", "xy"),
}
"""Of what both defences have in common."""


def _dataset(controls: Controls, found: list[dict[str, np.ndarray]]) -> xr.Dataset:
    """Both answers side by side along `side`, without the examples that have no weight."""
    own = {
        name: (("side", *_DIMS.get(name, ())), np.stack([one[name] for one in found]))
        for name in found[0]
        if name not in _SHARED
    }
    shared: dict[str, Any] = {name: (dims, found[0][name]) for name, dims in _SHARED.items()}
    round_ = controls.task == "concentric spheres"
    shared["truth"] = ((), INNER + controls.margin / 2 if round_ else np.inf)
    reach = reach_of(controls)
    side = np.linspace(-reach, reach, PIXELS)
    coords = {
        "defence": ("side", [controls.left, controls.right]),
        "u": side,
        "v": side,
        "epoch": train.recorded_epochs(EPOCHS, EPOCHS // RECORDS),
    }
    result = xr.Dataset({**own, **shared}, coords).isel(point=slice(controls.n))
    return result.assign_attrs(asdict(controls), reach=reach)
