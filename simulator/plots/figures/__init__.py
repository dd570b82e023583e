"""The figures of the studies: from a result to a matplotlib `Figure`.  No training, no reading of stores."""

from simulator.plots.figures.alignment import alignment
from simulator.plots.figures.asymptotics import asymptotics
from simulator.plots.figures.attribution import attribution
from simulator.plots.figures.dimension import dimension
from simulator.plots.figures.errors import errors
from simulator.plots.figures.fronts import fronts
from simulator.plots.figures.gap_report import gap_report
from simulator.plots.figures.one_neuron import one_neuron
from simulator.plots.figures.optimisation import optimisation
from simulator.plots.figures.picture import picture
from simulator.plots.figures.picture_frames import picture_film
from simulator.plots.figures.prediction import prediction
from simulator.plots.figures.relaxations import relaxations
from simulator.plots.figures.selection import selection
from simulator.plots.figures.signal_directed import signal_directed
from simulator.plots.figures.unstable import unstable

__all__ = [
    "alignment",
    "asymptotics",
    "attribution",
    "dimension",
    "errors",
    "fronts",
    "gap_report",
    "one_neuron",
    "optimisation",
    "picture",
    "picture_film",
    "prediction",
    "relaxations",
    "selection",
    "signal_directed",
    "unstable",
]
