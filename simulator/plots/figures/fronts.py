"""The figure of the study `modern-defences`: robust and certified error against standard error, over a coefficient."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.style import look, nothing_to_draw, styled
from simulator.trials import first_run, over_trials, places

LEAST = 0.05
"""The least width of an axis."""
PANELS = {"robust_error": "robust error", "certified_error": "certified error"}


def fronts(result: xr.Dataset, published_curves: Sequence = ()) -> Figure:
    """A row per task, shape and radius; a line per mixture over its coefficient, larger markers for larger ones."""
    where = places(result, "task", "shape", "epsilon")
    if not where:
        return nothing_to_draw()
    with styled():
        figure = Figure(figsize=(4.2 * len(PANELS) + 0.6, 2.5 * len(where) + 1.0), layout="constrained")
        grid = figure.subplots(len(where), len(PANELS), squeeze=False)
        for line, place in zip(grid, where, strict=True):
            row = first_run(result.sel(place), "n", "dim")
            for axes, (variable, words) in zip(line, PANELS.items(), strict=True):
                _front(axes, row, variable)
                axes.set_ylabel(words)
            line[0].set_title(f"{place['task']}, {place['shape']}, ε = {place['epsilon']:g}", loc="left")
        for axes in grid[-1]:
            axes.set_xlabel("standard error")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(
            "Means ± s.e. over trials; lines: the weight of the bound, from small to large", fontsize="medium"
        )
    return figure


def _front(axes: Axes, row: xr.Dataset, variable: str) -> None:
    for defence in row["defence"].values:
        here = row.sel(defence=defence)
        (x, x_sem, count), (y, y_sem, _) = (over_trials(here, name) for name in ("standard_error", variable))
        known, style = count.values > 0, look(defence)
        if not known.any():
            continue
        axes.plot(x.values[known], y.values[known], color=style.color, linestyle=style.dash, linewidth=1.2)
        axes.scatter(
            x.values[known],
            y.values[known],
            s=np.linspace(12, 60, known.sum()) if known.sum() > 1 else 50,
            color=style.color,
            marker=style.marker,
            label=style.label,
            zorder=3,
        )
        axes.errorbar(x.values, y.values, y_sem.values, x_sem.values, ls="", color=style.color, alpha=0.5, linewidth=1)
    # Differences that nobody would call one shall not fill a panel.
    for limits, widen in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        middle, reach = sum(limits) / 2, max(limits[1] - limits[0], LEAST) / 2
        widen(middle - reach, middle + reach)
