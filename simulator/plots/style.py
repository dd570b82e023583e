"""One look for every figure: a defence has the same colour, marker and name everywhere."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.plots.panel import alone


@dataclass(frozen=True)
class Look:
    """How a defence is drawn."""

    label: str
    color: str
    marker: str
    dash: str | tuple


# Colours of Okabe and Ito (2008), distinguishable with every common colour blindness; markers as in the talk.
DEFENCES = {
    "standard": Look("ST", "#555555", "s", (0, (1, 1))),
    "adversarial": Look("AT", "#0072B2", "o", "-"),
    "coap": Look("COAP", "#D55E00", "D", (0, (5, 1))),
    "crown-ibp": Look("CROWN-IBP", "#E69F00", "X", (0, (3, 1, 1, 1))),
    "ibp": Look("IBP", "#009E73", "^", (0, (5, 1, 1, 1, 1, 1))),
    "sabr": Look("SABR", "#56B4E9", "v", "-"),
    "cc-ibp": Look("CC-IBP", "#8C510A", "<", "-"),
    "mtl-ibp": Look("MTL-IBP", "#882255", ">", "-"),
    "exp-ibp": Look("Exp-IBP", "#999933", "p", "-"),
}
"""The looks of defences by name."""
PAIR = ("coap", "adversarial")
"""The defences whose difference figures show as the gap."""
INNER, OUTER, SIGNAL, TRUTH = "#F0C419", "#1F3A6E", "#B2182B", "#000000"
"""Of the classes y = +1 and y = -1, the signal direction and the true boundary."""

_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 100,
    "figure.titlesize": "medium",
    "axes.titlesize": "medium",
    # Large for the size of a figure: figures are shown smaller than they are drawn, on slides and in columns.
    "font.size": 12,
    "legend.fontsize": "medium",
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "savefig.dpi": 150,
    # Text stays text in SVG, and ids do not change from one run to the next.
    "svg.fonttype": "none",
    "svg.hashsalt": "simulator",
}


_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def styled() -> Iterator[None]:
    """The project's style, without touching the caller's.  Threads wait for each other: a process has one style."""
    with _ONE_AT_A_TIME, mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **_STYLE}):
        yield


def look(defence: str) -> Look:
    """The look of a defence; one of your own gets a neutral one."""
    return DEFENCES.get(defence, Look(defence, "#CC79A7", "P", "-"))


def curve(axes: Axes, defence: str, x, mean, sem=None, markers: bool = True) -> None:
    """A defence's mean with a band of +-1 standard error over trials."""
    style = look(defence)
    marker = style.marker if markers else ""
    axes.plot(x, mean, color=style.color, marker=marker, linestyle=style.dash, label=style.label)
    if sem is not None:
        axes.fill_between(x, mean - sem, mean + sem, color=style.color, alpha=0.18, linewidth=0)


def published(axes: Axes, defence: str, values: dict) -> None:
    """Published values: open markers of the defence's shape, behind ours."""
    style = look(defence)
    axes.plot(
        list(values), list(values.values()), style.marker, mfc="none", mec=style.color, alpha=0.75, ms=8, zorder=1.5
    )


def nothing_to_draw() -> Figure:
    """What stands in place of a figure none of whose cells is ok."""
    with styled():
        figure = Figure(figsize=(6, 1))
        figure.text(0.5, 0.5, "no cell of this run is ok: nothing to draw", ha="center")
    return figure


def _fix_layout(figure: Figure) -> None:
    """Solve the layout once and round it: the solver's last digit differs from run to run."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position().bounds, 6))


def save(
    figure: Figure, stem: Path, about: str | None = None, alt: str | None = None, panel: int | None = None
) -> list[Path]:
    """Write `stem`.svg and `stem`.png with reproducible bytes (no dates, fixed ids); both keep `about` inside.

    The SVG has `alt`, what the figure shows, as its title, which screen readers say.  With a number of a `panel`, from
    1 on, that panel alone.  Raises `PanelError` if there is no such panel.
    """
    paths = []
    with styled():
        _fix_layout(figure)
        cut = None if panel is None else alone(figure, panel)
        stem.parent.mkdir(parents=True, exist_ok=True)
        own: dict[str, dict[str, str | None]] = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
        if alt is not None:
            own[".svg"]["Title"] = alt
        for suffix, metadata in own.items():
            buffer = io.BytesIO()
            described = {} if about is None else {"Description": about}
            figure.savefig(buffer, format=suffix[1:], metadata={**metadata, **described}, bbox_inches=cut)
            path = stem.with_name(stem.name + suffix)
            path.write_bytes(buffer.getvalue())
            paths.append(path)
    return paths
