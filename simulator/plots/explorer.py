"""The picture of the explorer: two defences side by side, and their errors against what is certified.

It is drawn anew at every move of a control, so what is the same in all pictures, the axes with their numbers and the
key of signs, is drawn once: `png` puts what a setting changes upon it.
"""

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon

from simulator.plots.plane import CLASSES, arrow, points, region
from simulator.plots.style import SIGNAL, TRUTH, look, styled

ATTACK, DUAL = look("adversarial").color, look("coap").color
"""Of the attack's perturbation and the dual one, as in the other figures."""
ERRORS = {"standard_error": "standard", "robust_error": "robust\n(attack)", "certified_error": "certified\n(bound)"}
"""Variable -> what is written below its bars."""
_BINS = np.linspace(-1, 1, 41)

Values = Mapping[str, np.ndarray]
"""What is shown of one defence, or of the data, by name."""


def explorer(
    sides: Sequence[tuple[str, Values]], scenery: Values, epochs: Sequence[int], *, reach: float, truth: float
) -> Figure:
    """Above: the region each defence learns, with perturbations in it, and the errors of both.  Below: how the
    perturbations are aligned with the signal on fresh examples, and the losses along training.

    `sides` are two defences by name, with what `simulator.explorer.Live` answers of each, and `scenery` is what it says
    of the data; `epochs` are those of the losses, `reach` is half the side of the drawn square, and `truth` the radius
    of the true boundary, infinite where it is a line.
    """
    with styled():
        figure, axes = _empty()
        for column, (name, side) in enumerate(sides):
            _region(axes[0, column], name, side, reach)
            _scenery(axes[0, column], scenery, reach, truth)
            _perturbations(axes[0, column], side)
            _cosines(axes[1, column], name, side)
        _errors(axes[0, 2], sides)
        _losses(axes[1, 2], sides, epochs)
    return figure


def explorer_scenery(names: Sequence[str], scenery: Values, *, reach: float, truth: float) -> Figure:
    """The same picture before anything is trained: data, true boundary, signal direction and set of perturbations."""
    with styled():
        figure, axes = _empty()
        for column, name in enumerate(names):
            _scenery(axes[0, column], scenery, reach, truth)
            axes[0, column].set_title(f"{look(name).label}: not trained yet")
        axes[1, 2].set_axis_off()
    return figure


def _empty() -> tuple[Figure, Any]:
    """A picture of nothing, which leaves free what `explorer_frame` shows, and its axes [2, 3]."""
    figure, axes = _frame()
    figure.patch.set_visible(False)
    for known in (*axes[0], *axes[1, :2]):
        known.patch.set_visible(False)
        known.xaxis.set_visible(False)
        known.yaxis.set_visible(False)
    return figure, axes


def _frame() -> tuple[Figure, Any]:
    """A figure and its axes: two regions and the errors above, two histograms and the losses below."""
    figure = Figure(figsize=(11.4, 6.9))
    # Placed by hand: solving for a layout takes longer than drawing.
    places = {"left": 0.045, "right": 0.985, "bottom": 0.13, "top": 0.94, "wspace": 0.22, "hspace": 0.36}
    axes = figure.subplots(2, 3, gridspec_kw={"height_ratios": (1.75, 1), **places})
    for region_axes in axes[0, :2]:
        region_axes.spines[:].set_visible(False)
    axes[0, 2].set(xlim=(-0.5, len(ERRORS) - 0.5), ylim=(0, 1.08), yticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
    for histogram in axes[1, :2]:
        histogram.set(xlim=(-1.02, 1.02), ylim=(0, 1.05), xticks=(-1, -0.5, 0, 0.5, 1), yticks=(0, 0.5, 1))
    return figure, axes


@lru_cache
def explorer_frame(dpi: int = 100) -> Any:
    """The pixels of what no setting changes, drawn the first time only."""
    with styled():
        figure, axes = _frame()
        figure.set_dpi(dpi)
        figure.legend(handles=_key(), loc="lower center", ncols=8, fontsize=8.5, handletextpad=0.4, columnspacing=1.3)
        axes[0, 2].set_xticks(range(len(ERRORS)), list(ERRORS.values()))
        axes[0, 2].set_title("Errors: empirical against certified")
        for histogram in axes[1, :2]:
            histogram.set_xlabel("cos(a, δ), share of test examples")
        for drawn_anew in (*axes[0, :2], axes[1, 2]):
            drawn_anew.set_axis_off()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return canvas.copy_from_bbox(figure.bbox)


def png(figure: Figure, dpi: int = 100) -> bytes:
    """A picture of the explorer as the bytes of a PNG."""
    buffer = io.BytesIO()
    with styled():
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.restore_region(explorer_frame(dpi))
        figure.draw(canvas.get_renderer())
        imsave(buffer, canvas.buffer_rgba(), format="png")
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


def _region(axes: Axes, name: str, side: Values, reach: float) -> None:
    """The learnt region."""
    across = np.linspace(-reach, reach, side["margin_map"].shape[0])
    region(axes, across, across, side["margin_map"])
    below: Any = {"transform": axes.transAxes, "horizontalalignment": "center", "verticalalignment": "top"}
    cosines = (_number(side[f"cosine_shown_{kind}"]) for kind in ("attack", "dual"))
    axes.text(0.5, -0.03, "cos(a, attack) = {},  cos(a, COAP dual) = {}".format(*cosines), fontsize=9, **below)
    title = f"{look(name).label}: standard {_number(side['standard_error'])}, robust {_number(side['robust_error'])}"
    axes.set_title("training diverged" if side["diverged"] else title)


def _scenery(axes: Axes, scenery: Values, reach: float, truth: float) -> None:
    """The data, and at one example the signal and the set of perturbations."""
    points(axes, scenery["x"], scenery["y"], size=14)
    _truth(axes, truth)
    place = scenery["place"]
    outline = place + scenery["outline"]
    axes.add_patch(Polygon(outline, facecolor="#BBBBBB", alpha=0.6, edgecolor="k", linewidth=1.2, zorder=4))
    axes.plot(*place, "k.", ms=6, zorder=5)
    arrow(axes, place, scenery["signal"], SIGNAL)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _perturbations(axes: Axes, side: Values) -> None:
    """At the example that is explained in full, at others the attack alone."""
    places, attack, dual = side["places"], side["attack"], side["dual"]
    for place, delta in zip(places[1:], attack[1:], strict=True):
        arrow(axes, place, delta, ATTACK, width=0.9)
    # The dual is drawn wider, below the attack, so that both show where they agree.
    arrow(axes, places[0], dual[0], DUAL, width=4.0)
    arrow(axes, places[0], attack[0], ATTACK)


def _truth(axes: Axes, radius: float) -> None:
    """The true boundary: a circle, or the line u = 0."""
    style: Any = {"linestyle": ":", "linewidth": 2, "color": TRUTH, "zorder": 2}
    if np.isfinite(radius):
        axes.add_patch(Circle((0, 0), radius, fill=False, **style))
    else:
        axes.axvline(0, **style)


def _number(value: np.ndarray) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "undefined"


def _cosines(axes: Axes, name: str, side: Values) -> None:
    """Shares of the test examples by their cosine with the signal: the attack's filled, the dual's as an outline."""
    kinds: Any = (
        ("attack", {"color": ATTACK, "alpha": 0.55, "histtype": "stepfilled"}),
        ("dual", {"color": DUAL, "histtype": "step", "lw": 2}),
    )
    for kind, style in kinds:
        values = side[f"cosine_{kind}"]
        known = values[np.isfinite(values)]
        axes.hist(known, list(_BINS), weights=np.full(len(known), 1 / len(values)), **style)
    means = [_number(side[f"alignment_{kind}"]) for kind in ("attack", "dual")]
    axes.set_title(f"{look(name).label}: mean {means[0]} attack, {means[1]} dual", fontsize=9)


def _errors(axes: Axes, sides: Sequence[tuple[str, Values]]) -> None:
    """Bars of both defences: what is wrong, what is found wrong, what is not proven right."""
    place = np.arange(len(ERRORS))
    for (name, side), shift, hatch in zip(sides, (-0.2, 0.2), ("", "//"), strict=True):
        heights, style = [float(side[error]) for error in ERRORS], look(name)
        bars = axes.bar(place + shift, heights, 0.37, color=style.color, hatch=hatch, edgecolor="w", label=style.label)
        axes.bar_label(bars, [f"{height:.2f}" for height in heights], fontsize=8, padding=2)
    axes.legend(loc="upper left")


def _losses(axes: Axes, sides: Sequence[tuple[str, Values]], epochs: Sequence[int]) -> None:
    """The loss each defence minimises, along its training."""
    for name, side in sides:
        loss, style = np.where(np.isfinite(side["loss"]), side["loss"], np.nan), look(name)
        axes.plot(epochs, loss, color=style.color, linestyle=style.dash, label=style.label)
    axes.set(xlabel="epoch", ylim=(0, None))
    axes.set_title("Training loss of each (its own)", fontsize=9)
