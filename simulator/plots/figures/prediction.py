"""The figure of the studies that draw theory under a simulation: markers are simulated, lines predicted."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulator.plots.style import styled
from simulator.trials import over_trials

PANELS = {
    "alignment": "cosine of the classifier with the signal",
    "standard_error": "standard error",
    "robust_error": "robust error",
}
MARKERS = "osD^vXP*"
NAMES = {"epsilon": "ε", "share": "share of the budget along the signal", "ratio": "d / n", "penalty": "λ"}


def prediction(
    result: xr.Dataset,
    published_curves: Sequence = (),
    *,
    along: str,
    lines: str,
    title: str,
    rows: str | None = None,
) -> Figure:
    """Panels of `PANELS` over the axis `along`, a colour per value of the axis `lines`, a row per value of `rows`.

    Markers are simulated means with their standard errors over trials, solid lines the prediction from the same points
    (`<name>_theory`), dotted ones the limit (`<name>_limit`).  Other axes are drawn at their first value.
    """
    del published_curves
    panels = {name: words for name, words in PANELS.items() if name in result}
    places = [None] if rows is None else list(result[rows].values)
    with styled():
        figure = Figure(figsize=(4.1 * len(panels), 3.1 * len(places) + 1.1), layout="constrained")
        grid = figure.subplots(len(places), len(panels), squeeze=False)
        for line, place in zip(grid, places, strict=True):
            for axes, (variable, words) in zip(line, panels.items(), strict=True):
                _panel(axes, result if place is None else result.sel({rows: place}), variable, along, lines)
                axes.set_title(words if place is None else f"{words}, {_name(rows)} = {place:g}")
                axes.set_xlabel(_name(along))
        values = result[lines].values
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="-", label=f"{_name(lines)} = {value:g}")
            for value, color, marker in zip(values, _colors(len(values)), _markers(len(values)), strict=True)
        ]
        handles += [
            Line2D([], [], color="k", marker=marker, linestyle=dash, label=label)
            for marker, dash, label in (
                ("o", "", "simulated ± s.e."),
                ("", "-", "predicted from the same points"),
                ("", ":", "limit, n and d large"),
            )
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
        figure.suptitle(title, fontsize="medium")
    return figure


def _name(axis: str | None) -> str:
    return NAMES.get(str(axis), str(axis))


def _colors(count: int) -> list:
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.85, count)))


def _markers(count: int) -> list[str]:
    return [MARKERS[index % len(MARKERS)] for index in range(count)]


def _panel(axes: Axes, result: xr.Dataset, variable: str, along: str, lines: str) -> None:
    values = result[lines].values
    for value, color, marker in zip(values, _colors(len(values)), _markers(len(values)), strict=True):
        part = result.sel({lines: value})
        part = part.isel(dict.fromkeys((name for name in part["status"].dims if name not in (along, "trial")), 0))
        x = part[along].values
        for suffix, dash in (("_theory", "-"), ("_limit", ":")):
            if f"{variable}{suffix}" in part:
                axes.plot(x, over_trials(part, f"{variable}{suffix}")[0].values, color=color, linestyle=dash, zorder=1)
        mean, sem, _ = over_trials(part, variable)
        axes.errorbar(x, mean.values, sem.values, color=color, marker=marker, linestyle="", capsize=2, zorder=2)
    if variable != "alignment":
        # Errors that are all but 0 look it.
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -0.01), max(high, 0.05))
