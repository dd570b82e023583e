"""The figure of the study `relaxations`: errors of trained networks over how loose their bound is."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.figures.errors import REFERENCE
from simulator.plots.style import look, nothing_to_draw, styled
from simulator.trials import first_run, over_trials, places

PANELS = {
    "standard_error": "standard error",
    "robust_error": "robust error",
    "certified_error": "certified error",
}


def relaxations(result: xr.Dataset, published_curves: Sequence = ()) -> Figure:
    """A row per task and radius; errors of the network trained with each relaxation over the looseness of that
    relaxation on the networks of adversarial training, whose own errors are lines."""
    where = places(result, "task", "epsilon")
    if not where:
        return nothing_to_draw()
    with styled():
        figure = Figure(figsize=(3.3 * len(PANELS) + 0.8, 2.6 * len(where) + 1.0), layout="constrained")
        grid = figure.subplots(len(where), len(PANELS), squeeze=False, sharex=True)
        for line, place in zip(grid, where, strict=True):
            row = first_run(result.sel(place), "n", "dim")
            for axes, variable in zip(line, PANELS, strict=True):
                _panel(axes, row, variable)
            line[0].set_ylabel(f"{place['task']}, ε = {place['epsilon']:g}")
        for axes, title in zip(grid[0], PANELS.values(), strict=True):
            axes.set_title(title)
        for axes in grid[-1]:
            axes.set_xlabel("looseness on AT's networks")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6)
        figure.suptitle("Networks trained with a relaxation (mean ± s.e. over trials); line: AT", fontsize="medium")
    return figure


MARKERS = "^vDXos<>pP*h"


def _panel(axes: Axes, row: xr.Dataset, variable: str) -> None:
    names = [name for name in row["relaxation"].values if name in row["defence"].values]
    if REFERENCE in row["defence"].values:
        mean, sem, _ = over_trials(row.sel(defence=REFERENCE), variable)
        axes.axhline(float(mean), color=look(REFERENCE).color, label=look(REFERENCE).label)
        axes.axhspan(float(mean - sem), float(mean + sem), color=look(REFERENCE).color, alpha=0.18, linewidth=0)
        loose, spread, _ = over_trials(row.sel(defence=REFERENCE), "looseness_of")
    else:
        axes.text(0.5, 0.5, "needs adversarial training", ha="center", transform=axes.transAxes)
        return
    colors = [f"C{at}" for at in range(len(names))]
    for name, color, marker in zip(names, colors, np.resize(list(MARKERS), len(names)), strict=True):
        mean, sem, count = over_trials(row.sel(defence=name), variable)
        if int(count):
            where = float(loose.sel(relaxation=name)), float(spread.sel(relaxation=name))
            axes.errorbar(where[0], float(mean), float(sem), where[1], color=color, marker=marker, label=name, ls="")
