"""The lower side of the sandwich: perturbations that lower a network's margin, and the exact worst case where known.

Every attack works on one example and returns the `Attack` it found: a member of the threat and the margin there.  A
gradient step moves along `threat.uphill(gradient)`, the steepest direction of most threats, then `threat.project`s, so
one implementation serves every threat; a union (`threat.pieces()`) is attacked piece by piece.

Attacks are deterministic: they start at `start`, by default the example itself.  `restarts` adds random starts.
`strongest` is the quick evaluation, `ensemble` the thorough one: it adds targeted ratios of logits, a minimum-norm
attack and a random search, and keeps a record of what each attack reached.
"""

from simulator.attacks.attack import OBJECTIVES, Attack, Method, Objective, weakest
from simulator.attacks.auto_pgd import apgd
from simulator.attacks.ensemble import QUERIES, TARGETS, Ensemble, describe_ensemble, ensemble, search
from simulator.attacks.gradient import fgsm, pgd
from simulator.attacks.minimum_norm import MinimumNorm, fab, within
from simulator.attacks.square import square
from simulator.attacks.suite import Draw, describe, restarts, strongest
from simulator.attacks.targeted import dlr, dlr_targeted, margin_targeted
from simulator.attacks.worst_case import exact, has_exact

__all__ = [
    "OBJECTIVES",
    "QUERIES",
    "TARGETS",
    "Attack",
    "Draw",
    "Ensemble",
    "Method",
    "MinimumNorm",
    "Objective",
    "apgd",
    "describe",
    "describe_ensemble",
    "dlr",
    "dlr_targeted",
    "ensemble",
    "exact",
    "fab",
    "fgsm",
    "has_exact",
    "margin_targeted",
    "pgd",
    "restarts",
    "search",
    "square",
    "strongest",
    "weakest",
    "within",
]
