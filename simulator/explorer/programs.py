"""The programs of the explorer: draw a sample, train a defence on it, measure the network; compiled once per shape.

Everything but the dimension and the width is an argument of the programs: the data and the set of perturbations are
chosen by numbers, and the training set has room for `MOST_EXAMPLES`, of which the first n have weight.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from simulator import attacks, data, metrics, networks, threats, train
from simulator.defences import DEFENCES, loss_of
from simulator.explorer.controls import (
    ATTACK_STEPS,
    EPOCHS,
    INNER,
    LEARNING_RATE,
    LINEAR,
    MOMENTUM,
    MOST_EXAMPLES,
    NOISE,
    RECORDS,
    SETS,
    SPHERES,
    TASKS,
    TEST_EXAMPLES,
    Controls,
    Shape,
)
from simulator.networks import Network

ARROWS = 12
"""Training examples at which perturbations are drawn; the first of them is the one they are explained at."""
PIXELS = 81
"""Points along each side of a drawn region."""
ANGLES = 64
"""Directions in which the extent of the set of perturbations is drawn."""


TASK_OF: dict[str, Callable[..., data.Task]] = {
    SPHERES: lambda dim, margin: data.ConcentricSpheres(dim, INNER, INNER + margin),
    LINEAR: lambda dim, margin: data.LinearlySeparable(dim, margin, NOISE),
}
"""(dim, margin) -> task."""

THREAT_OF: dict[str, Callable[..., threats.Threat]] = dict(
    zip(SETS, (threats.L2, threats.LInf, threats.SignalDirected, threats.Orthogonal), strict=True)
)
"""radius -> threat."""


class Scalars(NamedTuple):
    """A setting as the argument of a program: all of them leaves."""

    seed: Any
    task: Any
    threat: Any
    epsilon: Any
    margin: Any
    n: Any
    reach: Any

    @classmethod
    def of(cls, controls: Controls) -> "Scalars":
        """A setting as numbers, in types that are always the same."""
        return cls(
            seed=np.int32(controls.seed),
            task=np.int32(TASKS.index(controls.task)),
            threat=np.int32(SETS.index(controls.threat)),
            epsilon=np.float32(controls.epsilon),
            margin=np.float32(controls.margin),
            n=np.int32(controls.n),
            reach=np.float32(controls.reach),
        )


class Problem(NamedTuple):
    """What both defences are trained and measured on, and where they start."""

    task: data.OneOf
    threat: threats.OneOf
    x: Float[Array, "m d"]
    y: Int[Array, " m"]
    weight: Float[Array, " m"]
    shown: Int[Array, ""]
    """The example at which perturbations are explained: the first of the class y = -1."""
    plane: Float[Array, "2 d"]
    """Two orthonormal directions, the axes of the picture."""
    test_x: Float[Array, "t d"]
    test_y: Int[Array, " t"]
    start: Network


def _attack(network: Network, threat: threats.Threat, x, label) -> attacks.Attack:
    return attacks.apgd(network, threat, x, label, steps=ATTACK_STEPS, objective="margin")


def problem(shape: Shape, at: Scalars) -> Problem:
    """The data of a setting.  Common random numbers: a slider moves the sample, it does not draw another."""
    train_key, init_key, test_key = jr.split(jr.key(at.seed), 3)
    task = data.OneOf(tuple(TASK_OF[name](shape.dim, at.margin) for name in TASKS), at.task)
    sets: tuple[threats.Threat, ...] = tuple(THREAT_OF[name](at.epsilon) for name in SETS)
    threat = threats.OneOf(at.epsilon, sets, at.threat)
    x, y = task.sample(train_key, MOST_EXAMPLES)
    used = jnp.arange(MOST_EXAMPLES) < at.n
    shown, other = jnp.argmax((y < 0) & used), jnp.argmax((y > 0) & used)
    plane = _plane(at.task, x[shown], x[other])
    test = task.sample(test_key, TEST_EXAMPLES)
    start = networks.mlp(init_key, shape.dim, (shape.width,))
    return Problem(task, threat, x, y, used.astype(x.dtype), shown, plane, *test, start)


def _plane(task: Int[Array, ""], shown: Float[Array, " d"], other: Float[Array, " d"]) -> Float[Array, "2 d"]:
    """In two dimensions the coordinates; in more the plane through the origin, the example shown and either the signal
    (linear data) or an example of the other class (spheres), whose first axis is the signal direction's."""
    dim = shown.shape[0]
    if dim == 2:
        return jnp.eye(2, dtype=shown.dtype)
    along = jnp.zeros_like(shown).at[0].set(1)
    first = jnp.where(task == TASKS.index(LINEAR), along, shown / jnp.linalg.norm(shown))
    second = jnp.where(task == TASKS.index(LINEAR), shown, other)
    rest = second - (second @ first) * first
    return jnp.stack([first, rest / jnp.linalg.norm(rest)])


def trained(defence: str, made: Problem) -> train.Fit:
    """The network a defence ends with, and its loss along the way."""
    return train.fit(
        jr.key(0),  # of the order of examples, which a full batch does not have
        made.start,
        made.x,
        made.y,
        made.threat,
        loss_of(defence, _attack),
        train.Recipe(LEARNING_RATE, MOMENTUM, epochs=EPOCHS),
        signal=jax.vmap(made.task.signal)(made.x, made.y),
        weight=made.weight,
        every=EPOCHS // RECORDS,
    )


def measured(reach: Float[Array, ""], made: Problem, fit: train.Fit) -> dict[str, Array]:
    """Errors and alignments on fresh examples, and what the picture of a network shows."""
    # The example that is shown, then the first ones.
    drawn = jnp.concatenate([made.shown[None], jnp.arange(ARROWS - 1)])

    def one(x, y):
        return metrics.examine(jr.key(0), fit.network, made.task, made.threat, x, y, lambda _, *at: _attack(*at))

    # One call for both groups of examples, which is compiled once.
    groups = ((made.test_x, made.x[drawn]), (made.test_y, made.y[drawn]))
    values, deltas = jax.vmap(one)(*map(jnp.concatenate, groups))
    examined = {name: value[:TEST_EXAMPLES] for name, value in values.items()}
    cosines = {
        f"cosine_{name}": jnp.where(examined[f"alignment_{name}_defined"] > 0, examined[f"alignment_{name}"], jnp.nan)
        for name in ("attack", "dual")
    }
    return {
        **metrics.means(examined),
        **cosines,
        **_drawn(made, fit.network, reach, drawn, {name: delta[TEST_EXAMPLES:] for name, delta in deltas.items()}),
        "loss": fit.history["loss"],
        "diverged": fit.diverged,
    }


def _drawn(
    made: Problem, network: Network, reach: Float[Array, ""], drawn: Int[Array, " k"], deltas: dict[str, Array]
) -> dict[str, Array]:
    """The learnt region, and the perturbations at the examples drawn, in the plane of the picture."""
    side = jnp.linspace(-reach, reach, PIXELS)

    def margin_at(u, v):
        logits = network(u * made.plane[0] + v * made.plane[1])
        return logits[1] - logits[0]

    x, attack, dual = made.x[drawn], deltas["attack"], deltas["dual"]
    signal = made.task.signal(x[0], made.y[drawn[0]])
    return {
        "margin_map": jax.vmap(lambda v: jax.vmap(lambda u: margin_at(u, v))(side))(side),
        "cosine_shown_attack": metrics.cosine(signal, attack[0])[0],
        "cosine_shown_dual": metrics.cosine(signal, dual[0])[0],
        **{name: value @ made.plane.T for name, value in {"places": x, "attack": attack, "dual": dual}.items()},
    }


def sampled(shape: Shape, at: Scalars) -> tuple[Problem, dict[str, Array]]:
    """The data of a setting, and what a picture shows of them."""
    made = problem(shape, at)
    return made, scenery(made)


def scenery(made: Problem) -> dict[str, Array]:
    """What a picture shows of a problem whatever is trained on it, in the plane of the picture: the examples and their
    labels, the example that is explained, the signal there, and the extent of the set of perturbations."""
    x = made.x[made.shown]
    signal = made.task.signal(x, made.y[made.shown])
    angle = jnp.linspace(0, 2 * jnp.pi, ANGLES, endpoint=False)
    ways = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1) @ made.plane
    # The shadow of a convex set reaches furthest, in every direction, where the set does.
    outline = jax.vmap(made.threat.at(x, signal).worst)(ways)
    flat = {"x": made.x, "place": x, "signal": signal, "outline": outline}
    return {"y": made.y, **{name: value @ made.plane.T for name, value in flat.items()}}


EMITTERS = "xla_cpu_use_fusion_emitters"
"""A switch of XLA, which a later one may not have."""
DRAW, MEASURE = "draw", "measure"
"""The programs of a shape besides those of the defences, which have their names."""
PROGRAMS = (DRAW, *DEFENCES, MEASURE)


def compiled(shape: Shape, name: str) -> Callable:
    """Compile a program of a shape: `sampled` of scalars, `trained` of a problem, or `measured` of the reach, a problem
    and a fit.  It takes any setting of the shape, and never compiles again."""
    at = Scalars.of(Controls(dim=shape.dim, width=shape.width))
    if name == DRAW:
        return _compile(0, partial(sampled, shape), at)
    made = _like(shape)
    if name == MEASURE:
        return _compile(0, measured, at.reach, made, jax.eval_shape(partial(trained, "standard"), made))
    return _compile(1, partial(trained, name), made)


@lru_cache
def _like(shape: Shape) -> Problem:
    """The shapes and types of the arrays of a problem."""
    return jax.eval_shape(partial(problem, shape), Scalars.of(Controls(dim=shape.dim, width=shape.width)))


def _compile(level: int, program: Callable, *like: Any) -> Callable:
    """Compile in a hurry: compiling takes longer than everything else.  At level 0 the least is done, for what runs
    once per setting, at level 1 the usual passes but for the dearest, for the training."""
    lowered = jax.jit(program).lower(*like)
    try:
        # Half the work of the compiler, for trainings that are up to half as slow again.
        return lowered.compile(compiler_options={**_at(level), EMITTERS: False})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile(compiler_options=_at(level))  # a compiler without that switch


def _at(level: int) -> dict[str, Any]:
    return {"xla_backend_optimization_level": level}
