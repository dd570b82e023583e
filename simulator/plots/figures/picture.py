"""The figure of the study `picture`: adversarial example, signal direction, learnt regions."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from simulator.plots.plane import CLASSES, arrow, points, region
from simulator.plots.style import SIGNAL, TRUTH, look, styled

_DIGITS = ("3", "8")


def picture(result: xr.Dataset, published_curves=()) -> Figure:
    """Top: an adversarial example on a digit.  Below, per task: the signal picture, then the regions per radius."""
    del published_curves  # the talk's pictures are drawings, not data
    result = result.isel(n=0, dim=0, missing_dims="ignore")
    tasks, radii, defences = result["task"].values, result["epsilon"].values, result["defence"].values
    with styled():
        figure = Figure(figsize=(3.1 * (len(defences) + 1), 3.0 + 3.2 * len(radii) * len(tasks)), layout="constrained")
        parts: Any = figure.subfigures(1 + len(tasks), 1, height_ratios=(3.0, *[3.1 * len(radii)] * len(tasks)))
        _digit(parts[0], result)
        parts[0].legend(handles=_key(), loc="outside lower center", ncols=6, fontsize="x-small")
        for part, task in zip(parts[1:], tasks, strict=True):
            axes = part.subplots(len(radii), len(defences) + 1, squeeze=False)
            for row, radius in enumerate(radii):
                _signal(axes[row, 0], result, task, float(radius))
                for column, defence in enumerate(defences):
                    _region(axes[row, column + 1], result, task, defence, float(radius))
    return figure


def _key() -> list:
    """What the signs of the lower panels mean."""
    arrows = (
        (SIGNAL, "signal direction a"),
        (look("adversarial").color, "attack δ"),
        (look("coap").color, "COAP dual δ"),
    )
    return [
        *(Line2D([], [], color=color, marker=marker, linestyle="", label=name) for _, color, marker, name in CLASSES),
        Line2D([], [], color=TRUTH, linestyle=":", label="ground truth"),
        *(Line2D([], [], color=color, label=label) for color, label in arrows),
    ]


def _digit(part: SubFigure, result: xr.Dataset) -> None:
    part.suptitle("An image, an attack on it, and both predictions")
    axes = part.subplots(1, 3)
    image, delta, label = result["image"].values, result["image_delta"].values, int(result["image_label"])
    reach, names = np.abs(delta).max(), []
    for confidence in result["image_confidence"].values:
        k = int(confidence.argmax())
        names.append(f"predicted {_DIGITS[k]} ({confidence[k]:.0%})")
    axes[0].imshow(image, cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(f"x: a {_DIGITS[label]}, {names[0]}")
    axes[1].imshow(delta, cmap="RdBu_r", vmin=-reach, vmax=reach)
    axes[1].set_title(f"δ, |δ|₂ = {np.linalg.norm(delta):.2f}")
    axes[2].imshow(image + delta, cmap="gray", vmin=0, vmax=1)
    axes[2].set_title(f"x + δ: {names[1]}")
    for one in axes:
        one.set_axis_off()


def frame_of(axes: Axes, result: xr.Dataset, task: str, truth: bool = True) -> None:
    """Training points, ground truth if wanted, and limits shared by every panel of a task."""
    x, y = result[f"{task}_x"].values, result[f"{task}_y"].values
    points(axes, x, y)
    if truth and task == "circles":
        axes.add_patch(
            Circle((0, 0), _truth(result, task), fill=False, linestyle=":", linewidth=2, color=TRUTH, zorder=2)
        )
    elif truth:
        axes.axvline(0, linestyle=":", linewidth=2, color=TRUTH, zorder=2)
    reach = float(result["u"].max())
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)


def _truth(result: xr.Dataset, task: str) -> float:
    """Where the ground truth lies: the mean distance of the two classes from the centre, or from the line."""
    x, y = result[f"{task}_x"].values, result[f"{task}_y"].values
    size = np.linalg.norm(x, axis=1) if task == "circles" else x[:, 0]
    return float(size[y > 0].mean() + size[y < 0].mean()) / 2


def _signal(axes: Axes, result: xr.Dataset, task: str, radius: float) -> None:
    """The data, the signal direction at one sample, and the set of perturbations of magnitude epsilon around it."""
    frame_of(axes, result, task)
    sample, signal = result[f"{task}_sample"].values, result[f"{task}_signal"].values
    axes.add_patch(Circle(sample, radius, facecolor="#BBBBBB", alpha=0.6, edgecolor="k", zorder=4))
    axes.plot(*sample, "k.", ms=6, zorder=5)
    arrow(axes, sample, signal, SIGNAL)
    axes.set_title(f"{task}, ε = {radius:g}")


def _region(axes: Axes, result: xr.Dataset, task: str, defence: str, radius: float) -> None:
    """The learnt decision region of trial 0, with the attack and COAP's dual perturbation at the sample."""
    chosen = result.sel(task=task, defence=defence, epsilon=radius, trial=0)
    if str(chosen["status"].item()) != "ok":
        axes.set_title(f"{look(defence).label}: {chosen['status'].item()}")
        return
    region(axes, chosen["u"], chosen["v"], chosen["margin_map"].values)
    frame_of(axes, result, task)
    sample, signal = result[f"{task}_sample"].values, result[f"{task}_signal"].values
    attack, dual = chosen["sample_attack"].values, chosen["sample_dual"].values
    axes.add_patch(Circle(sample, radius, fill=False, linewidth=0.8, zorder=4))
    # The dual is drawn wider, below the attack, so that both show where they agree.
    arrow(axes, sample, dual, look("coap").color, width=4.0)
    arrow(axes, sample, attack, look("adversarial").color)
    axes.set_xlabel(
        f"cos(a, attack) = {cosine_text(signal, attack)},  cos(a, COAP dual) = {cosine_text(signal, dual)}",
        fontsize="x-small",
    )
    mean = result.sel(task=task, defence=defence, epsilon=radius)
    ok = mean["status"] == "ok"
    errors = [float(mean[name].where(ok).mean("trial")) for name in ("standard_error", "robust_error")]
    axes.set_title(
        f"{look(defence).label}, ε = {radius:g}: standard {errors[0]:.2f}, robust {errors[1]:.2f}", fontsize="small"
    )


def cosine_text(a: np.ndarray, b: np.ndarray) -> str:
    """The cosine of two vectors in two digits, or that there is none."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return f"{a @ b / norms:.2f}" if norms > 0 else "undefined"
