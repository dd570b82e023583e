"""The figure of the study `gap-report`: worst losses, effective budgets and the relaxation against epochs."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.style import curve, look, nothing_to_draw, styled
from simulator.trials import over_trials

# Of one network: lower bounds of its worst loss in grey and black, upper ones in the colours of the defences.
_VIEWS = {
    "clean": ("at x", "#BBBBBB", ":"),
    "attack": ("attack", "#000000", "-"),
    "exact": ("exact", "#666666", (0, (1, 1))),
    "alpha-crown": ("α-CROWN", "#882255", (0, (3, 1))),
    "crown": ("CROWN", "#CC79A7", "-"),
    **{name: (look(name).label, look(name).color, look(name).dash) for name in ("coap", "crown-ibp", "ibp")},
}
_SHOWN = ("coap",)
"""The defences whose network the losses are of: the first of them that was run, else the first that was."""


def gap_report(places: Sequence[tuple[str, str, xr.Dataset]]) -> Figure:
    """A row per (task, shape) at its largest radius: losses of one network, then all defences."""
    if not places:
        return nothing_to_draw()
    with styled():
        figure = Figure(figsize=(14, 2.75 * len(places) + 1.2), layout="constrained")
        grid = figure.subplots(len(places), 4, squeeze=False)
        for line, (task, shape, part) in zip(grid, places, strict=True):
            here = part.isel(epsilon=-1)
            names = list(here["defence"].values)
            shown = next((name for name in _SHOWN if name in names), names[0])
            _losses(line[0], here.sel(defence=shown))
            _all(line[1], here.assign(budget=here["budget_coap_history"] / _positive(here["epsilon"])), "budget")
            _all(line[2], here, "unstable_history")
            _all(line[3], here, "triangle_area_history")
            line[0].set_title(f"worst losses of {look(shown).label}'s network")
            line[0].set_ylabel(f"{task}, {shape}, ε = {float(here['epsilon']):g}")
            line[1].axhline(1, color="k", linewidth=0.8)
        titles = ("budget of COAP's bound / ε", "unstable neurons (share)", "mean area of the triangles")
        for axes, title in zip(grid[0][1:], titles, strict=True):
            axes.set_title(title)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        _legends(figure, grid[0])
    return figure


def _positive(epsilon: xr.DataArray) -> xr.DataArray:
    return epsilon.where(epsilon > 0)


def _legends(figure: Figure, line) -> None:
    if line[0].lines:
        line[0].legend(fontsize="x-small", labelspacing=0.2)
    handles, labels = line[1].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper center", ncols=len(labels),
            title="Along training, on the training set (bands: ± s.e. over trials)",
        )  # fmt: skip


def _losses(axes: Axes, network: xr.Dataset) -> None:
    for view, (words, color, dash) in _VIEWS.items():
        mean, _, count = over_trials(network, f"loss_{view}_history")
        if int(count.max()):
            # What is 0 in single precision has no place on the axis.
            values = np.where(mean.values > 0, mean.values, np.nan)
            axes.plot(network["epoch"].values, values, color=color, linestyle=dash, label=words)
    if axes.lines:
        axes.set_yscale("log")


def _all(axes: Axes, here: xr.Dataset, variable: str) -> None:
    for defence in here["defence"].values:
        mean, sem, count = over_trials(here.sel(defence=defence), variable)
        if int(count.max()):
            mean, sem = (np.where(np.isfinite(mean), value, np.nan) for value in (mean.values, sem.values))
            curve(axes, defence, here["epoch"].values, mean, sem, markers=False)
