"""The figure of the study `attribution`: the gap at every radius and the parts it is the sum of."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.style import nothing_to_draw, styled
from simulator.trials import interval, over_trials

_PARTS = {
    "gap": ("COAP − AT", "#000000", "s"),
    "magnitude": ("magnitude", "#D55E00", "D"),
    "direction": ("direction", "#0072B2", "o"),
    "remainder": ("remainder", "#009E73", "^"),
    "across": ("no signal component − AT", "#999999", "x"),
}
_ORDERS = {"first": 5, "last": 4}
"""Markers of the two orders, a triangle to the right (alone) and one to the left (on top of the other change)."""


def attribution(places: Sequence[tuple[str, str, xr.Dataset]]) -> Figure:
    """A panel per (task, shape): means and 95 % intervals of the gap and of its parts at every radius."""
    drawn = [place for place in places if int((place[2]["status"] == "ok").sum())]
    if not drawn:
        return nothing_to_draw()
    with styled():
        figure = Figure(figsize=(4.6 * len(drawn) + 0.6, 4.6), layout="constrained")
        panels = figure.subplots(1, len(drawn), squeeze=False)[0]
        for axes, (task, shape, part) in zip(panels, drawn, strict=True):
            _panel(axes, part)
            axes.set_title(f"{task}, {shape}")
            axes.set_xlabel("ε")
        panels[0].set_ylabel("difference in robust error")
        found = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            found.values(), found.keys(), loc="outside upper center", ncols=len(found),
            title="The gap in robust error and its parts (95 % paired intervals; "
            "small triangles: a change alone (right) and on top of the other (left))",
        )  # fmt: skip
    return figure


def _panel(axes: Axes, part: xr.Dataset) -> None:
    places = np.arange(part["epsilon"].size)
    absent = []
    for index, (name, (label, color, marker)) in enumerate(_PARTS.items()):
        at = places + 0.15 * (index - (len(_PARTS) - 1) / 2)
        mean, half, count = interval(part, name)
        if not int(count.max()):
            absent.append(label)
            continue
        axes.errorbar(at, mean.values, half.values, color=color, marker=marker, linestyle="", capsize=2, label=label)
        for order, arrow in _ORDERS.items():
            if f"{name} {order}" in part:
                one, _, _ = over_trials(part, f"{name} {order}")
                axes.plot(at, one.values, marker=arrow, color=color, mfc="none", linestyle="", markersize=5)
    if absent:
        axes.text(0.02, 0.02, f"not applicable: {', '.join(absent)}", transform=axes.transAxes, fontsize="x-small")
    axes.axhline(0, color="k", linewidth=0.8)
    axes.set_xticks(places, [f"{value:g}" for value in part["epsilon"].values])
    axes.set_xlim(-0.6, len(places) - 0.4)
