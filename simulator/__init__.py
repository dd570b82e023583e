"""Why certified training hurts generalisation, by simulation.

Data with a known signal direction, threats, exact and certified robust losses, training as one pure scan, and the
alignment between perturbations and the signal, swept over grids of named axes.
"""

import importlib
from types import ModuleType

__all__ = [
    "attacks",
    "bounds",
    "cascade",
    "catalogue",
    "cluster",
    "data",
    "defences",
    "gap",
    "image_evaluation",
    "image_training",
    "images",
    "losses",
    "metrics",
    "networks",
    "plots",
    "span",
    "store",
    "studies",
    "sweep",
    "theory",
    "threats",
    "train",
    "trials",
    "verification",
]


def __getattr__(name: str) -> ModuleType:
    """Load a module at its first use: JAX alone takes a second, which a list of studies need not wait for."""
    if name not in __all__:
        raise AttributeError(f"module 'simulator' has no attribute {name!r}")
    return importlib.import_module(f"simulator.{name}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
