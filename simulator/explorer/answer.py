"""What a setting came to: sent from the process that computes to the page."""

from dataclasses import dataclass

import numpy as np

from simulator.explorer.controls import Controls

Side = dict[str, np.ndarray]
"""What one defence came to: the metrics of `metrics.evaluate`, and what the picture shows of it."""
Scenery = dict[str, np.ndarray]
"""What the picture shows of a setting before anything is trained: see `programs.scenery`."""


@dataclass(frozen=True)
class Answer:
    """Both defences of a setting."""

    controls: Controls
    scenery: Scenery
    left: Side
    right: Side
    epochs: list[int]
    """Those after which losses were recorded."""
    seconds: float
    """To draw, train and measure."""
    compile_seconds: float
    """Of waiting for programs before; 0 if there were all."""

    @property
    def sides(self) -> tuple[tuple[str, Side], tuple[str, Side]]:
        """Both by the names of the defences, which may be the same."""
        return (self.controls.left, self.left), (self.controls.right, self.right)
