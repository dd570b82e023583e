"""Predictions below simulated curves."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from simulator.plots.style import look
from simulator.trials import over_trials


def theory(axes: Axes, result: xr.Dataset, x, variable: str) -> None:
    """Thin dotted lines of linear theory, the mean of `<variable>_theory`: one for all defences that share it."""
    name = f"{variable}_theory"
    groups: list[tuple[list[str], np.ndarray]] = []
    for defence in result["defence"].values if name in result else ():
        mean = over_trials(result.sel(defence=defence), name)[0].values
        known = np.isfinite(mean)
        # The same up to what a reader could see.
        same = [names for names, other in groups if (np.isnan(other) | ~known | (abs(other - mean) < 1e-4)).all()]
        if same:
            same[0].append(defence)
        elif known.any():
            groups.append(([defence], mean))
    for names, mean in groups:
        words = "" if len(groups) == 1 else f", {', '.join(look(defence).label for defence in names)}"
        color = look(names[0]).color if words else "k"
        axes.plot(x, mean, color=color, linestyle=":", linewidth=1.2, zorder=1.2, label=f"linear theory{words}")
