"""Heat maps over radius and dimension, one column per sample size, and slices through them."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.figures.theory_lines import theory
from simulator.plots.style import PAIR, curve, styled
from simulator.trials import over_trials, paired_difference

ROWS = (
    ("robust_error", "adversarial", "AT: robust error"),
    ("robust_error", None, "COAP − AT: robust error"),
    ("alignment_attack", "adversarial", "AT: alignment of the attack"),
    ("alignment_dual", "coap", "COAP: alignment of the dual"),
    ("alignment_layer", "adversarial", "AT: alignment of layer 1"),
    ("alignment_layer", None, "COAP − AT: alignment of layer 1"),
)
"""What is mapped: variable, defence (None: the paired difference), title."""


def dimension(result: xr.Dataset, published_curves: Sequence = ()) -> Figure:
    """Blocks of columns by threat, within them by n; rows of heat maps, and last slices of the robust error over d."""
    del published_curves
    columns = [(threat, n) for threat in result["threat"].values for n in result["n"].values]
    with styled():
        figure = Figure(figsize=(2.5 * len(columns) + 1.2, 2.1 * (len(ROWS) + 1)), layout="constrained")
        grid = figure.subplots(len(ROWS) + 1, len(columns), squeeze=False)
        for line, (variable, defence, title) in zip(grid, ROWS, strict=False):
            images = [
                _map(axes, *_values(result.sel(threat=threat, n=n), variable, defence), defence is None)
                for axes, (threat, n) in zip(line, columns, strict=True)
            ]
            figure.colorbar(images[-1], ax=line.tolist(), aspect=12).set_label(title.replace(": ", ":\n"))
            line[0].set_ylabel("dimension d")
        for axes, (threat, n) in zip(grid[-1], columns, strict=True):
            _slice(axes, result.sel(threat=threat, n=n))
            axes.sharey(grid[-1][0])
        grid[-1][0].set_ylabel("robust error")
        for axes, (threat, n) in zip(grid[0], columns, strict=True):
            axes.set_title(f"{threat}, n = {n}")
        handles, labels = grid[-1][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(
            "Linearly separable data: means over trials; dots: a difference beyond 2 paired standard errors\n"
            f"last row: at the largest radius, ε = {float(result['epsilon'].max()):g}, mean ± s.e."
        )
    return figure


def _values(part: xr.Dataset, variable: str, defence: str | None) -> tuple[xr.DataArray, xr.DataArray | None]:
    """What a map shows [dim, epsilon], and for a difference where it is beyond 2 paired standard errors."""
    missing = set(PAIR if defence is None else (defence,)) - set(part["defence"].values)
    if missing:
        return xr.full_like(part["status"].isel(defence=0, trial=0, drop=True), np.nan, float), None
    if defence is not None:
        return over_trials(part.sel(defence=defence), variable)[0], None
    gap, sem = paired_difference(part, variable, defence=PAIR)
    return gap, abs(gap) > 2 * sem


def _map(axes: Axes, values: xr.DataArray, beyond: xr.DataArray | None, difference: bool):
    values = values.transpose("dim", "epsilon")
    low, high, colors = (-0.3, 0.3, "RdBu_r") if difference else (0, 1, "viridis")
    image = axes.imshow(values.values, origin="lower", aspect="auto", vmin=low, vmax=high, cmap=colors)
    for at, value in np.ndenumerate(values.values):
        if np.isfinite(value):
            pale = abs(value) < 0.2 if difference else value > 0.6
            axes.annotate(f"{value:.2f}", at[::-1], ha="center", va="center", size=7, color="k" if pale else "w")
    if beyond is not None:
        rows, columns = np.nonzero(beyond.transpose("dim", "epsilon").values)
        axes.plot(columns + 0.35, rows + 0.3, "k.", markersize=4)
    axes.set_xticks(range(values["epsilon"].size), [f"{value:g}" for value in values["epsilon"].values])
    axes.set_yticks(range(values["dim"].size), [f"{value:g}" for value in values["dim"].values])
    axes.set_xlabel("ε")
    axes.grid(visible=False)
    return image


def _slice(axes: Axes, part: xr.Dataset) -> None:
    for defence in part["defence"].values:
        mean, sem, count = over_trials(part.sel(defence=defence).isel(epsilon=-1), "robust_error")
        if int(count.max()):
            curve(axes, defence, part["dim"].values, mean.values, sem.values)
    theory(axes, part.isel(epsilon=-1), part["dim"].values, "robust_error")
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("dimension d")
