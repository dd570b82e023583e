"""Running chunks: from a compiled program to the cells of each box, failures included."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray

from simulator.sweep.grid import Box, Chunk, Coords, Grid, GridError
from simulator.sweep.hosted import HostedProgram
from simulator.sweep.program import Cell, Program, devices, filling, program_of

STATUSES = ("ok", "not_run", "diverged", "failed")
"""What may have become of a cell."""


@dataclass
class Filled:
    """The cells of one box: every variable and "status", with the grid's axes leading."""

    box: Box
    values: dict[str, np.ndarray]


@dataclass
class Outcome:
    """What running a chunk gave."""

    boxes: list[Filled]
    cells: int
    """Cells that were run, whatever became of them."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """For each row that raised: its coordinates and the first line of the message."""
    prepare_seconds: float = 0.0
    """Of the first stage of a cell in two stages."""


def dtype_of(leaf: jax.ShapeDtypeStruct) -> np.dtype:
    """The type a variable is kept in: always a float, since a NaN marks a cell that is not ok."""
    return np.dtype(leaf.dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else np.float32)


def variables(grid: Grid, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Name -> (dimensions, shape and type of one cell) of what is kept of a cell's outputs.

    Raises `GridError` if an array-valued variable lacks names for its dimensions.
    """
    kept = {name: leaf for name, leaf in outputs.items() if name != "diverged"}
    return {
        name: (grid.dims_of(name, len(leaf.shape)), jax.ShapeDtypeStruct(leaf.shape, dtype_of(leaf)))
        for name, leaf in kept.items()
    }


Row = tuple[int, ...]
Values = dict[str, np.ndarray]
"""Variable -> its values over a box or a grid."""
Outputs = Mapping[str, jax.ShapeDtypeStruct]


def rows_of(grid: Grid, chunk: Chunk) -> list[Row]:
    """The wanted rows of a chunk, box by box."""
    return [row for box in chunk.boxes for row in grid.rows(chunk.block, box)]


def run_chunk(program: Program | HostedProgram, key: PRNGKeyArray, chunk: Chunk) -> Outcome:
    """Run a chunk.  If its program raises (out of memory, for instance), each row is tried alone.

    A row that still raises is recorded as failed with its coordinates; the others are kept.
    """
    rows = rows_of(program.grid, chunk)
    began, prepared = time.perf_counter(), 0.0
    errors: dict[int, BaseException] = {}
    try:
        shared = program.share(key, rows)
        prepared = time.perf_counter() - began
        values = program(key, rows, shared)
    except jax.errors.JaxRuntimeError as error:
        found = [error] if len(rows) == 1 else [_tried(program, key, row) for row in rows]
        values, errors = stack(program.grid, program.outputs, found)
    boxes, failures = assemble(program.grid, program.outputs, chunk, values, errors)
    return Outcome(boxes, len(rows) * program.grid.per_row, failures, prepared)


def run_row(program: Program | HostedProgram, key: PRNGKeyArray, row: Row) -> Values:
    """The values of one row; raises whatever its program raises."""
    return {name: np.asarray(value[0]) for name, value in program(key, [row]).items()}


def _tried(program: Program | HostedProgram, key: PRNGKeyArray, row: Row) -> Values | BaseException:
    try:
        return run_row(program, key, row)
    except jax.errors.JaxRuntimeError as error:
        return error


def stack(
    grid: Grid, outputs: Outputs, found: Sequence[Values | BaseException]
) -> tuple[Values, dict[int, BaseException]]:
    """Values of single rows along a new leading axis, zeros for those that raised, and what these raised."""
    errors = {at: one for at, one in enumerate(found) if isinstance(one, BaseException)}
    lead = (grid.per_row,) if grid.inner else ()
    values = {name: np.zeros((len(found), *lead, *leaf.shape), leaf.dtype) for name, leaf in outputs.items()}
    for at, one in enumerate(found):
        if not isinstance(one, BaseException):
            for name, value in one.items():
                values[name][at] = value
    return values, errors


def assemble(
    grid: Grid, outputs: Outputs, chunk: Chunk, values: Values, errors: Mapping[int, BaseException]
) -> tuple[list[Filled], list[dict[str, str]]]:
    """The boxes of a chunk, and its failures, from the values of its rows (in the order of `rows_of`)."""
    boxes, first = [], 0
    failures = []
    for box in chunk.boxes:
        rows = grid.rows(chunk.block, box)
        own = {name: value[first : first + len(rows)] for name, value in values.items()}
        ran = np.array([first + at not in errors for at in range(len(rows))], dtype=bool)
        boxes.append(_fill(grid, outputs, box, rows, own, ran))
        for at in np.flatnonzero(~ran):
            where = _words({**chunk.block, **grid.row_coords(rows[at])})
            failures.append({"cell": where, "error": first_line(errors[first + int(at)])})
        first += len(rows)
    return boxes, failures


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _words(coords: Coords) -> str:
    return ", ".join(f"{name} = {value}" for name, value in coords.items())


def _fill(grid: Grid, outputs: Outputs, box: Box, rows: Sequence[Row], values: Values, ran: np.ndarray) -> Filled:
    """Lay rows out in their box; what was not run or is not ok is NaN."""
    # Axes of the box in the order in which a row, and then its inner values, have them; then the static ones.
    order = [grid.names.index(name) for name in ("trial", *grid.leaves, *((grid.inner,) if grid.inner else ()))]
    rest = [axis for axis in range(len(grid.names)) if axis not in order]
    status = np.full(box.shape, "not_run", dtype=object)
    kept = {name: leaf for name, leaf in outputs.items() if name != "diverged"}
    filled = {name: np.full((*box.shape, *leaf.shape), np.nan, dtype_of(leaf)) for name, leaf in kept.items()}
    place = tuple(np.array(rows).T - np.array([box.starts[axis] for axis in order[: len(rows[0])]])[:, None])
    cells = (len(rows), grid.per_row) if grid.inner else (len(rows),)
    came = np.broadcast_to(ran.reshape(-1, *([1] * (len(cells) - 1))), cells)
    diverged = np.broadcast_to(values.get("diverged", np.zeros(cells, bool)), cells)
    words = np.where(came, np.where(diverged, "diverged", "ok"), "failed").astype(object)
    # Views with a row's axes first: what is written to them lands in the arrays.
    _rows_first(status, order, rest)[place] = words
    for name, array in filled.items():
        good = (came & ~diverged).reshape(cells + (1,) * (values[name].ndim - len(cells)))
        _rows_first(array, order, rest)[place] = np.where(good, values[name].astype(array.dtype), np.nan)
    return Filled(box, {"status": status, **filled})


def _rows_first(array: np.ndarray, order: list[int], rest: list[int]) -> np.ndarray:
    """A view with the axes `order` first and the static ones, of one position each, dropped."""
    trailing = range(len(order) + len(rest), array.ndim)
    moved = array.transpose(*order, *rest, *trailing)
    return moved.squeeze(axis=tuple(range(len(order), len(order) + len(rest))))


def empty(grid: Grid, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> xr.Dataset:
    """The full grid in memory with every cell `not_run` and NaN."""
    arrays: dict[str, Any] = {"status": (grid.names, np.full(grid.shape, "not_run", dtype=object))}
    for name, (dims, leaf) in variables(grid, outputs).items():
        arrays[name] = (dims, np.full((*grid.shape, *leaf.shape), np.nan, leaf.dtype))
    return xr.Dataset(arrays, grid.coordinates())


def run(grid: Grid, cell: Cell, key: PRNGKeyArray, tick: Callable[[int], None] = lambda cells: None) -> xr.Dataset:
    """Compile and run the whole grid in memory; failures are listed in the attribute `failures`."""
    layout = grid.layout(devices(), least=filling())
    result: xr.Dataset | None = None
    program: Program | HostedProgram | None = None
    for chunk in grid.chunks(layout):
        if program is None or program.block != chunk.block:
            program = program_of(grid, cell, chunk.block, layout.rows[grid.blocks().index(chunk.block)])
        result = empty(grid, program.outputs) if result is None else result
        outcome = run_chunk(program, key, chunk)
        for filled in outcome.boxes:
            for name, values in filled.values.items():
                result[name].values[filled.box.slices] = values
        if outcome.failures:
            result.attrs.setdefault("failures", []).extend(outcome.failures)
        tick(outcome.cells)
    if result is None:
        raise GridError("no cell of the grid is wanted: nothing to run")
    return result


def time_rows(program: Program, key: PRNGKeyArray, most_seconds: float = 1.0) -> float:
    """Seconds all devices together need for one row of a block, measured by running its first rows.

    One pass of every device first; if that was quick, as many as fit in `most_seconds`, since a call has a price too.
    """
    rows = program.grid.rows(program.block)[: program.rows]
    # Once for all, since what the first stage costs does not depend on how many rows follow.
    shared = program.share(key, rows)

    def seconds_for(count: int) -> float:
        began = time.perf_counter()
        program(key, rows[:count], shared)
        return time.perf_counter() - began

    once = min(len(rows), program.at_once * devices())
    seconds = seconds_for(once)
    many = min(len(rows), once * int(most_seconds / seconds))
    return seconds_for(many) / many if many > once else seconds / once
