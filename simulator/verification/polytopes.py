"""Threats as linear inequalities, for solvers of linear programs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from simulator.threats import L1, ConsistentLInf, LInf, SignalDirected, Threat


class Polytope(NamedTuple):
    """{basis u : low <= u <= 1, sum(u) <= total}."""

    basis: Float[np.ndarray, "d p"]
    low: Float[np.ndarray, " p"]
    total: float


def polytope(threat: Threat, dim: int) -> Polytope | None:
    """The set as a polytope, its radius in the basis, so that u is of order 1; None where it is none of these."""
    radius, axes = float(threat.radius), np.eye(dim)
    if isinstance(threat, LInf):
        return Polytope(radius * axes, -np.ones(dim), np.inf)
    if isinstance(threat, ConsistentLInf):
        return Polytope(radius * axes[:, 1:], -np.ones(dim - 1), np.inf)
    if isinstance(threat, L1):
        return Polytope(radius * np.concatenate([axes, -axes], axis=1), np.zeros(2 * dim), 1.0)
    if isinstance(threat, SignalDirected):
        return Polytope(radius * np.asarray(threat.direction)[:, None], -np.ones(1), np.inf)
    return None


def is_polyhedral(threat: Threat) -> bool:
    """Whether the set, or each member of the union, is a `polytope`."""
    members = threat.pieces()
    return isinstance(threat if members is None else members, (LInf, L1, ConsistentLInf, SignalDirected))
