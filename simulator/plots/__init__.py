"""Figures: from a result of a study to a matplotlib `Figure`.  No training, no reading of stores."""

from simulator.plots.alignment import alignment
from simulator.plots.errors import errors
from simulator.plots.picture import picture
from simulator.plots.signal_directed import signal_directed
from simulator.plots.style import DEFENCES, curve, look, published, save, styled

__all__ = [
    "DEFENCES",
    "alignment",
    "curve",
    "errors",
    "look",
    "picture",
    "published",
    "save",
    "signal_directed",
    "styled",
]
