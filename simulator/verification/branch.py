"""The smallest margin by branch and bound on the signs of pre-activations, for every threat with a support function."""

import heapq
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simulator.networks import Network
from simulator.threats import Threat
from simulator.verification.leaf import solve_leaf
from simulator.verification.problem import Problem, attacked, attained, problems, remaining
from simulator.verification.relaxation import Bounded, Node, examine
from simulator.verification.verdict import Status, Verdict, ended, weakest

BATCH = 32
"""Subproblems examined at once."""


class _Limits(NamedTuple):
    tolerance: float
    threshold: float | None
    max_nodes: int
    steps: int
    time_limit: float


def branch_and_bound(
    network: Network,
    threat: Threat,
    x: Any,
    label: Any,
    *,
    tolerance: float = 1e-3,
    threshold: float | None = None,
    max_nodes: int = 20_000,
    steps: int = 30,
    time_limit: float | None = None,
) -> Verdict:
    """The smallest margin min over k != label, over x + B, of logit[label] - logit[k], for any convex B or a union.

    The subproblem with the least bound is split first, by the sign of the neuron whose relaxation may lose most, until
    upper - lower <= tolerance; with a `threshold`, also once the bracket lies on one side of it (DECIDED).  After
    `max_nodes` subproblems or `time_limit` seconds the status is UNDECIDED, with the bracket proven by then.  Bounds
    are those of `simulator.verification.relaxation` after `steps` of ascent.  Where all neurons of a subproblem are
    split, it is convex and solved as such for L2, Orthogonal, Spheroid and polytopes; for another threat the ascent
    alone has to close the gap.  `threat` is the set at this example; `label` is a class index.  Runs on the host in
    double precision: neither `jit` nor `vmap` apply.

    Raises `ValueError` for another network, a batch, a tolerance that is not positive or a limit below 1.

    **Source:** Wang et al. (2021), arXiv 2103.06624.
    """
    if not tolerance > 0 or max_nodes < 1 or steps < 1:
        raise ValueError(
            f"tolerance is {tolerance}, max_nodes {max_nodes} and steps {steps}: give a tolerance > 0 and limits >= 1"
        )
    start, verdicts = time.perf_counter(), list[Verdict]()
    for member in problems(network, threat, x, label):
        left = remaining(time_limit, time.perf_counter() - start)
        nodes = max_nodes - sum(one.nodes for one in verdicts)
        verdicts.append(_Search(member, _Limits(tolerance, threshold, nodes, steps, left)).run())
    return weakest(verdicts, tolerance, threshold)


class _Search:
    """Open subproblems of one convex member in a heap, the least bound first."""

    def __init__(self, problem: Problem, limits: _Limits):
        self.problem, self.limits = problem, limits
        self.box = np.concatenate([np.zeros(0), *problem.lower]), np.concatenate([np.zeros(0), *problem.upper])
        self.upper, self.delta = attacked(problem, np.zeros_like(problem.x))
        self.closed = np.inf
        """The least bound of a subproblem that is not split further."""
        self.heap: list[tuple[float, int, int, Node]] = []
        self.nodes, self.start = 0, time.perf_counter()

    def run(self) -> Verdict:
        """The bracket once it is decided or a limit is met."""
        size = self.box[0].size
        slope = (self.box[1] > -self.box[0]).astype(float)
        roots = [Node(row, np.zeros(size), slope, np.zeros(size)) for row in self.problem.rows]
        self._take(roots, self.problem.proven)
        while self.heap and not self._done():
            chosen: list[tuple[float, int, int, Node]] = []
            while self.heap and self.heap[0][0] < self.upper - self.limits.tolerance and len(chosen) < BATCH // 2:
                chosen.append(heapq.heappop(self.heap))
            children = [child for _, _, branch, node in chosen for child in _children(node, branch)]
            self._take(children, np.repeat([bound for bound, *_ in chosen], 2))
        lower, limits = self.lower, self.limits
        status = ended(lower, self.upper, limits.tolerance, limits.threshold)
        if status == Status.FAILED:
            lower = float(self.problem.proven.min())
        return Verdict(lower, self.upper, self.delta, status, self.nodes, time.perf_counter() - self.start)

    @property
    def lower(self) -> float:
        """What is proven so far."""
        return float(min(self.closed, self.heap[0][0] if self.heap else np.inf))

    def _done(self) -> bool:
        limits = self.limits
        # A bracket that cannot become narrower than a closed subproblem leaves it is as good as it gets.
        narrow = self.heap[0][0] >= min(self.upper - limits.tolerance, self.closed)
        decided = limits.threshold is not None and (self.lower > limits.threshold or self.upper <= limits.threshold)
        late = time.perf_counter() - self.start >= limits.time_limit
        return narrow or decided or late or self.nodes >= limits.max_nodes

    def _take(self, nodes: list[Node], inherited: Any) -> None:
        """Examine subproblems, of which a bound is inherited from their parents, and keep what is open of them."""
        for first in range(0, len(nodes), BATCH):
            some = nodes[first : first + BATCH]
            found = self._examined(some, self.limits.steps)
            least = np.maximum(found.lower[: len(some)], inherited[first : first + BATCH])
            leaves = [i for i in range(len(some)) if found.branch[i] < 0 and least[i] < self.upper - self._fine]
            for i, bound in zip(leaves, self._at_leaves([some[i] for i in leaves]), strict=True):
                least[i] = max(least[i], bound)
            for i in range(len(some)):
                self._keep(float(least[i]), int(found.branch[i]), jax.tree.map(lambda leaf, i=i: leaf[i], found.node))

    @property
    def _fine(self) -> float:
        return self.limits.tolerance / 10

    def _keep(self, bound: float, branch: int, node: Node) -> None:
        if branch < 0 or bound >= self.upper - self._fine:
            self.closed = min(self.closed, bound)
        else:
            heapq.heappush(self.heap, (bound, self.nodes + len(self.heap), branch, node))

    def _examined(self, nodes: list[Node], steps: int) -> Bounded:
        """A batch of nodes, filled up with copies of the last so that its shape is always the same."""
        filled = nodes + [nodes[-1]] * (BATCH - len(nodes))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        problem = self.problem
        with jax.enable_x64(True):
            found = examine(
                problem.network,
                problem.threat,
                problem.x,
                jnp.asarray(problem.label, jnp.int32),
                self.box,
                np.asarray(problem.unit),
                _scale(problem),
                stacked,
                jnp.asarray(steps, jnp.int32),
            )
            found = jax.tree.map(np.asarray, found)
        self.nodes += len(nodes) if steps else 0
        best = int(np.argmin(found.margin))
        self._reach(*attained(self.problem, found.delta[best]))
        if steps:
            self._reach(*attacked(self.problem, found.delta[best]))
        return found

    def _reach(self, margin: float, inside: np.ndarray) -> None:
        if margin < self.upper:
            self.upper, self.delta = margin, inside

    def _at_leaves(self, nodes: list[Node]) -> list[float]:
        """Bounds of subproblems whose neurons are all split, at the multipliers of their convex programs."""
        bounds = []
        for node in nodes:
            proposal = solve_leaf(self.problem, node.row, node.split)
            if proposal is None:
                bounds.append(-np.inf)
                continue
            if proposal.delta is not None:
                self._reach(*attained(self.problem, proposal.delta))
            there = Node(node.row, node.split, node.alpha, proposal.beta)
            bounds.append(float(self._examined([there], 0).lower[0]))
        return bounds


def _children(node: Node, branch: int) -> list[Node]:
    """Both signs of a neuron."""
    children = []
    for sign in (1.0, -1.0):
        split = node.split.copy()
        split[branch] = sign
        children.append(Node(node.row, split, node.alpha, node.beta))
    return children


def _scale(problem: Problem) -> np.ndarray:
    """How strongly each hidden neuron can count in any row: the unit of its multiplier."""
    absolute, scales = np.abs(problem.rows).max(axis=0), list[np.ndarray]()
    for weight, _ in problem.weights[:0:-1]:
        absolute = absolute @ np.abs(weight)
        scales.insert(0, absolute)
    scale = np.concatenate([np.zeros(0), *scales])
    return np.where(scale > 0, scale, 1)
