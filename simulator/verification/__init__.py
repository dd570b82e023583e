"""Exact verification of small plain dense ReLU networks: the smallest margin over a threat, as a proven bracket.

`milp` solves polytopes as mixed-integer linear programs, `branch_and_bound` every convex threat by splitting neurons;
`smallest_margin` picks, and `robust_error` counts a sample.  All of it runs on the host, in double precision whatever
the network's: it is neither `jit`- nor `vmap`-able, and takes time that grows exponentially with the unstable neurons.
"""

from simulator.verification.branch import branch_and_bound
from simulator.verification.milp import milp
from simulator.verification.robust import robust_error, smallest_margin
from simulator.verification.verdict import RobustError, Status, Verdict

__all__ = ["RobustError", "Status", "Verdict", "branch_and_bound", "milp", "robust_error", "smallest_margin"]
