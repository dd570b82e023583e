"""Two-dimensional data: examples, vectors and decision regions, for figures and notebooks."""

from matplotlib.axes import Axes

from simulator.plots.style import INNER, OUTER

CLASSES = ((1, INNER, "o", "y = +1"), (-1, OUTER, "s", "y = −1"))
"""Label, colour, marker and name of each class."""


def points(axes: Axes, x, y, size: float = 16) -> None:
    """Examples x [n, 2] with labels y [n] in {-1, +1}, each class in its colour, marker and name."""
    for sign, color, marker, name in CLASSES:
        own = x[y == sign]
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=size,
            c=color,
            marker=marker,
            edgecolors="white",
            linewidths=0.5,
            zorder=3,
            label=name,
        )


def arrow(axes: Axes, start, vector, color: str, width: float = 1.8) -> None:
    """An arrow from a point [2] along a vector [2], to scale."""
    begin = float(start[0]), float(start[1])
    end = begin[0] + float(vector[0]), begin[1] + float(vector[1])
    line = {"arrowstyle": "-|>", "color": color, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=begin, zorder=6, arrowprops=line)


def region(axes: Axes, u, v, margin) -> None:
    """What a classifier predicts over a grid: margin [v, u] = logit of y = +1 minus logit of y = -1, by its sign."""
    axes.contourf(u, v, margin, levels=[-1e30, 0, 1e30], colors=(OUTER, INNER), alpha=0.3)
