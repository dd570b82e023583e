"""Cells that are no compiled program: each works for minutes to hours, keeps checkpoints and says how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from simulator.sweep.grid import Coords, Grid, trial_key


class Stopping(Exception):
    """A hosted cell was asked to stop, has kept what it had and can go on from there."""


@dataclass(frozen=True)
class Surroundings:
    """What a hosted cell may use of the run around it; by default nothing."""

    folder: Path | None = None
    """Where the cells of a study may keep files, each under names of its own.  It may not exist yet."""
    say: Callable[[str], None] = lambda sentence: None
    stopping: Callable[[], bool] = lambda: False
    """Whether the run was asked to stop: the cell then keeps what it has and raises `Stopping`."""


@dataclass(frozen=True)
class Hosted:
    """A cell that runs on the host and calls compiled programs of its own; a chunk is one such cell."""

    outputs: Callable[[Coords], Mapping[str, jax.ShapeDtypeStruct]]
    """Static coordinates -> names and shapes of the values of a cell."""
    run: Callable[[Coords, PRNGKeyArray, Surroundings], Mapping[str, Any]]
    """(coordinates, key of the trial, surroundings) -> values of the cell."""


@dataclass(frozen=True)
class HostedProgram:
    """One block of a grid of hosted cells: what a `Program` is to compiled ones."""

    grid: Grid
    block: Coords
    cell: Hosted
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    surroundings: Surroundings = Surroundings()
    rows: int = 1
    compile_seconds: float = 0.0
    """Of nothing: a hosted cell compiles what it needs when it needs it."""
    peak_bytes: int = 0

    def within(self, surroundings: Surroundings) -> "HostedProgram":
        """The same program in other surroundings."""
        return replace(self, surroundings=surroundings)

    @property
    def loaded(self) -> bool:
        """Always: there is nothing to load."""
        return True

    def unloaded(self) -> "HostedProgram":
        """The same: it takes no room."""
        return self

    def share(self, key: PRNGKeyArray, rows: list[tuple[int, ...]]) -> Any:
        """Hosted cells have no first stage."""
        del key, rows
        return ()

    def __call__(self, key: PRNGKeyArray, rows: list[tuple[int, ...]], shared: Any = ()) -> dict[str, np.ndarray]:
        """Values of the rows, in their order, one after the other."""
        del shared
        found = [self._one(key, row) for row in rows]
        return {name: np.stack([one[name] for one in found]) for name in self.outputs}

    def _one(self, key: PRNGKeyArray, row: tuple[int, ...]) -> dict[str, np.ndarray]:
        coords = {**self.block, **self.grid.row_coords(row)}
        values = self.cell.run(coords, trial_key(key, coords.pop("trial")), self.surroundings)
        if set(values) != set(self.outputs):
            raise ValueError(
                f"a hosted cell returned {', '.join(sorted(values))}, but its outputs are "
                f"{', '.join(sorted(self.outputs))}: return what was announced"
            )
        return {name: np.asarray(values[name], leaf.dtype).reshape(leaf.shape) for name, leaf in self.outputs.items()}


def hosted_block(grid: Grid, cell: Hosted, block: Coords) -> HostedProgram:
    """One block of hosted cells.  Raises `ValueError` for a grid with an inner axis, which nothing could vectorise."""
    if grid.inner is not None:
        raise ValueError(f"a hosted cell runs alone, but {grid.inner!r} is an inner axis: make it static or a leaf")
    return HostedProgram(grid, block, cell, dict(sorted(cell.outputs(block).items())))
