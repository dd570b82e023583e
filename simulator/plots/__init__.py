"""Figures: from a result of a study to a matplotlib `Figure`.  No training, no reading of stores."""

from simulator.plots.alignment import alignment
from simulator.plots.asymptotics import asymptotics
from simulator.plots.attribution import attribution
from simulator.plots.dimension import dimension
from simulator.plots.errors import errors
from simulator.plots.explorer import explorer, png
from simulator.plots.film import Film, save_film
from simulator.plots.fronts import fronts
from simulator.plots.gap_report import gap_report
from simulator.plots.one_neuron import one_neuron
from simulator.plots.optimisation import optimisation
from simulator.plots.panel import PanelError
from simulator.plots.picture import picture
from simulator.plots.picture_frames import picture_film
from simulator.plots.plane import arrow, points, region
from simulator.plots.prediction import prediction
from simulator.plots.relaxations import relaxations
from simulator.plots.selection import selection
from simulator.plots.signal_directed import signal_directed
from simulator.plots.style import DEFENCES, INNER, OUTER, SIGNAL, TRUTH, curve, look, published, save, styled
from simulator.plots.unstable import unstable

__all__ = [
    "DEFENCES",
    "INNER",
    "OUTER",
    "SIGNAL",
    "TRUTH",
    "Film",
    "PanelError",
    "alignment",
    "arrow",
    "asymptotics",
    "attribution",
    "curve",
    "dimension",
    "errors",
    "explorer",
    "fronts",
    "gap_report",
    "look",
    "one_neuron",
    "optimisation",
    "picture",
    "picture_film",
    "png",
    "points",
    "prediction",
    "published",
    "region",
    "relaxations",
    "save",
    "save_film",
    "selection",
    "signal_directed",
    "styled",
    "unstable",
]
