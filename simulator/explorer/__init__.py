"""The explorer: two defences side by side, trained again whenever a control moves, in the browser."""

from simulator.explorer.command import explore
from simulator.explorer.controls import CHOICES, LIMITS, Controls, Shape
from simulator.explorer.live import Answer, Live, shared
from simulator.explorer.server import ExplorerError, serve
from simulator.explorer.words import LABELS, RECOMPILES, announcement, description, numbers, status

__all__ = [
    "CHOICES",
    "LABELS",
    "LIMITS",
    "RECOMPILES",
    "Answer",
    "Controls",
    "ExplorerError",
    "Live",
    "Shape",
    "announcement",
    "description",
    "explore",
    "numbers",
    "serve",
    "shared",
    "status",
]
