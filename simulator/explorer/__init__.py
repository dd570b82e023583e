"""The explorer: two defences side by side, trained again whenever a control moves, in the browser.

The page and its server load only what is named here, and no JAX; `live` and `programs` are of the process that
computes.
"""

from simulator.explorer.answer import Answer, Scenery
from simulator.explorer.command import explore
from simulator.explorer.computer import Computer, ComputerError, shared
from simulator.explorer.controls import CHOICES, LABELS, LIMITS, RECOMPILES, Controls, Shape
from simulator.explorer.server import ExplorerError, serve
from simulator.explorer.words import announcement, before, description, numbers, status

__all__ = [
    "CHOICES",
    "LABELS",
    "LIMITS",
    "RECOMPILES",
    "Answer",
    "Computer",
    "ComputerError",
    "Controls",
    "ExplorerError",
    "Scenery",
    "Shape",
    "announcement",
    "before",
    "description",
    "explore",
    "numbers",
    "serve",
    "shared",
    "status",
]
