"""The picture of the explorer: two defences side by side, and their errors against what is certified."""

import io
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon

from simulator.plots.plane import CLASSES, arrow, points, region
from simulator.plots.style import SIGNAL, TRUTH, look, styled

ATTACK, DUAL = look("adversarial").color, look("coap").color
"""Of the attack's perturbation and the dual one, as in the other figures."""
ERRORS = {"standard_error": "standard", "robust_error": "robust\n(attack)", "certified_error": "certified\n(bound)"}
"""Variable -> what is written below its bars."""
_BINS = np.linspace(-1, 1, 41)


def explorer(result: xr.Dataset) -> Figure:
    """Above: the region each defence learns, with perturbations in it, and the errors of both.  Below: how the
    perturbations are aligned with the signal on fresh examples, and the losses along training.

    `result` has two defences along `side`, as `simulator.explorer.Live` answers.
    """
    with styled():
        figure = Figure(figsize=(11.4, 6.9))
        # Placed by hand: solving for a layout takes longer than drawing.
        places = {"left": 0.045, "right": 0.985, "bottom": 0.13, "top": 0.94, "wspace": 0.22, "hspace": 0.36}
        axes: Any = figure.subplots(2, 3, gridspec_kw={"height_ratios": (1.75, 1), **places})
        for side in range(2):
            one = result.isel(side=side)
            _region(axes[0, side], one)
            _cosines(axes[1, side], one)
        _errors(axes[0, 2], result)
        _losses(axes[1, 2], result)
        figure.legend(handles=_key(), loc="lower center", ncols=8, fontsize=8.5, handletextpad=0.4, columnspacing=1.3)
    return figure


def png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _key() -> list:
    """What the signs of the picture mean."""
    return [
        *(Line2D([], [], color=color, marker=marker, linestyle="", label=name) for _, color, marker, name in CLASSES),
        Line2D([], [], color=TRUTH, linestyle=":", label="ground truth"),
        Line2D([], [], color=SIGNAL, label="signal direction a"),
        Patch(facecolor="#BBBBBB", alpha=0.6, edgecolor="k", label="set of perturbations"),
        Line2D([], [], color=ATTACK, label="attack δ"),
        Line2D([], [], color=DUAL, linewidth=4, alpha=0.7, label="COAP dual δ"),
    ]


def _region(axes: Axes, one: xr.Dataset) -> None:
    """The learnt region, the data, and perturbations: at one example in full, at others the attack alone."""
    name, reach = str(one["defence"].item()), float(one.attrs["reach"])
    region(axes, one["u"], one["v"], one["margin_map"].values)
    points(axes, one["x"].values, one["y"].values, size=14)
    _truth(axes, one)
    places, attack, dual = one["places"].values, one["attack"].values, one["dual"].values
    outline = places[0] + one["outline"].values
    axes.add_patch(Polygon(outline, facecolor="#BBBBBB", alpha=0.6, edgecolor="k", linewidth=1.2, zorder=4))
    for place, delta in zip(places[1:], attack[1:], strict=True):
        arrow(axes, place, delta, ATTACK, width=0.9)
    axes.plot(*places[0], "k.", ms=6, zorder=5)
    arrow(axes, places[0], one["signal"].values, SIGNAL)
    # The dual is drawn wider, below the attack, so that both show where they agree.
    arrow(axes, places[0], dual[0], DUAL, width=4.0)
    arrow(axes, places[0], attack[0], ATTACK)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    cosines = (_number(one[f"cosine_shown_{kind}"]) for kind in ("attack", "dual"))
    axes.set_xlabel("cos(a, attack) = {},  cos(a, COAP dual) = {}".format(*cosines), fontsize=9)
    title = f"{look(name).label}: standard {_number(one['standard_error'])}, robust {_number(one['robust_error'])}"
    axes.set_title("training diverged" if bool(one["diverged"]) else title)


def _truth(axes: Axes, one: xr.Dataset) -> None:
    """The true boundary: a circle where `truth` is its radius, else the line u = 0."""
    style: Any = {"linestyle": ":", "linewidth": 2, "color": TRUTH, "zorder": 2}
    radius = float(one["truth"])
    if np.isfinite(radius):
        axes.add_patch(Circle((0, 0), radius, fill=False, **style))
    else:
        axes.axvline(0, **style)


def _number(value: xr.DataArray) -> str:
    return f"{float(value):.2f}" if np.isfinite(float(value)) else "undefined"


def _cosines(axes: Axes, one: xr.Dataset) -> None:
    """Cosines of single test examples with the signal: the attack's filled, the dual's as an outline."""
    kinds: Any = (("attack", {"color": ATTACK, "alpha": 0.55}), ("dual", {"color": DUAL, "histtype": "step", "lw": 2}))
    for kind, style in kinds:
        values = one[f"cosine_{kind}"].values
        axes.hist(values[np.isfinite(values)], list(_BINS), **style)
    axes.set(xlim=(-1.02, 1.02), xlabel="cos(a, δ) on test examples")
    means = [_number(one[f"alignment_{kind}"]) for kind in ("attack", "dual")]
    axes.set_title(f"{look(str(one['defence'].item())).label}: mean {means[0]} attack, {means[1]} dual", fontsize=9)


def _errors(axes: Axes, result: xr.Dataset) -> None:
    """Bars of both defences: what is wrong, what is found wrong, what is not proven right."""
    place = np.arange(len(ERRORS))
    for side, shift in enumerate((-0.2, 0.2)):
        one, style = result.isel(side=side), look(str(result["defence"].values[side]))
        heights = [float(one[name]) for name in ERRORS]
        hatch = "//" if side else ""
        bars = axes.bar(place + shift, heights, 0.37, color=style.color, hatch=hatch, edgecolor="w", label=style.label)
        axes.bar_label(bars, [f"{height:.2f}" for height in heights], fontsize=8, padding=2)
    axes.set_xticks(place, list(ERRORS.values()))
    axes.set(ylim=(0, 1.08), title="Errors: empirical against certified")
    axes.legend(loc="upper left")


def _losses(axes: Axes, result: xr.Dataset) -> None:
    """The loss each defence minimises, along its training."""
    for side in range(2):
        one, style = result.isel(side=side), look(str(result["defence"].values[side]))
        axes.plot(
            one["epoch"],
            one["loss"].where(np.isfinite(one["loss"])),
            color=style.color,
            linestyle=style.dash,
            label=style.label,
        )
    axes.set(xlabel="epoch", ylim=(0, None))
    axes.set_title("Training loss of each (its own)", fontsize=9)
