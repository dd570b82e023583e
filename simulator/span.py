"""Training in the span: the same training in coordinates whose number does not depend on the dimension.

Under gradient descent every update of the first layer's weights W is a combination of training points, of worst
perturbations, and of rows of W; and under a threat that only knows inner products (`THREATS`) a worst perturbation is a
combination of gradients and of the threat's own directions.  So the rows of W never leave the span of

    the training points, the rows of the initial W, the axes of the task and the directions of the threat,

and neither does anything that is computed from them.  In an orthonormal basis Q [r, d] of that span all inner products
are what they were, hence so are losses, gradients, momentum, weight decay and minibatches: `reduce` replaces d by
r + 2, r <= n + h + k, at the price of one QR decomposition, O(d r^2), and `train.fit` does not notice.

A fresh example x does leave the span.  Networks see Qx alone; a threat tied to the example's signal also asks for the
length of the rest, and a random start of an attack has a length there of its own.  These are the two coordinates of a
folded task (see `data`), which draws examples by their exact law, again without any work that grows with d.

Not so for Adam, whose step depends on the coordinates, nor for LInf and L1: `check` refuses them by name.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from simulator import train
from simulator.data import Task
from simulator.losses import Loss, Schedule
from simulator.networks import Affine, Network
from simulator.threats import L2, Orthogonal, Segments, SignalDirected, Spheroid, Threat

THREATS = (L2, SignalDirected, Orthogonal, Spheroid, Segments)
"""The threats that are the same in every orthonormal basis of the span."""


class Problem(eqx.Module):
    """What a training starts from; reduced, or in the coordinates of the data."""

    task: Task
    network: Network
    x: Float[Array, "n d"]
    y: Int[Array, " n"]
    directions: Float[Array, "k d"]
    """Directions of the threat besides the axes of the task, such as those of `Segments`; k may be 0."""

    def fit(
        self, key: PRNGKeyArray, threat: Threat, loss: Loss | Schedule, recipe: train.Recipe, **options
    ) -> train.Fit:
        """`train.fit` on this problem; `options` are its keywords.  `threat` is in the coordinates of the problem.

        Raises `ValueError` if the problem is reduced and the threat or the optimizer would not be the same in the span.
        """
        if self.task.folded:
            check(threat, recipe)
        return train.fit(key, self.network, self.x, self.y, threat, loss, recipe, **options)


def check(threat: Threat, recipe: train.Recipe) -> None:
    """Raise `ValueError` unless training with this threat and recipe stays in the span."""
    if not isinstance(threat, THREATS):
        allowed = ", ".join(kind.__name__ for kind in THREATS)
        raise ValueError(
            f"the threat is {type(threat).__name__}, which depends on the coordinates, so training leaves the span: "
            f"use one of {allowed}, or train.fit"
        )
    if recipe.optimizer != "sgd":
        raise ValueError(
            f"the optimizer is {recipe.optimizer}, whose steps depend on the coordinates, so training leaves the span: "
            "use sgd, or train.fit"
        )


def problem(task: Task, network: Network, x, y, directions: Float[Array, "k d"] | None = None) -> Problem:
    """A problem in the coordinates of the data."""
    return Problem(task, network, x, y, jnp.zeros((0, x.shape[1]), x.dtype) if directions is None else directions)


def _rows(full: Problem) -> list[Array]:
    return [full.x, full.network.layers[0].weight, full.task.axes(), full.directions]


def _spanned(full: Problem) -> int:
    return sum(rows.shape[0] for rows in _rows(full))


def pays(full: Problem) -> bool:
    """Whether the reduced problem has fewer coordinates."""
    return _spanned(full) + 2 < full.x.shape[1]


def fewest(full: Problem) -> Problem:
    """The problem in the span where that has fewer coordinates, else as it is."""
    if not pays(full):
        return full
    # The coordinates of the rows are the triangular factor: the basis itself is not needed, nor computed.
    return _in_coordinates(full, jnp.linalg.qr(jnp.concatenate(_rows(full)).T, mode="r").T)


def reduce(full: Problem) -> tuple[Problem, Float[Array, "r d"]]:
    """The problem in the span, and its orthonormal basis.  Raises `ValueError` if that has no fewer coordinates."""
    if not pays(full):
        raise ValueError(
            f"the span has up to {_spanned(full)} dimensions and 2 coordinates are added, but the data have only "
            f"{full.x.shape[1]}: use the problem as it is"
        )
    basis, triangle = jnp.linalg.qr(jnp.concatenate(_rows(full)).T)
    return _in_coordinates(full, triangle.T), basis.T


def _in_coordinates(full: Problem, coordinates: Float[Array, "rows r"]) -> Problem:
    folded = jnp.pad(coordinates, ((0, 0), (0, 2)))
    counts = [rows.shape[0] for rows in _rows(full)]
    x, weight, axes, directions = jnp.split(folded, [sum(counts[:end]) for end in (1, 2, 3)])
    first = full.network.layers[0]
    network = Network((Affine(weight, first.bias), *full.network.layers[1:]))
    return Problem(full.task.folded_to(axes), network, x, full.y, directions)


def lift(network: Network, basis: Float[Array, "r d"]) -> Network:
    """The network on [d] that a network of the reduced problem stands for."""
    first = network.layers[0]
    return Network((Affine(first.weight[:, :-2] @ basis, first.bias), *network.layers[1:]))


def coordinates(points: Float[Array, "n d"], basis: Float[Array, "r d"]) -> Float[Array, "n r+2"]:
    """Given examples in the coordinates of the reduced problem: inside the span, and the length of the rest."""
    inside = points @ basis.T
    rest = jnp.linalg.norm(points - inside @ basis, axis=1)
    return jnp.concatenate([inside, rest[:, None], jnp.zeros_like(rest)[:, None]], axis=1)
