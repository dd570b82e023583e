"""A panel of a figure by itself, with the words that it shared with others."""

from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.transforms import Bbox


class PanelError(ValueError):
    """A figure has no panel of that number."""


def alone(figure: Figure, number: int) -> Bbox:
    """Hide all of a figure whose layout is fixed but one panel, and return where that lies, in inches.

    Panels are counted from 1, line by line.  The panel gets the title and the labels that only those at the edge of the
    figure have, and a legend of its own.  Raises `PanelError` if there is no such panel.
    """
    bars = {bar for axes in figure.axes for bar in _bars(axes)}
    panels = [axes for axes in figure.axes if axes not in bars]
    if not 1 <= number <= len(panels):
        raise PanelError(f"panel is {number}: the figure has the panels 1 to {len(panels)}")
    chosen = panels[number - 1]
    _complete(chosen, panels)
    shared = [legend for part in (figure, *figure.subfigs) for legend in part.legends]
    for artist in (*shared, *(text for part in (figure, *figure.subfigs) for text in part.texts)):
        artist.set_visible(False)
    for axes in figure.axes:
        axes.set_visible(axes is chosen or axes in _bars(chosen))
    if chosen.get_legend() is None:
        _explain(chosen, panels, figure, shared)
    parts = [axes.get_tightbbox() for axes in (chosen, *_bars(chosen))]
    seen = Bbox.union([part for part in parts if part is not None])
    return seen.transformed(figure.dpi_scale_trans.inverted()).padded(0.05)


def _bars(axes: Axes) -> list[Axes]:
    """The colour bars of what a panel shows."""
    return [shown.colorbar.ax for shown in (*axes.images, *axes.collections) if shown.colorbar is not None]


def _is_map(axes: Axes) -> bool:
    """Whether it shows a value at every point of a plane."""
    return bool(axes.images) or any(isinstance(shown, QuadMesh) for shown in axes.collections)


def _explain(chosen: Axes, panels: list[Axes], figure: Figure, shared: list[Legend]) -> None:
    """A legend below the panel: what the figure's legends say, or its own artists."""
    handles, labels = chosen.get_legend_handles_labels()
    # Beside curves the legend is theirs, and says nothing of a map.
    if shared and (not _is_map(chosen) or all(map(_is_map, panels))):
        handles = [handle for legend in shared for handle in legend.legend_handles if handle is not None]
        labels = [text.get_text() for legend in shared for text in legend.get_texts()]
    if labels:
        below = -0.6 * figure.dpi / chosen.get_window_extent().height
        chosen.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, below), ncols=2)


def _complete(chosen: Axes, panels: list[Axes]) -> None:
    """Title and labels from the panels of its column and its line in the same grid."""
    place = chosen.get_subplotspec()
    if place is None:
        return
    grid = [(axes, axes.get_subplotspec()) for axes in panels]
    mates = [(axes, at) for axes, at in grid if at is not None and at.get_gridspec() is place.get_gridspec()]
    column = [axes for axes, at in mates if at.colspan.start == place.colspan.start]
    line = [axes for axes, at in mates if at.rowspan.start == place.rowspan.start]
    if not chosen.get_title():
        chosen.set_title(column[0].get_title())
    if _is_map(chosen) and not _bars(chosen):
        # The bar at the end of the line says what is mapped.
        said = [bar.get_ylabel().replace("\n", " ") for axes in line for bar in _bars(axes)]
        chosen.set_title("\n".join([*said[:1], chosen.get_title()]))
    if not chosen.get_xlabel():
        chosen.set_xlabel(column[-1].get_xlabel())
    # The axis of a map says other things than that of curves.
    if not chosen.get_ylabel() and _is_map(chosen) == _is_map(line[0]):
        chosen.set_ylabel(line[0].get_ylabel())
    chosen.tick_params(labelleft=True, labelbottom=True)
