"""Animations: a figure that is drawn again for every frame, written as GIF."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure

from simulator.plots.style import styled

LARGEST = 2_000_000
"""Bytes an animation may have, so that a page with it opens quickly."""


@dataclass(frozen=True)
class Film:
    """What is shown, frame by frame."""

    figure: Figure
    draw: Callable[[int], None]
    """Draws a frame, counted from 0, in place of the one before."""
    frames: int
    rate: int = 10
    """Frames per second."""


def save_film(film: Film, path: Path, dpi: int = 80) -> None:
    """Write a film as GIF that starts over at its end.  Frames that are alike take no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with styled():
        writer = PillowWriter(fps=film.rate)
        with writer.saving(film.figure, path, dpi):
            for frame in range(film.frames):
                film.draw(frame)
                writer.grab_frame()
