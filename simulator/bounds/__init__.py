"""The upper side of the sandwich: certified lower bounds on a network's margins over a threat."""

from simulator.bounds.bound import Bound, lower, margin, preactivations, unstable_share
from simulator.bounds.box import Box
from simulator.bounds.methods import LOWER_SLOPES, METHODS, UPPER_LINES, Method

__all__ = [
    "LOWER_SLOPES",
    "METHODS",
    "UPPER_LINES",
    "Bound",
    "Box",
    "Method",
    "lower",
    "margin",
    "preactivations",
    "unstable_share",
]
