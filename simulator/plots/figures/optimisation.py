"""Robust errors of two defences over recipes, one factor a column, and over epochs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.style import PAIR, curve, look, styled
from simulator.trials import over_trials, paired_difference

FACTORS = {
    "momentum": "momentum",
    "batch": "batch (0: all)",
    "width": "width",
    "init_scale": "factor of the initial weights",
}


def optimisation(result: xr.Dataset, best: xr.Dataset, stop: int) -> Figure:
    """A row per problem; columns: learning rates, epochs, then every factor.  `best` has one learning rate per cell.

    Lines are after `stop` epochs, open markers after the last one; thin lines with bars are the gap.
    """
    names = result["problem"].values
    end = float(result["epoch"].values[-1])
    base = {name: result[name].values[0] for name in FACTORS}
    with styled():
        figure = Figure(figsize=(2.7 * (len(FACTORS) + 2) + 0.6, 3.0 * len(names) + 1.0), layout="constrained")
        grid = figure.subplots(len(names), len(FACTORS) + 2, squeeze=False, sharey=True)
        for line, name in zip(grid, names, strict=True):
            all_rates, one = (_in_setting(part, name) for part in (result, best))
            _along(line[0], all_rates.sel(base), "learning_rate", stop, end)
            _over_epochs(line[1], one.sel(base), stop)
            for axes, factor in zip(line[2:], FACTORS, strict=True):
                _along(axes, one.sel(_without(base, factor)), factor, stop, end)
            line[0].set_ylabel(f"{name}, ε = {float(one['epsilon']):g}\nrobust error")
        for axes, title in zip(grid[-1], ("learning rate", "epochs", *FACTORS.values()), strict=True):
            axes.set_xlabel(title)
        handles, labels = grid[0][1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(
            f"Lines: mean ± s.e. after {stop:g} epochs; open markers: after {end:g}; "
            "every column but the first at each cell's best learning rate"
        )
    return figure


def _in_setting(part: xr.Dataset, name: str) -> xr.Dataset:
    """One published setting, at the one radius it was run at."""
    here = part.sel(problem=name)
    run = (here["status"] != "not_run").any([dim for dim in here["status"].dims if dim != "epsilon"])
    return here.isel(epsilon=int(run.values.argmax()))


def _without(base: Mapping[str, Any], factor: str) -> dict[str, Any]:
    return {name: value for name, value in base.items() if name != factor}


def _along(axes: Axes, part: xr.Dataset, axis: str, stop: int, end: float) -> None:
    part = part.sortby(axis)
    places = np.arange(part[axis].size)
    for defence in part["defence"].values:
        mean, sem, _ = over_trials(part.sel(defence=defence, epoch=stop), "robust_error")
        curve(axes, defence, places, mean.values, sem.values)
        last, _, _ = over_trials(part.sel(defence=defence, epoch=end), "robust_error")
        axes.plot(places, last.values, look(defence).marker, mfc="none", mec=look(defence).color, markersize=8)
    axes.set_xticks(places, [f"{value:g}" for value in part[axis].values])
    _zero(axes)


def _over_epochs(axes: Axes, part: xr.Dataset, stop: int) -> None:
    for defence in part["defence"].values:
        mean, sem, _ = over_trials(part.sel(defence=defence), "robust_error")
        curve(axes, defence, part["epoch"].values, mean.values, sem.values)
    if set(PAIR) <= set(part["defence"].values):
        gap, sem = paired_difference(part, "robust_error", defence=PAIR)
        axes.errorbar(
            part["epoch"].values,
            gap.values,
            2 * sem.values,
            color="k",
            linewidth=1,
            label="COAP − AT (± 2 paired s.e.)",
        )
    axes.axvline(stop, color="k", linewidth=0.6, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(part["epoch"].values, [f"{epoch:g}" for epoch in part["epoch"].values])
    axes.set_xticks([], minor=True)
    _zero(axes)


def _zero(axes: Axes) -> None:
    axes.axhline(0, color="k", linewidth=0.8)
