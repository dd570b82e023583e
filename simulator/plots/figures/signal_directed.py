"""The figure of the study `signal-directed`: errors against epsilon, and the map of recipes."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.figures.theory_lines import theory
from simulator.plots.style import curve, published, styled
from simulator.trials import over_trials, paired_difference

RECIPE = ("batch", "learning_rate", "momentum", "epoch")


def signal_directed(result: xr.Dataset, published_curves=()) -> Figure:
    """A row per n: standard error, robust error, and the COAP-AT gap in robust error over epsilon and recipes."""
    rows = result["n"].values
    with styled():
        figure = Figure(figsize=(12.5, 3.8 * len(rows) + 1.2), layout="constrained")
        grid = figure.add_gridspec(len(rows), 3, width_ratios=(1, 1, 1.5))
        for index, n in enumerate(rows):
            chosen = result.sel(n=n).isel(dim=0, missing_dims="ignore")
            base = chosen.isel(batch=0, learning_rate=0, momentum=0, epoch=-1)
            for column, variable in enumerate(("standard_error", "robust_error")):
                axes = figure.add_subplot(grid[index, column])
                _errors(
                    axes, base, variable, [c for c in published_curves if c.variable == variable and c.at["n"] == n]
                )
                axes.set_title(f"{variable.replace('_', ' ')}, n = {n}")
            _map(figure, figure.add_subplot(grid[index, 2]), chosen, f"n = {n}")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if handles:
            words = "filled: measured ± s.e.; open: thesis Fig 4.1"
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), title=words)
        figure.suptitle(_title(result), fontsize="medium")
    return figure


def _title(result: xr.Dataset) -> str:
    recipe = [f"learning rate {result['learning_rate'].values[0]:g}", _batch(result["batch"].values[0])]
    recipe += [f"momentum {result['momentum'].values[0]:g}", f"{result['epoch'].values[-1]} epochs"]
    return (
        f"Threat along the signal: errors at the base recipe ({', '.join(recipe)});\n"
        "right: the COAP − AT gap in robust error for every recipe and stopping time"
    )


def _batch(batch) -> str:
    return "full batch" if batch == 0 else f"batch {batch}"


def _errors(axes: Axes, base: xr.Dataset, variable: str, published_curves) -> None:
    for one in published_curves:
        published(axes, one.at["defence"], one.values)
    for defence in base["defence"].values:
        mean, sem, count = over_trials(base.sel(defence=defence), variable)
        if int(count.max()):
            curve(axes, defence, base["epsilon"].values, mean.values, sem.values)
    theory(axes, base, base["epsilon"].values, variable)
    axes.set(xlabel="ε", ylabel=variable.replace("_", " "), ylim=(-0.01, 0.52))


def _map(figure: Figure, axes: Axes, chosen: xr.Dataset, title: str) -> None:
    """COAP minus AT robust error, in brackets where it is not more than 2 paired standard errors from 0."""
    axes.grid(False)
    if not {"coap", "adversarial"} <= set(chosen["defence"].values):
        axes.set_title("the map needs COAP and AT")
        return
    gap, sem = paired_difference(chosen, "robust_error", defence=("coap", "adversarial"))
    gap, sem = (values.stack(recipe=RECIPE).transpose("recipe", "epsilon") for values in (gap, sem))
    limit = max(0.05, float(np.nanmax(np.abs(gap.values), initial=0)))
    image = axes.imshow(gap.values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(gap.values):
        if np.isfinite(value):
            clear = abs(value) > 2 * sem.values[row, column]
            text = f"{value:+.2f}" if clear else f"({value:+.2f})"
        else:
            text = "not ok"
        pale = not abs(value) >= 0.6 * limit
        axes.text(column, row, text, ha="center", va="center", fontsize="x-small", color="k" if pale else "w")
    axes.set_xticks(range(gap["epsilon"].size), [f"{value:g}" for value in gap["epsilon"].values])
    names = [f"{_batch(b)}, lr {lr:g}, m {m:g}, {e} ep" for b, lr, m, e in gap["recipe"].values]
    axes.set_yticks(range(len(names)), names, fontsize="x-small")
    axes.set_xlabel("ε")
    axes.set_title(f"robust error of COAP − AT, {title}\n(in brackets: within 2 paired s.e. of 0, or one trial)")
    figure.colorbar(image, ax=axes, shrink=0.8)
