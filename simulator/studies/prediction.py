"""Linear theory under a study: what the maximum-margin classifier of a trial's own training points errs.

Training a linear classifier to the end by any defence gives that classifier: its certified bounds are exact, so every
defence solves the same problem.  Beside a network with hidden neurons it is a reference, not a prediction.
"""

import json

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int
from scipy.special import bdtr, bdtrc, ndtri

from simulator import theory
from simulator.data import LinearlySeparable, Task
from simulator.threats import L2, Threat

ERRORS = ("standard_error", "robust_error")
NOTE = (
    "of the linear maximum-margin classifier of the same training points, robust to the threat (standard training: to "
    "none), in closed form from the margin of their noise"
)
"""What `*_theory` is, for the notes of a store."""

MOST_DEVIATIONS = 5.0
"""Standard deviations, of examples or of a mean over trials, within which simulation and theory agree."""

GAP = 5e-4
"""The relative duality gap asked for on l_inf threats: on these single precision does not always reach 1e-4."""

NEVER = 1e-9
"""A probability of separable noise that is taken as none: then its margin is 0 without a solve."""


def noise_margin(task: Task, x: Float[Array, "n d"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """The maximum margin of the noise part of linearly separable data; nan for another task or a failed solve."""
    if not isinstance(task, LinearlySeparable):
        return jnp.asarray(jnp.nan, x.dtype)
    dim = task.dim if not task.folded else task.dim - 2 + task.folded
    if theory.separability(len(x), dim - 1) < NEVER:
        return jnp.zeros((), x.dtype)
    points = x * y.astype(x.dtype)[:, None]
    found = theory.max_margin(points - jnp.outer(points @ task.direction, task.direction), L2(0.0))
    return jnp.where(found.outcome == theory.Outcome.NOT_CONVERGED, jnp.nan, found.value)


def limit(task: LinearlySeparable, n: int, dim: int) -> Float[Array, ""]:
    """The margin of the noise as n and dim grow together, in units of x."""
    return task.noise * theory.noise_margin(jnp.asarray((dim - 1) / n, task.noise.dtype)).margin


def errors(
    margin: Float[Array, ""], task: Task, trained: Threat, tested: Threat, suffix: str = "theory"
) -> dict[str, Float[Array, ""]]:
    """Both of `ERRORS`, named with the suffix; nan for a task that is not linearly separable."""
    if not isinstance(task, LinearlySeparable):
        return {f"{name}_{suffix}": margin for name in ERRORS}
    found = theory.maximum_margin_errors(margin, task, trained, tested)
    return {f"{name}_{suffix}": value for name, value in zip(ERRORS, found, strict=True)}


def beside(margin: Float[Array, ""], task: Task, threat: Threat, defence: str) -> dict[str, Float[Array, ""]]:
    """`errors` under the threat, of what a defence trains on: standard training on none."""
    ignored = threat.with_radius(jnp.zeros_like(threat.radius))
    return errors(margin, task, ignored if defence == "standard" else threat, threat)


def deviations(measured: xr.DataArray, predicted: xr.DataArray, count: int) -> xr.DataArray:
    """How surprising the measured shares of so many examples are, given their probabilities, in standard deviations.

    From the exact tails of the binomial distribution, expressed as the deviation of a normal variable with that tail:
    it means the same at probabilities near 0, where the normal approximation does not.  nan where either is nan.
    """
    hits, p = np.round(measured.values.astype(float) * count), predicted.values.astype(float)
    surprise = -ndtri(np.clip(np.minimum(bdtrc(hits - 1, count, p), bdtr(hits, count, p)), 0, 0.5))
    return measured.copy(data=np.where(np.isfinite(measured.values + p), surprise, np.nan))


def agreement(result: xr.Dataset) -> tuple[bool, str]:
    """Whether simulated and predicted errors agree in every cell, and the words for it."""
    unsolved = int((result["outcome"].where(result["status"] == "ok", 0) != theory.Outcome.SOLVED).sum())
    count = json.loads(result.attrs["settings"])["test"]
    worst = max(float(deviations(result[name], result[f"{name}_theory"], count).max()) for name in ERRORS)
    words = (
        f"simulated and predicted errors differ by at most {worst:.1f} standard deviations of {count} test examples "
        f"in {2 * int((result['status'] == 'ok').sum())} comparisons"
    )
    return worst <= MOST_DEVIATIONS and not unsolved, words + (
        f"; {unsolved} cells were not solved" if unsolved else ""
    )
