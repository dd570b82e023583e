"""Grids: named axes, which of their cells are wanted, and how they are cut into chunks.

A *block* is one combination of static values: one compiled program.  A *box* is a range of positions along every axis
within a block: what a store keeps together.  A *chunk* is a list of boxes of one block: what is computed and saved
together, and lost or kept as a whole when a run is interrupted.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

Coords = dict[str, Any]
"""Axis -> value: where a cell lies."""

CHUNKS = 20
"""About how many chunks a block is cut into: what an interruption can cost is one of them."""


class GridError(ValueError):
    """A grid that cannot be run, in one sentence."""


@dataclass(frozen=True)
class Box:
    """A range of positions along every axis; 1 position along a static one."""

    starts: tuple[int, ...]
    """In the order of `Grid.names`."""
    stops: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index of an array whose leading axes are the grid's."""
        return tuple(slice(start, stop) for start, stop in zip(self.starts, self.stops, strict=True))

    @property
    def shape(self) -> tuple[int, ...]:
        """Positions along each axis."""
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))


@dataclass(frozen=True)
class Chunk:
    """What is computed and saved together."""

    block: Coords
    boxes: tuple[Box, ...]

    @property
    def name(self) -> str:
        """Unique within the grid: where its first box starts."""
        return "-".join(str(start) for start in self.boxes[0].starts)


@dataclass(frozen=True)
class Layout:
    """How a grid is cut.  Kept with a result, so that a continued run has the same chunks, hence the same bytes."""

    extents: tuple[int, ...]
    """Positions of a box along each axis, in the order of `Grid.names`."""
    rows: tuple[int, ...]
    """The largest number of rows of a chunk, for each block."""


@dataclass(frozen=True)
class Grid:
    """Named axes and how to walk them; `trials` adds the axis "trial"."""

    axes: Mapping[str, Sequence]
    """Name -> values, in the order of the result's dimensions."""
    trials: int
    static: tuple[str, ...] = ()
    inner: str | None = None
    """The leaf axis that is vectorised."""
    wanted: Callable[[Coords], bool] | None = None
    """Which cells to run, given the static coordinates, the leaf ones but the inner, and "trial"; others: not_run."""
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the trailing dimensions of array-valued variables."""
    shared_dims: tuple[str, ...] = ()
    """The trailing dimensions of every variable that `dims` does not name."""
    coords: Mapping[str, Sequence] = field(default_factory=dict)
    """Coordinates of those trailing dimensions."""

    def __post_init__(self):
        for name in (*self.static, *((self.inner,) if self.inner else ())):
            if name not in self.axes:
                raise GridError(f"{name!r} is not an axis of the grid: the axes are {', '.join(self.axes)}")
        if self.inner in self.static:
            raise GridError(f"axis {self.inner!r} is both static and inner: an axis is one of the two")
        if "trial" in self.axes:
            raise GridError("an axis is called 'trial', which every grid has already: give it another name")
        for name, values in self.axes.items():
            if not len(values):
                raise GridError(f"axis {name!r} has no values: give at least one")
            if len(set(values)) != len(values):
                raise GridError(f"axis {name!r} repeats a value in {list(values)}: give each value once")
        if self.trials < 1:
            raise GridError(f"trials is {self.trials}: give at least 1")

    @property
    def names(self) -> tuple[str, ...]:
        """Every axis, "trial" last: the leading dimensions of each variable of the result."""
        return (*self.axes, "trial")

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values along each of `names`."""
        return (*(len(values) for values in self.axes.values()), self.trials)

    @property
    def leaves(self) -> tuple[str, ...]:
        """The leaf axes that make up a row, besides the trial."""
        return tuple(name for name in self.axes if name not in self.static and name != self.inner)

    @property
    def per_row(self) -> int:
        """Cells of a row."""
        return len(self.axes[self.inner]) if self.inner else 1

    @property
    def cells(self) -> int:
        """Cells of the full grid, wanted or not."""
        return math.prod(self.shape)

    def blocks(self) -> list[Coords]:
        """Every combination of static coordinates."""
        return [dict(zip(self.static, c, strict=True)) for c in itertools.product(*(self.axes[s] for s in self.static))]

    def value(self, name: str, position: int) -> Any:
        """The value at a position along an axis."""
        return position if name == "trial" else self.axes[name][position]

    def _whole(self, block: Coords) -> Box:
        """All cells of a block."""
        starts = [list(self.axes[name]).index(block[name]) if name in block else 0 for name in self.names]
        stops = [start + (1 if name in block else size) for name, start, size in self._sized(starts)]
        return Box(tuple(starts), tuple(stops))

    def _sized(self, starts: Sequence[int]) -> Iterator[tuple[str, int, int]]:
        return zip(self.names, starts, self.shape, strict=True)

    def rows(self, block: Coords, box: Box | None = None) -> list[tuple[int, ...]]:
        """The wanted rows of a block, or of a box in it, as positions of the trial and of each of `leaves`.

        Trials are outermost, so that rows that share their data are neighbours.
        """
        box = self._whole(block) if box is None else box
        order = ("trial", *self.leaves)
        ranges = [range(box.starts[i], box.stops[i]) for i in (self.names.index(name) for name in order)]
        rows = itertools.product(*ranges)
        if self.wanted is None:
            return list(rows)
        wanted = self.wanted
        return [row for row in rows if wanted({**block, **self.row_coords(row)})]

    def count(self, block: Coords, box: Box | None = None) -> int:
        """How many rows `rows` would list."""
        if self.wanted is not None:
            return len(self.rows(block, box))
        shape = (self._whole(block) if box is None else box).shape
        return math.prod(size for name, size in zip(self.names, shape, strict=True) if name != self.inner)

    def row_coords(self, row: tuple[int, ...]) -> Coords:
        """The coordinates of a row: "trial" and the leaf axes."""
        return {name: self.value(name, at) for name, at in zip(("trial", *self.leaves), row, strict=True)}

    def layout(self, devices: int, most: int | None = None, least: int = 1) -> Layout:
        """Cut every block into about `CHUNKS` chunks, each enough for all devices.

        They have room for `least` rows where the block has as many, and never more than `most`.
        """
        counts = [self.count(block) for block in self.blocks()]
        even = [devices * max(1, -(-count // (CHUNKS * devices))) for count in counts]
        rows = [min(max(share, min(least, count)), most or count) for share, count in zip(even, counts, strict=True)]
        return Layout(
            self._extents(min((r for r, count in zip(rows, counts, strict=True) if count), default=1)), (*rows,)
        )

    def _extents(self, rows: int) -> tuple[int, ...]:
        """Boxes of at most `rows` rows: whole leaf axes first, the trial last."""
        extent = dict.fromkeys(self.names, 1)
        if self.inner:
            extent[self.inner] = self.per_row
        for name in (*reversed(self.leaves), "trial"):
            size = self.shape[self.names.index(name)]
            parts = -(-size // max(1, rows))
            extent[name] = -(-size // parts)
            rows //= extent[name]
        return tuple(extent[name] for name in self.names)

    def chunks(self, layout: Layout) -> list[Chunk]:
        """All chunks with a wanted row, in the order of blocks, then of trials."""
        return [
            chunk
            for block, most in zip(self.blocks(), layout.rows, strict=True)
            for chunk in self._chunks_of(block, layout.extents, most)
        ]

    def _chunks_of(self, block: Coords, extents: tuple[int, ...], most: int) -> Iterator[Chunk]:
        boxes: list[Box] = []
        taken = 0
        for box in self._boxes(block, extents):
            count = self.count(block, box)
            if taken and taken + count > most:
                yield Chunk(block, tuple(boxes))
                boxes, taken = [], 0
            if count:
                boxes.append(box)
                taken += count
        if boxes:
            yield Chunk(block, tuple(boxes))

    def _boxes(self, block: Coords, extents: tuple[int, ...]) -> Iterator[Box]:
        whole = self._whole(block)
        order = [*range(len(self.names))]
        # Trials outermost here too.
        order = [order[-1], *order[:-1]]
        ranges = [range(whole.starts[i], whole.stops[i], extents[i]) for i in order]
        for starts in itertools.product(*ranges):
            placed = (*starts[1:], starts[0])
            stops = tuple(min(s + e, stop) for s, e, stop in zip(placed, extents, whole.stops, strict=True))
            yield Box(placed, stops)

    def boxes(self, extents: Sequence[int]) -> Iterator[tuple[slice, ...]]:
        """The leading axes cut into ranges of the given lengths, wanted or not, as indices of an array."""
        ranges = [range(0, size, extent) for size, extent in zip(self.shape, extents, strict=False)]
        for starts in itertools.product(*ranges):
            ends = zip(starts, extents, self.shape, strict=False)
            yield tuple(slice(start, min(start + extent, size)) for start, extent, size in ends)

    def coordinates(self) -> dict[str, np.ndarray]:
        """The coordinate of every dimension; text as objects, for which stores have a standard form."""
        arrays = {name: np.asarray(values) for name, values in {**self.axes, **self.coords}.items()}
        text = {name: array.astype(object) for name, array in arrays.items() if array.dtype.kind == "U"}
        return {**arrays, **text, "trial": np.arange(self.trials)}

    def dims_of(self, name: str, rank: int) -> tuple[str, ...]:
        """The dimensions of a variable whose cells have `rank` axes.  Raises `GridError` if they lack names."""
        dims = self.dims.get(name, self.shared_dims)
        if len(dims) != rank:
            raise GridError(f"the cell returns {name!r} with {rank} axes of its own: name them in dims (got {dims})")
        return (*self.names, *dims)


def trial_key(key: PRNGKeyArray, trial) -> PRNGKeyArray:
    """The key every cell of a trial receives."""
    return jr.fold_in(key, trial)
