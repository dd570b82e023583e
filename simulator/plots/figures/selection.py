"""Robust errors under every rule that selects a learning rate, and at each fixed rate."""

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.style import look, styled
from simulator.trials import first_run, over_trials


def selection(ruled: xr.Dataset, result: xr.Dataset) -> Figure:
    """A row per task, a column per defence: `ruled` has a dimension "rule" where `result` has "learning_rate"."""
    tasks, defences = result["task"].values, result["defence"].values
    with styled():
        figure = Figure(figsize=(3.4 * len(defences) + 1.5, 2.9 * len(tasks) + 1.1), layout="constrained")
        grid = figure.subplots(len(tasks), len(defences), squeeze=False, sharey="row")
        for line, task in zip(grid, tasks, strict=True):
            for axes, defence in zip(line, defences, strict=True):
                at = {"task": task, "defence": defence}
                _fixed(axes, first_run(result.sel(at), "n", "dim"))
                _ruled(axes, first_run(ruled.sel(at), "n", "dim"))
                axes.set_title(f"{look(defence).label}, {task}")
                axes.set_xlabel("ε")
            line[0].set_ylabel("robust error")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        figure.suptitle("What selects the learning rate: means over trials, bars ± s.e.")
    return figure


def _where_finite(mean: xr.DataArray, *others: xr.DataArray) -> tuple[np.ndarray, ...]:
    known = np.isfinite(mean.values)
    return (mean["epsilon"].values[known], *(one.values[known] for one in (mean, *others)))


def _fixed(axes: Axes, part: xr.Dataset) -> None:
    for shade, rate in zip(
        np.linspace(0.45, 0.8, part["learning_rate"].size), part["learning_rate"].values, strict=True
    ):
        mean, _, _ = over_trials(part.sel(learning_rate=rate), "robust_error")
        axes.plot(*_where_finite(mean), color=str(shade), linewidth=4, zorder=1, label=f"fixed rate {rate:g}")


def _ruled(axes: Axes, part: xr.Dataset) -> None:
    rules = part["rule"].values
    for index, rule in enumerate(rules):
        mean, sem, _ = over_trials(part.sel(rule=rule), "robust_error")
        radii, middle, spread = _where_finite(mean, sem)
        # Side by side, so that rules that agree can be told apart.
        shift = 0.012 * (index - (len(rules) - 1) / 2) * (np.ptp(radii) if radii.size > 1 else 1)
        axes.errorbar(
            radii + shift,
            middle,
            spread,
            color=colormaps["tab10"](index),
            marker="osv^D"[index % 5],
            linestyle="",
            label=rule,
        )
