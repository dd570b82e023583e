"""The upper side of the sandwich: certified lower bounds on a network's margins over a threat."""

from simulator.bounds.bound import Bound, lower, margin, preactivations, unstable_share
from simulator.bounds.box import Box, Lines, relu_lines
from simulator.bounds.estimate import Estimate, estimate
from simulator.bounds.memory import peak_bytes
from simulator.bounds.methods import LOWER_SLOPES, METHODS, UPPER_LINES, Method

__all__ = [
    "LOWER_SLOPES",
    "METHODS",
    "UPPER_LINES",
    "Bound",
    "Box",
    "Estimate",
    "Lines",
    "Method",
    "estimate",
    "lower",
    "margin",
    "peak_bytes",
    "preactivations",
    "relu_lines",
    "unstable_share",
]
