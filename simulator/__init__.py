"""Why certified training hurts generalisation, by simulation.

Data with a known signal direction, threats, exact and certified robust losses, training as one pure scan, and the
alignment between perturbations and the signal, swept over grids of named axes.
"""

from simulator import (
    attacks,
    bounds,
    data,
    images,
    losses,
    metrics,
    networks,
    plots,
    store,
    studies,
    sweep,
    threats,
    train,
    trials,
)

__all__ = [
    "attacks",
    "bounds",
    "data",
    "images",
    "losses",
    "metrics",
    "networks",
    "plots",
    "store",
    "studies",
    "sweep",
    "threats",
    "train",
    "trials",
]
