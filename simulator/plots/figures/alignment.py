"""The figure of the study `alignment`: cosine and errors against epochs, small and large radius, and distributions."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from simulator.plots.style import curve, look, nothing_to_draw, published, styled
from simulator.trials import first_run, over_trials, paired_difference

_PANELS = {
    "alignment_attack_history": "cosine of the attack\nwith the signal",
    "alignment_dual_history": "cosine of COAP's dual\nwith the signal",
    "robust_error_history": "robust error",
    "standard_error_history": "standard error",
}


def alignment(result: xr.Dataset, published_curves=()) -> Figure:
    """Per task a block: a row per radius with four histories and the distribution of the final cosines."""
    rows = {task: _radii(_task(result, task)) for task in result["task"].values}
    tasks = [task for task in rows if rows[task]]
    if not tasks:
        return nothing_to_draw()
    with styled():
        figure = Figure(figsize=(15, 2.75 * sum(map(len, rows.values())) + 1.2), layout="constrained")
        blocks = figure.subfigures(len(tasks), 1, squeeze=False, height_ratios=[len(rows[task]) for task in tasks])[
            :, 0
        ]
        for block, task in zip(blocks, tasks, strict=True):
            _block(block, _task(result, task), task, rows[task], [c for c in published_curves if c.at["task"] == task])
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=len(labels),
            title="Perturbation against signal direction along training "
            "(bands: ± s.e. over trials; open markers: thesis Fig 3.9)",
        )  # fmt: skip
    return figure


def _task(result: xr.Dataset, task: str) -> xr.Dataset:
    """One task at the first n and dimension it was run at."""
    return first_run(result.sel(task=task), "n", "dim")


def _radii(chosen: xr.Dataset) -> list[float]:
    run = (chosen["status"] == "ok").any([name for name in chosen["status"].dims if name != "epsilon"])
    return [float(value) for value in chosen["epsilon"].values[run.values]]


def _block(block: SubFigure, chosen: xr.Dataset, task: str, radii: list[float], published_curves) -> None:
    block.suptitle(f"{task}, l2 ball{_gaps(chosen, radii)}")
    axes = block.subplots(len(radii), 5, squeeze=False, sharex=False)
    for row, radius in enumerate(radii):
        here = chosen.sel(epsilon=radius)
        for column, (variable, title) in enumerate(_PANELS.items()):
            _history(axes[row, column], here, variable, [c for c in published_curves if _fits(c, variable, radius)])
            axes[row, column].set_title(title if row == 0 else "")
            axes[row, column].set_xlabel("epoch" if row == len(radii) - 1 else "")
        axes[row, 0].set_ylabel(f"ε = {radius:g}", fontsize="large")
        _distribution(axes[row, 4], here)
        axes[row, 4].set_title("final cosine of the attack,\nsingle test examples" if row == 0 else "")


def _gaps(chosen: xr.Dataset, radii: list[float]) -> str:
    """The final gap in robust error between COAP and AT at each radius, in words."""
    if not {"coap", "adversarial"} <= set(chosen["defence"].values):
        return ""
    gap, sem = paired_difference(chosen, "robust_error", defence=("coap", "adversarial"))
    each = [f"{float(gap.sel(epsilon=r)):+.2f} ± {float(sem.sel(epsilon=r)):.2f} at ε = {r:g}" for r in radii]
    return f": final robust error of COAP − AT is {', '.join(each)}"


def _fits(one, variable: str, radius: float) -> bool:
    return one.variable == variable and one.at["epsilon"] == radius


def _history(axes: Axes, here: xr.Dataset, variable: str, published_curves) -> None:
    for one in published_curves:
        published(axes, one.at["defence"], one.values)
    for defence in here["defence"].values:
        mean, sem, count = over_trials(here.sel(defence=defence), variable)
        if int(count.max()):
            curve(axes, defence, here["epoch"].values, mean.values, sem.values, markers=False)
            _mark_sparsely(axes, defence, here["epoch"].values, mean.values)
    axes.set_ylim((-0.3, 1.02) if "alignment" in variable else (-0.02, 1.02))


def _mark_sparsely(axes: Axes, defence: str, x, mean) -> None:
    style, chosen = look(defence), slice(None, None, max(1, len(x) // 6))
    axes.plot(x[chosen], mean[chosen], style.marker, color=style.color)


def _distribution(axes: Axes, here: xr.Dataset) -> None:
    """Quartile boxes with the 5 % and 95 % points, over test examples of all ok trials."""
    names = list(here["defence"].values)
    for position, defence in enumerate(names):
        chosen = here.sel(defence=defence)
        values = chosen["alignment_attack_samples"].where(chosen["status"] == "ok").values.ravel()
        values = values[np.isfinite(values)]
        if values.size:
            style = look(defence)
            axes.boxplot(
                values, positions=[position], widths=0.6, whis=(5, 95), showfliers=False, patch_artist=True,
                boxprops={"facecolor": style.color, "alpha": 0.5}, medianprops={"color": "k"},
            )  # fmt: skip
    axes.set_xticks(range(len(names)), [look(name).label.replace("-", "-\n") for name in names], fontsize="x-small")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(-1.02, 1.02)
