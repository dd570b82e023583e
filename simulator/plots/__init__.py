"""What figures are made of: the style, classifiers drawn on a plane, films, and the picture of the explorer.

The figures of the studies are in `plots.figures`, which loads what reads their results.
"""

from simulator.plots.explorer import explorer, explorer_frame, explorer_scenery, png
from simulator.plots.film import Film, save_film
from simulator.plots.panel import PanelError
from simulator.plots.plane import arrow, points, region
from simulator.plots.style import DEFENCES, INNER, OUTER, SIGNAL, TRUTH, curve, look, published, save, styled

__all__ = [
    "DEFENCES",
    "INNER",
    "OUTER",
    "SIGNAL",
    "TRUTH",
    "Film",
    "PanelError",
    "arrow",
    "curve",
    "explorer",
    "explorer_frame",
    "explorer_scenery",
    "look",
    "png",
    "points",
    "published",
    "region",
    "save",
    "save_film",
    "styled",
]
