"""Spread and bias over dimension: how solved samples come to their limits."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from simulator.plots.style import styled
from simulator.trials import over_trials

LOOKS = {"separable": ("#0072B2", "o"), "mixture": ("#D55E00", "D"), "features": ("#009E73", "^")}
ERRORS = {"standard_error": "standard error", "robust_error": "robust error"}


def asymptotics(result: xr.Dataset, published_curves: Sequence = ()) -> Figure:
    """A row per error: its mean minus the limit with 2 standard errors, and its spread over trials with d^(-1/2)."""
    del published_curves
    dim = result["dim"].values
    with styled():
        figure = Figure(figsize=(9, 6.4), layout="constrained")
        grid = figure.subplots(len(ERRORS), 2)
        for line, (name, words) in zip(grid, ERRORS.items(), strict=True):
            for model in result["model"].values:
                color, marker = LOOKS[model]
                part = result.sel(model=model)
                mean, sem, count = over_trials(part, name)
                if not int(count.max()):
                    continue
                away = mean - over_trials(part, f"{name}_limit")[0]
                line[0].errorbar(dim, away, 2 * sem, color=color, marker=marker, capsize=3, label=model)
                spread = (sem * np.sqrt(count)).values
                line[1].plot(dim, spread, color=color, marker=marker, label=model)
                line[1].plot(dim, spread[0] * np.sqrt(dim[0] / dim), color=color, linestyle=":")
            line[0].axhline(0, color="k", linewidth=0.8)
            line[0].set(xscale="log", ylabel=f"{words}:\nmean − limit")
            # One trial has no spread, and nothing has no logarithm.
            some = any((curve.get_ydata() > 0).any() for curve in line[1].lines)
            line[1].set(xscale="log", yscale="log" if some else "linear", ylabel=f"{words}:\nspread over trials")
        for axes in grid[-1]:
            axes.set_xlabel("dimension d, at a fixed d / n")
        grid[0][0].set_title("bias (bars: ± 2 s.e.)")
        grid[0][1].set_title("spread (dotted: d to the power −1/2)")
        if grid[0][1].get_legend_handles_labels()[0]:
            grid[0][1].legend()
        figure.suptitle("Solved samples against the limit of large n and d", fontsize="medium")
    return figure
