"""The lower side of the sandwich: perturbations that lower a network's margin, and the exact worst case where known.

Every attack works on one example and returns the `Attack` it found: a member of the threat and the margin there.  A
gradient step moves along `threat.uphill(gradient)`, the steepest direction of most threats, then `threat.project`s, so
one implementation serves every threat; a union (`threat.pieces()`) is attacked piece by piece.

Attacks are deterministic: they start at `start`, by default the example itself.  `restarts` adds random starts.
"""

from simulator.attacks.attack import OBJECTIVES, Attack, Method, Objective, weakest
from simulator.attacks.auto_pgd import apgd
from simulator.attacks.gradient import fgsm, pgd
from simulator.attacks.suite import Draw, describe, restarts, strongest
from simulator.attacks.worst_case import exact, has_exact

__all__ = [
    "OBJECTIVES",
    "Attack",
    "Draw",
    "Method",
    "Objective",
    "apgd",
    "describe",
    "exact",
    "fgsm",
    "has_exact",
    "pgd",
    "restarts",
    "strongest",
    "weakest",
]
