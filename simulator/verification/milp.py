r"""The smallest margin over a polytope, as a mixed-integer linear program.

Each ReLU h = max(z, 0) with bounds l <= z <= u, l < 0 < u, is written exactly with one binary variable a:

    h >= 0,   h >= z,   h <= u a,   h <= z - l (1 - a),

a = 1 leaving h = z >= 0 and a = 0 leaving h = 0 >= z; with 0 <= a <= 1 it is the triangle.  A neuron with l >= 0 is
h = z, one with u <= 0 is h = 0, without a binary.  Every h is divided by max(u, -l) and the objective by the sum of its
absolute coefficients, so that every variable and row is of order 1 and the tolerances of the solver, which are
absolute, mean the same for every network and radius.

**Source:** Tjeng, Xiao & Tedrake (2019), arXiv 1711.07356; derived again here.
"""

import time
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
from scipy.sparse import csr_array

from simulator.networks import Network
from simulator.threats import Threat
from simulator.verification.polytopes import Polytope, is_polyhedral, polytope
from simulator.verification.problem import Problem, attacked, attained, problems, remaining
from simulator.verification.verdict import Status, Verdict, ended, weakest

GAP, DUAL = 1e-6, 1e-7
"""HiGHS's tolerances, which SciPy leaves as they are: the absolute gap at which it stops, and on each reduced cost.
Its tolerances on constraints and on integers only enlarge the feasible set, which lowers the minimum."""

_TIMED_OUT = 1


class _Program(NamedTuple):
    """min objective @ v + constant over low <= v <= high, lhs <= matrix @ v <= rhs, v integer where marked."""

    objective: np.ndarray
    constant: float
    low: np.ndarray
    high: np.ndarray
    integer: np.ndarray
    matrix: csr_array
    lhs: np.ndarray
    rhs: np.ndarray


class _Rows:
    """Linear constraints, collected row by row."""

    def __init__(self, columns: int):
        self.columns, self.blocks, self.low, self.high = columns, [], [], []  # type: int, list, list, list

    def add(self, low, parts: list[tuple[int, np.ndarray]], high) -> None:
        """low <= sum of block @ v[first : first + width] <= high."""
        rows = parts[0][1].shape[0]
        block = np.zeros((rows, self.columns))
        for first, part in parts:
            block[:, first : first + part.shape[1]] += part
        self.blocks.append(block)
        self.low.append(np.broadcast_to(low, rows))
        self.high.append(np.broadcast_to(high, rows))


def milp(
    network: Network, threat: Threat, x: Any, label: Any, *, tolerance: float = 1e-3, time_limit: float | None = None
) -> Verdict:
    """The smallest margin min over k != label, over x + B, of logit[label] - logit[k], over a polytope B.

    `threat` is LInf, L1, ConsistentLInf, SignalDirected or Segments (the least over its members, not over the hull),
    at this example; `label` is a class index.  One program a rival class, solved by HiGHS; `time_limit` is in seconds,
    for all of them.  Runs on the host in double precision: neither `jit` nor `vmap` apply.

    `lower` allows for HiGHS's tolerances: where each multiplier has the wrong sign by at most `DUAL`, its bound is off
    by at most `DUAL` times the ranges of all variables and rows, and it stops at a gap of `GAP`, both times the scale
    of the objective.  As far as HiGHS keeps those, `lower` is a true lower bound.  `upper` is attained at `delta`.
    Where the time runs out the status is UNDECIDED, where HiGHS fails FAILED; the bracket then holds as well.
    Raises `ValueError` for another network, a batch, or a threat that is no polytope.

    **Source:** Tjeng, Xiao & Tedrake (2019).
    """
    if not is_polyhedral(threat):
        raise ValueError(
            f"{type(threat).__name__} is no polytope, so that no linear program describes it: use branch_and_bound"
        )
    start, verdicts = time.perf_counter(), list[Verdict]()
    for member in problems(network, threat, x, label):
        verdicts.append(_solve(member, tolerance, remaining(time_limit, time.perf_counter() - start)))
    return weakest(verdicts, tolerance)


def _solve(problem: Problem, tolerance: float, time_limit: float) -> Verdict:
    start, shape = time.perf_counter(), polytope(problem.threat, problem.x.size)
    assert shape is not None
    best, nodes, failed = attacked(problem, np.zeros_like(problem.x)), 0, False
    lower = np.array(problem.proven)
    for rival, row in enumerate(problem.rows):
        program, scale = _program(problem, shape, row)
        left = remaining(time_limit, time.perf_counter() - start)
        found = _highs(program, left)
        failed |= found.status not in (0, _TIMED_OUT)
        nodes += int(found.mip_node_count or 0)
        bound = found.mip_dual_bound
        if found.status in (0, _TIMED_OUT) and bound is not None and np.isfinite(bound):
            slack = GAP + DUAL * (np.sum(program.high - program.low) + 2 * program.lhs.size)
            lower[rival] = max(lower[rival], scale * (bound - slack) + program.constant)
        if found.x is not None:
            point = shape.basis @ found.x[: shape.low.size]
            best = min(best, attained(problem, point), key=lambda one: one[0])
    upper, delta = best
    least = float(lower.min())
    status = Status.FAILED if failed else ended(least, upper, tolerance, None)
    if status == Status.FAILED:
        least = float(problem.proven.min())
    return Verdict(least, upper, delta, status, nodes, time.perf_counter() - start)


def _highs(program: _Program, time_limit: float) -> scipy.optimize.OptimizeResult:
    options = {"mip_rel_gap": 0.0} | ({"time_limit": time_limit} if np.isfinite(time_limit) else {})
    return scipy.optimize.milp(
        program.objective,
        integrality=program.integer,
        bounds=scipy.optimize.Bounds(program.low, program.high),
        constraints=scipy.optimize.LinearConstraint(program.matrix, program.lhs, program.rhs),
        options=options,
    )


def _program(problem: Problem, shape: Polytope, row: np.ndarray) -> tuple[_Program, float]:
    """The program of one rival class, its objective divided by the scale that is returned."""
    weights, inputs = problem.weights, shape.low.size
    widths = [low.size for low in problem.lower]
    total = inputs + 2 * sum(widths)
    rows, low, high, integer = _Rows(total), np.zeros(total), np.zeros(total), np.zeros(total)
    low[:inputs], high[:inputs] = shape.low, 1
    if np.isfinite(shape.total):
        rows.add(-np.inf, [(0, np.ones((1, inputs)))], shape.total)
    # An affine layer reads v[first : first + columns of matrix] and makes matrix @ that + shift of it.
    first, free, (weight, bias) = 0, inputs, weights[0]
    matrix, shift = weight @ shape.basis, weight @ problem.x + bias
    for (weight, bias), least, most in zip(weights[1:], problem.lower, problem.upper, strict=True):
        hidden, width = free, least.size
        size = np.where(most > 0, np.maximum(most, -least), 1)
        binary = (least < 0) & (most > 0)
        _relus(rows, (first, matrix, shift), hidden, (least, most, size))
        high[hidden : hidden + width] = np.maximum(most, 0) / size
        high[hidden + width : hidden + 2 * width] = binary
        integer[hidden + width : hidden + 2 * width] = binary
        first, free, matrix, shift = hidden, hidden + 2 * width, weight * size, bias
    objective = np.zeros(total)
    objective[first : first + matrix.shape[1]] = row @ matrix
    scale = float(np.abs(objective).sum()) or 1.0
    lhs, rhs = np.concatenate([np.zeros(0), *rows.low]), np.concatenate([np.zeros(0), *rows.high])
    joined = csr_array(np.concatenate([np.zeros((0, total)), *rows.blocks]))
    return _Program(objective / scale, float(row @ shift), low, high, integer, joined, lhs, rhs), scale


def _relus(rows: _Rows, affine: tuple[int, np.ndarray, np.ndarray], hidden: int, box: tuple[np.ndarray, ...]) -> None:
    """h = max(z, 0) for a layer, z = matrix @ (its inputs) + shift, h / size at `hidden` and the binaries behind."""
    first, matrix, shift = affine
    least, most, size = box
    unit, width = np.eye(size.size), size.size
    scaled, moved = matrix / size[:, None], shift / size
    active, binary = least >= 0, (least < 0) & (most > 0)
    if active.any():  # h = z
        rows.add(moved[active], [(hidden, unit[active]), (first, -scaled[active])], moved[active])
    if binary.any():
        low, high, one = (least / size)[binary], (most / size)[binary], unit[binary]
        rows.add(moved[binary], [(hidden, one), (first, -scaled[binary])], np.inf)  # h >= z
        rows.add(-np.inf, [(hidden, one), (hidden + width, -high[:, None] * one)], 0)  # h <= u a
        parts = [(hidden, one), (first, -scaled[binary]), (hidden + width, -low[:, None] * one)]
        rows.add(-np.inf, parts, moved[binary] - low)  # h <= z - l (1 - a)
