"""What a complete verifier answers: a bracket of the smallest margin, and how it ended."""

import enum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Status(enum.IntEnum):
    """How a search ended; the values of `Verdict.status`."""

    EXACT = 0
    """upper - lower <= tolerance."""
    DECIDED = 1
    """The bracket is wider, but lies on one side of the threshold that was asked about."""
    UNDECIDED = 2
    """The limit of time or nodes came first, or the tolerance is finer than what rounding lets prove."""
    FAILED = 3
    """A solver gave up for another reason than a limit, or its bound contradicts a margin that is attained: do not
    rely on more than the bracket, which is what the bounds and attacks alone prove."""


class Verdict(NamedTuple):
    """lower <= min over x + B of the smallest margin <= upper."""

    lower: float
    """What is proven: rounding and the tolerances of a solver are subtracted already."""
    upper: float
    """What is attained: the smallest margin at x + delta, in double precision."""
    delta: Float[np.ndarray, " d"]
    """The member of B behind `upper`."""
    status: Status
    nodes: int
    """Subproblems examined, over all rival classes."""
    seconds: float


class RobustError(NamedTuple):
    """The share of a sample that is misclassified somewhere in x + B: lower <= share <= upper."""

    lower: float
    """Proven wrong: share of examples with an attained margin <= 0."""
    upper: float
    """lower + undecided."""
    undecided: float
    """Share of examples of which neither is proven."""


def ended(lower: float, upper: float, tolerance: float, threshold: float | None) -> Status:
    """The status of a bracket on which no solver gave up; FAILED where it is empty, hence not what it claims."""
    if lower > upper:
        return Status.FAILED
    if upper - lower <= tolerance:
        return Status.EXACT
    if threshold is not None and (lower > threshold or upper <= threshold):
        return Status.DECIDED
    return Status.UNDECIDED


def weakest(verdicts: list[Verdict], tolerance: float, threshold: float | None = None) -> Verdict:
    """The verdict about a union, from those about its members: the least of each bound, and the sum of the effort."""
    least = min(verdicts, key=lambda one: one.upper)
    lower = min(one.lower for one in verdicts)
    failed = any(one.status == Status.FAILED for one in verdicts)
    return Verdict(
        lower,
        least.upper,
        least.delta,
        Status.FAILED if failed else ended(lower, least.upper, tolerance, threshold),
        sum(one.nodes for one in verdicts),
        sum(one.seconds for one in verdicts),
    )
