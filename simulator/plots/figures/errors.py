"""The figure of the studies that compare errors along one axis."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.figures.theory_lines import theory
from simulator.plots.style import curve, look, published, styled
from simulator.trials import first_run, gap, over_trials, uncertainty

REFERENCE = "adversarial"
"""The defence whose robust error the gaps are measured from."""

GAP = "robust error minus AT's\n(bars: ± 2 {kind} s.e.)"

PANELS = {
    "standard_error": "standard error",
    "robust_error": "robust error",
    "certified_error": "certified error",
    "unstable": "unstable neurons at the end\n(share, test examples)",
}
SMALL = 0.02
"""Errors below are drawn on the scale of this one."""


def errors(
    result: xr.Dataset,
    published_curves: Sequence = (),
    *,
    along: str,
    rows: Sequence[str],
    title: str,
    panels: Mapping[str, str] = PANELS,
    columns: int | None = None,
) -> Figure:
    """A row per combination of values of the axes `rows`: errors of every defence along an axis, and their gaps to AT.

    What belongs to a row is broken into lines of so many `columns` of panels: by default of three for a single row, and
    of at most six for several.

    Other axes are drawn at their last value (n and dim: the first that was run).  `panels` are variables and their
    titles.  Published curves belong to a row if their `at` says so.
    """
    leaves = [name for name in result["status"].dims if name not in ("defence", "trial", "n", "dim", along, *rows)]
    chosen = result.isel(dict.fromkeys(leaves, -1))
    places = [dict(zip(rows, values, strict=True)) for values in product(*(chosen[name].values for name in rows))]
    with styled():
        columns = columns or _columns(len(panels) + 1, len(places))
        deep = math.ceil((len(panels) + 1) / columns)
        figure = Figure(figsize=(2.6 * columns + 0.4, 2.5 * len(places) * deep + 0.9), layout="constrained")
        grid = figure.subplots(len(places) * deep, columns, squeeze=False).reshape(len(places), deep * columns)
        single = result["trial"].size == 1
        gaps = GAP.format(kind="unpaired" if single else "paired")
        for line in grid if deep > 1 else grid[:1]:
            for axes, words in zip(line, (*panels.values(), gaps), strict=False):
                axes.set_title(words)
        for line, place in zip(grid, places, strict=True):
            row = _where_run(first_run(chosen.sel(place), "n", "dim"), along)
            own = [one for one in published_curves if _belongs(one, row, along)]
            for axes, variable in zip(line, panels, strict=False):
                _errors(axes, row, along, variable, [one for one in own if one.variable == variable])
            _gaps(line[len(panels)], row, along)
            for axes in line[len(panels) + 1 :]:
                axes.remove()
            if len(places) > 1:
                for axes in line[: len(panels) + 1 : columns]:
                    axes.set_ylabel(", ".join(map(_named, place, place.values())))
        legend = {
            label: handle
            for axes in grid[:, 0]
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        labels, handles = list(legend), list(legend.values())
        markers = "; open markers: published" if published_curves else ""
        lines = "one trial ± s.e. over test examples" if single else "mean ± s.e. over trials"
        figure.suptitle(_wrapped((title, f"lines: {lines}{markers}"), columns), fontsize="medium")
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * columns))
    return figure


def _columns(panels: int, rows: int) -> int:
    """Panels of a line: more would be too small to read on a slide."""
    return 3 if rows == 1 else math.ceil(panels / math.ceil(panels / 6))


def _wrapped(sentences: Sequence[str], columns: int) -> str:
    """Each on lines of its own, none wider than so many panels."""
    return "\n".join(line for sentence in sentences for line in textwrap.wrap(sentence, 28 * columns))


def _named(name: str, value) -> str:
    return f"{name} = {value:g}" if isinstance(value, (int, float, np.number)) else str(value)


def _where_run(row: xr.Dataset, along: str) -> xr.Dataset:
    """The positions along the axis at which any cell was run."""
    others = [name for name in row["status"].dims if name != along]
    return row.isel({along: (row["status"] != "not_run").any(others).values})


def _belongs(one, row: xr.Dataset, along: str) -> bool:
    """Whether a published curve lies in what a row shows."""
    shown = {name: value for name, value in one.at.items() if name != "defence"}
    return one.along == along and all(bool(row[name] == value) for name, value in shown.items() if name in row.coords)


def _errors(axes: Axes, row: xr.Dataset, along: str, variable: str, published_curves) -> None:
    for one in published_curves:
        published(axes, one.at["defence"], one.values)
    for defence in row["defence"].values:
        own = row.sel(defence=defence)
        mean, _, count = over_trials(own, variable)
        if int(count.max()):
            curve(axes, defence, row[along].values, mean.values, uncertainty(own, variable).values)
    theory(axes, row, row[along].values, variable)
    low, high = axes.get_ylim()
    high = max(high, SMALL)  # errors of nearly 0 look like it
    axes.set_ylim(min(-min(0.01, 0.05 * high), low), high + 0.03 * (high - min(0, low)))
    _label(axes, row, along)


def _gaps(axes: Axes, row: xr.Dataset, along: str) -> None:
    """Robust error of every other defence minus adversarial training's, with 2 paired standard errors."""
    axes.axhline(0, color="k", linewidth=0.8)
    _label(axes, row, along)
    if REFERENCE not in row["defence"].values:
        axes.text(0.5, 0.5, "needs adversarial training", ha="center", transform=axes.transAxes)
        return
    for defence in row["defence"].values:
        if defence == REFERENCE:
            continue
        mean, sem = gap(row, "robust_error", defence, REFERENCE)
        style = look(defence)
        axes.errorbar(
            row[along].values, mean.values, 2 * sem.values, color=style.color, marker=style.marker, linestyle=style.dash
        )


def _label(axes: Axes, row: xr.Dataset, along: str) -> None:
    axes.set_xlabel("ε" if along == "epsilon" else along)
    values = row[along].values
    if values.dtype.kind == "i":
        axes.set_xticks(values)
    if len(values) > 1 and values[0] > values[-1]:
        axes.invert_xaxis()
