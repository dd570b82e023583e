"""The phase diagram of one gradient step of one neuron."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulator.plots.style import PAIR, styled
from simulator.trials import paired_difference

REGIONS = {
    "theorem": ("thesis, theorem 4.6", "-"),
    "proof": ("what its proof needs", (0, (5, 1))),
    "sharp": ("sharp, for a flat neuron", (0, (1, 1))),
}
"""Variable -> its name and dash: a line around where it is 1."""


def one_neuron(result: xr.Dataset, published_curves: Sequence = ()) -> Figure:
    """A panel per slope: the sign and size of R(COAP) - R(AT) over epsilon and spread, and the regions."""
    del published_curves
    slopes = result["slope"].values
    with styled():
        figure = Figure(figsize=(4.4 * len(slopes) + 1, 5), layout="constrained")
        grid = figure.subplots(1, len(slopes), squeeze=False, sharey=True)[0]
        if not set(PAIR) <= set(result["defence"].values):
            figure.suptitle("the map needs COAP and AT")
            return figure
        predicted, _ = paired_difference(result, "robust_error_theory", defence=PAIR)
        limit = float(abs(predicted).max())
        for axes, slope in zip(grid, slopes, strict=True):
            image = _map(axes, result.sel(slope=slope), limit)
            axes.set_title(f"a γ θ₁ = {slope:g}")
            axes.set_xlabel("ε / γ")
        grid[0].set_ylabel("σ |θ rest| / (γ θ₁)")
        figure.colorbar(
            image,
            ax=list(grid),
            label="R(COAP) − R(AT) after one step, predicted:\nsquare root of its share of the largest, signed",
        )
        handles = [Line2D([], [], color="k", linestyle=dash, label=name) for name, dash in REGIONS.values()]
        handles += [
            Line2D([], [], color="k", marker=marker, linestyle="", markersize=4, label=f"simulated: {words}")
            for marker, words in (("+", "COAP worse"), ("_", "AT worse"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        figure.suptitle(
            "One gradient step of one neuron from the same weights: where COAP's is the worse one\n"
            "(simulated signs are shown where they are beyond 2 paired standard errors)",
            fontsize="medium",
        )
    return figure


def _map(axes: Axes, part: xr.Dataset, limit: float):
    simulated, sem = (
        values.transpose("spread", "epsilon") for values in paired_difference(part, "robust_error", defence=PAIR)
    )
    predicted = paired_difference(part, "robust_error_theory", defence=PAIR)[0].transpose("spread", "epsilon")
    epsilon, spread = predicted["epsilon"].values, predicted["spread"].values
    # The square root keeps small differences visible, and the sign where it is.
    shown = np.sign(predicted.values) * np.sqrt(np.abs(predicted.values) / limit)
    image = axes.pcolormesh(epsilon, spread, shown, cmap="PuOr_r", vmin=-1, vmax=1, shading="nearest")
    for marker, chosen in (("+", simulated > 2 * sem), ("_", simulated < -2 * sem)):
        rows, columns = np.nonzero(chosen.values)
        axes.plot(epsilon[columns], spread[rows], f"k{marker}", markersize=4, alpha=0.7)
    if min(predicted.shape) > 1:
        for name, (_, dash) in REGIONS.items():
            inside = part[name].isel(defence=0, trial=0).transpose("spread", "epsilon").values
            if 0 < inside.mean() < 1:
                axes.contour(epsilon, spread, inside, levels=[0.5], colors="k", linestyles=[dash])
    axes.set_yscale("log")
    axes.grid(visible=False)
    return image
