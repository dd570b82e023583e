"""Bars of unstable neurons, beside the published ones, and the histories behind them."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.style import look, published, styled
from simulator.trials import first_run, over_trials

SHOWN = "coap"
_ALONG = ("margin", "k", "epsilon")


def unstable(result: xr.Dataset, published_curves: Sequence = ()) -> Figure:
    """A row per inner radius: a panel per published figure, and histories of the shares at its first and last bar."""
    chosen = first_run(result, "n", "dim")
    defence = SHOWN if SHOWN in chosen["defence"].values else chosen["defence"].values[0]
    chosen = chosen.sel(defence=defence)
    names, inner = chosen["figure"].values, chosen["inner"].values
    with styled():
        figure = Figure(figsize=(2.6 * len(names) + 3.4, 2.6 * len(inner) + 0.9), layout="constrained")
        grid = figure.subplots(len(inner), len(names) + 1, squeeze=False)
        for line, radius in zip(grid, inner, strict=True):
            for axes, name in zip(line, names, strict=False):
                own = [one for one in published_curves if one.at["figure"] == name and one.at["inner"] == radius]
                _bars(axes, chosen.sel(figure=name, inner=radius), defence, own)
                axes.set_title(f"Fig {name}" if radius == inner[0] else "")
            _histories(line[-1], chosen.sel(inner=radius), look(defence).color)
            line[0].set_ylabel(f"inner = {radius:g}\nsum over epochs")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(f"Unstable neurons along {look(defence).label}'s training; bars: mean ± s.e. over trials")
    return figure


def _bars(axes: Axes, one: xr.Dataset, defence: str, published_curves: Sequence) -> None:
    """Bars at the positions of the one axis along which this figure was run."""
    run = {name: [v for v in one[name].values if (one["status"].sel({name: v}) != "not_run").any()] for name in _ALONG}
    axis = max(run, key=lambda name: len(run[name]))
    mean, sem, _ = over_trials(one.sel({name: run[name][0] for name in _ALONG if name != axis}), "unstable_epochs")
    places = np.arange(len(run[axis]))
    axes.bar(
        places,
        mean.sel({axis: run[axis]}),
        0.6,
        yerr=sem.sel({axis: run[axis]}),
        color=look(defence).color,
        alpha=0.6,
        label=f"{look(defence).label}, measured",
    )
    for curve in published_curves:
        heights = {list(run[axis]).index(at): height for at, height in curve.values.items() if at in run[axis]}
        published(axes, defence, heights)
        axes.lines[-1].set_label("published")
    axes.set_xticks(places, [f"{value:.3g}" for value in run[axis]])
    axes.set_xlabel("ε" if axis == "epsilon" else axis)


def _histories(axes: Axes, row: xr.Dataset, color: str) -> None:
    """Shares along training, each averaged over all that was run at this radius."""
    for name, dash in {"unstable": "-", "dead": ":"}.items():
        values = row[f"{name}_history"].where(row["status"] == "ok")
        mean = values.mean([dim for dim in values.dims if dim != "epoch"])
        axes.plot(row["epoch"], mean, linestyle=dash, color=color)
        axes.annotate(name, (row["epoch"].values[-1], float(mean[-1])), ha="right", va="bottom", color=color)
    axes.set_ylim(0, 1)
    axes.set_xlabel("epoch")
    axes.set_ylabel("share of neurons")
