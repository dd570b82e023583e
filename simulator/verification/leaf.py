r"""The convex program inside a subproblem whose unstable neurons are all split.

There the network is affine: f = c0 + <c, delta> over delta in B with G delta >= -g, one row s_j z_j >= 0 for each split
neuron.  Its minimiser is a candidate for the smallest margin, and its multipliers beta make the bound of the relaxation
tight.  They are found apart and only proposed: the bound is evaluated by the relaxation, whatever they are.

- *polytopes*: a linear program;
- *ellipsoids* B = {M v : |v| <= 1}: with p = M^T c and A v <= b the constraints in v, the minimiser for a multiplier
  t/2 of |v|^2 <= 1 is the point of {A v <= b} nearest to -p / t, a least-distance problem, which non-negative least
  squares solve in finitely many steps (Lawson & Hanson, 1974, chapter 23).  |v| falls as t grows: t is its root of
  |v| = 1, or as good as 0 where the ball does not bind.

An empty subproblem has a ray of multipliers along which the bound grows without end; one long enough is proposed.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from simulator.threats import L2, Orthogonal, Spheroid, Threat
from simulator.verification.polytopes import Polytope, polytope
from simulator.verification.problem import Problem

_SMALLEST = 1e-7
"""The multiplier of the ball that counts as 0, in units of |p|: the minimum is off by as much at most."""
_FAR = 1e6
"""How far along a ray to go, in units of what the objective can differ by, over what a unit of it gains."""


class Proposal(NamedTuple):
    """Multipliers [H] for the relaxation, and a minimiser [d] or None where the subproblem is empty."""

    beta: np.ndarray
    delta: np.ndarray | None


def _ellipsoid(threat: Threat, dim: int) -> np.ndarray | None:
    """The symmetric M with B = {M v : |v| <= 1}."""
    radius, identity = float(threat.radius), np.eye(dim)
    if isinstance(threat, L2):
        return radius * identity
    if isinstance(threat, (Orthogonal, Spheroid)):
        direction = np.asarray(threat.direction)
        along = np.outer(direction, direction)
        across = 1.0 if isinstance(threat, Orthogonal) else 1 - float(threat.share)
        return radius * (across * (identity - along) + isinstance(threat, Spheroid) * along)
    return None


def solve_leaf(problem: Problem, row: np.ndarray, split: np.ndarray) -> Proposal | None:
    """The minimiser and multipliers of a subproblem; None where the threat is of no known shape or a solver fails."""
    slopes, offsets, objective = _affine(problem, row, split)
    rows = np.flatnonzero(split)
    # s_j (G_j delta + g_j) >= 0 as (-s_j G_j) delta <= s_j g_j.
    left, right = -split[rows, None] * slopes[rows], split[rows] * offsets[rows]
    matrix, shape = _ellipsoid(problem.threat, problem.x.size), polytope(problem.threat, problem.x.size)
    if matrix is not None:
        found = _in_ball(matrix @ objective, left @ matrix, right)
        basis = matrix
    elif shape is not None:
        found = _in_polytope(shape, shape.basis.T @ objective, left @ shape.basis, right)
        basis = shape.basis
    else:
        return None
    if found is None:
        return None
    beta = np.zeros(split.size)
    beta[rows] = found[0]
    return Proposal(beta, None if found[1] is None else basis @ found[1])


def _affine(problem: Problem, row: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pre-activations slopes @ delta + offsets of all neurons on the subproblem, and the slope of <row, outputs>."""
    slope, offset = np.eye(problem.x.size), problem.x
    slopes, offsets, start = [np.zeros((0, problem.x.size))], [np.zeros(0)], 0
    for (weight, bias), low in zip(problem.weights[:-1], problem.lower, strict=True):
        slope, offset = weight @ slope, weight @ offset + bias
        slopes.append(slope)
        offsets.append(offset)
        signs = split[start : start + low.size]
        active = (signs > 0) | ((signs == 0) & (low >= 0))
        slope, offset, start = active[:, None] * slope, active * offset, start + low.size
    return np.concatenate(slopes), np.concatenate(offsets), row @ problem.weights[-1][0] @ slope


def _ray(direction: np.ndarray, gain: float, objective: np.ndarray) -> tuple[np.ndarray, None]:
    return direction * (_FAR * (1 + np.linalg.norm(objective)) / gain), None


def _nearest(left: np.ndarray, right: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The point of left v <= right nearest to a point, and its multipliers lambda: v = point - left^T lambda.

    Where there is none: a ray lambda >= 0 with left^T lambda = 0 and <right, lambda> = -1, and None.
    """
    if not right.size:
        return right, point
    # y = v - point is the shortest vector with -left y >= gap: from the residual of a non-negative least squares.
    gap = left @ point - right
    scale = max(float(np.abs(gap).max(initial=0.0)), 1e-300)
    system = np.concatenate([-left.T, gap[None] / scale])
    target = np.zeros(system.shape[0])
    target[-1] = 1
    u, _ = scipy.optimize.nnls(system, target)
    residual = target - system @ u
    if np.linalg.norm(residual) < 1e-12:
        return u / scale, None
    multipliers = scale * u / residual[-1]
    return multipliers, point - left.T @ multipliers


def _in_ball(objective: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Multipliers and minimiser of <objective, v> over |v| <= 1, left v <= right; None where a solver gives up."""
    sizes = np.linalg.norm(left, axis=1)
    sizes = np.where(sizes > 0, sizes, 1)
    try:
        found = _in_ball_scaled(objective, left / sizes[:, None], right / sizes)
    except RuntimeError:  # the iteration limit of nnls
        return None
    return found[0] / sizes, found[1]


def _in_ball_scaled(objective: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    ray, shortest = _nearest(left, right, np.zeros(objective.size))
    if shortest is None:
        return _ray(ray, 1.0, objective)
    # A half-space beyond the ball: the bound gains |shortest|^2 - |shortest| a unit of the ray.
    gain = shortest @ shortest - np.linalg.norm(shortest)
    if gain > 0:
        return _ray(ray, gain, objective)
    size = np.linalg.norm(objective)
    if size == 0:
        return np.zeros(right.size), shortest

    def excess(log):
        _, v = _nearest(left, right, -objective / np.exp(log))
        return (1.0 if v is None else float(np.linalg.norm(v))) - 1

    low, high = np.log(size * _SMALLEST), np.log(size)
    while excess(high) > 0 and high < low + 60:
        high += np.log(4)
    log = low if excess(low) <= 0 else high if excess(high) > 0 else scipy.optimize.brentq(excess, low, high)
    t = np.exp(log)
    multipliers, v = _nearest(left, right, -objective / t)
    return multipliers * t, v


def _in_polytope(
    shape: Polytope, objective: np.ndarray, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Multipliers and minimiser of <objective, u> over the polytope, left u <= right; None where HiGHS gives up."""
    bounds = [(low, 1.0) for low in shape.low]
    bounded = np.isfinite(shape.total)
    matrix = np.concatenate([left, np.ones((int(bounded), shape.low.size))])
    limits = np.concatenate([right, np.full(int(bounded), shape.total)])
    found = scipy.optimize.linprog(objective, A_ub=matrix, b_ub=limits, bounds=bounds)
    if found.status == 0:
        return np.maximum(-found.ineqlin.marginals[: right.size], 0), found.x
    if found.status != 2 or not right.size:
        return None
    # Empty: the least by which all constraints must yield, whose multipliers add up to at most 1.
    yielding = np.concatenate([np.ones(right.size), np.zeros(int(bounded))])
    found = scipy.optimize.linprog(
        np.append(np.zeros(objective.size), 1.0),
        A_ub=np.column_stack([matrix, -yielding]),
        b_ub=limits,
        bounds=[*bounds, (0, None)],
    )
    if found.status != 0 or found.fun <= 0:
        return None
    return _ray(np.maximum(-found.ineqlin.marginals[: right.size], 0), found.fun, objective)
