"""The film of the study `picture`: its signs one after another, then both boundaries moving over training."""

from functools import partial
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from simulator.plots.figures.picture import cosine_text, frame_of
from simulator.plots.film import Film
from simulator.plots.plane import arrow, region
from simulator.plots.style import SIGNAL, look, styled

STAGES = (
    "Two classes: the training examples",
    "Dotted: the ground truth, half way between the classes",
    "One example, and all its perturbations of magnitude at most ε = {epsilon:g}",
    "Red: the signal direction a, the shortest way to the true boundary",
)
"""What is added before training, and what is said of it."""
TRAINING = "Left: training on attacks. Right: training on COAP's bound. Epoch {epoch}"
ENDINGS = (
    "After training, the share of test examples that an attack gets wrong: AT {left:.2f}, COAP {right:.2f}",
    "The attack δ on each network (blue) and COAP's dual δ (orange), with their cosines to a",
)
"""What is said of the trained networks."""
HOLD, LAST_HOLD = 18, 40
"""Frames that a stage, and an ending, is shown."""


def picture_film(result: xr.Dataset) -> Film:
    """The film of one task and radius: `result` has defence, epoch, margin_map [defence, epoch, v, u], robust_error
    [defence, epoch], sample_attack and sample_dual [defence, xy], and the exhibits of the study."""
    with styled():
        figure = Figure(figsize=(7.6, 4.5))
        axes = figure.subplots(
            1, 2, gridspec_kw={"left": 0.02, "right": 0.98, "bottom": 0.17, "top": 0.93, "wspace": 0.04}
        )
    scenes = [
        *[partial(_stage, result, stage) for stage in range(len(STAGES)) for _ in range(HOLD)],
        *[partial(_epoch, result, epoch) for epoch in range(result["epoch"].size)],
        *[partial(_ending, result, ending) for ending in range(len(ENDINGS)) for _ in range(LAST_HOLD)],
    ]

    def draw(frame: int) -> None:
        caption = scenes[frame](axes)
        for text in list(figure.texts):
            text.remove()
        figure.text(0.5, 0.045, caption, ha="center", fontsize=11)

    return Film(figure, draw, len(scenes))


def _stage(result: xr.Dataset, stage: int, axes: Any) -> str:
    """The data, and the signs up to a stage, without any network."""
    for one, defence in zip(axes, result["defence"].values, strict=True):
        one.clear()
        frame_of(one, result, result.attrs["task"], truth=stage >= 1)
        one.set_title(look(defence).label)
        _signs(one, result, ball=stage >= 2, signal=stage >= 3)
    return STAGES[stage].format(epsilon=result.attrs["epsilon"])


def _epoch(result: xr.Dataset, index: int, axes: Any) -> str:
    """The regions after some epochs of training."""
    for one, defence in zip(axes, result["defence"].values, strict=True):
        one.clear()
        now = result.sel(defence=defence).isel(epoch=index)
        region(one, now["u"], now["v"], now["margin_map"].values)
        frame_of(one, result, result.attrs["task"])
        _signs(one, result)
        one.set_title(f"{look(defence).label}: robust error {float(now['robust_error']):.2f}")
    return TRAINING.format(epoch=int(result["epoch"][index]))


def _ending(result: xr.Dataset, ending: int, axes: Any) -> str:
    """The trained networks, in the end with the perturbations at the example."""
    _epoch(result, result["epoch"].size - 1, axes)
    for one, defence in zip(axes, result["defence"].values, strict=True):
        if ending == 0:
            continue
        chosen = result.sel(defence=defence)
        sample, signal = (result[f"{result.attrs['task']}_{name}"].values for name in ("sample", "signal"))
        attack, dual = chosen["sample_attack"].values, chosen["sample_dual"].values
        arrow(one, sample, dual, look("coap").color, width=4.0)
        arrow(one, sample, attack, look("adversarial").color)
        words = f"cos(a, attack) = {cosine_text(signal, attack)},  cos(a, COAP dual) = {cosine_text(signal, dual)}"
        one.set_xlabel(words, fontsize=9)
    left, right = (float(value) for value in result["robust_error"].isel(epoch=-1))
    return ENDINGS[ending].format(left=left, right=right)


def _signs(axes: Axes, result: xr.Dataset, ball: bool = True, signal: bool = True) -> None:
    """The perturbed example, its set of perturbations and its signal direction."""
    task = result.attrs["task"]
    sample = result[f"{task}_sample"].values
    if ball:
        axes.add_patch(Circle(sample, result.attrs["epsilon"], facecolor="#BBBBBB", alpha=0.6, edgecolor="k", zorder=4))
        axes.plot(*sample, "k.", ms=6, zorder=5)
    if signal:
        arrow(axes, sample, result[f"{task}_signal"].values, SIGNAL)
