"""Sweeps: a grid of named axes to an `xarray.Dataset`, with no knowledge of what a cell computes.

A cell is `cell(coords, key) -> {name: scalar or small array}`.  An axis is either

- *static*: its values change shapes or code, so it is a Python loop with one compiled program per combination; or
- a *leaf*: its values are array leaves of one program.

Inside a program, rows (a trial and one value per leaf axis but one) are split over all local devices and mapped one
after the other; the remaining *inner* axis is vectorised, so that what does not depend on it (data, test points) is
computed once per row.  Cells of one trial get the same key, hence share their data and initialisation: differences
along every other axis lose that noise (common random numbers).

Every result carries `status`: ok, diverged (the cell said so), failed (its program raised) or not_run.  A cell that is
not ok is NaN in every variable, and is excluded, loudly, from every mean.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

STATUSES = ("ok", "not_run", "diverged", "failed")

Coords = dict[str, Any]
Cell = Callable[[Coords, PRNGKeyArray], dict[str, Array]]


class GridError(ValueError):
    """A grid that cannot be run, in one sentence."""


@dataclass(frozen=True)
class Grid:
    """Named axes and how to walk them; `trials` adds the axis "trial"."""

    axes: Mapping[str, Sequence]
    """Name -> values, in the order of the result's dimensions."""
    trials: int
    static: tuple[str, ...] = ()
    inner: str | None = None
    """The leaf axis that is vectorised."""
    wanted: Callable[[Coords], bool] = lambda coords: True
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
    def leaves(self) -> tuple[str, ...]:
        """The leaf axes that make up a row, besides the trial."""
        return tuple(name for name in self.axes if name not in self.static and name != self.inner)

    @property
    def cells(self) -> int:
        """Cells of the full grid, wanted or not."""
        return int(np.prod([len(values) for values in self.axes.values()], dtype=float)) * self.trials

    def blocks(self) -> list[Coords]:
        """Every combination of static coordinates."""
        return [dict(zip(self.static, c, strict=True)) for c in itertools.product(*(self.axes[s] for s in self.static))]

    def rows(self, block: Coords) -> list[Coords]:
        """The wanted rows of a block: trials outermost, then the leaf axes in order."""
        values = itertools.product(range(self.trials), *(self.axes[name] for name in self.leaves))
        rows = [dict(zip(("trial", *self.leaves), row, strict=True)) for row in values]
        return [row for row in rows if self.wanted({**block, **row})]


@dataclass(frozen=True)
class Program:
    """One compiled block of the grid."""

    block: Coords
    rows: list[Coords]
    chunk: int
    """Rows per call; a multiple of the number of devices."""
    run: Callable
    compile_seconds: float
    peak_bytes: int
    """Temporary and output memory of one call, by the compiler's own analysis."""
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    """Variables of one cell."""


def trial_key(key: PRNGKeyArray, trial) -> PRNGKeyArray:
    """The key every cell of a trial receives."""
    return jr.fold_in(key, trial)


def devices() -> int:
    """Local devices the rows are split over."""
    return len(jax.local_devices())


def _chunk(rows: int) -> int:
    """Rows per call: at most 20 calls a program, every device busy in each."""
    count = devices()
    return count * max(1, -(-rows // (20 * count)))


def _row_function(grid: Grid, cell: Cell, block: Coords):
    """(key, row, inner values) -> outputs of the row's cells, with the inner axis in front."""

    def run_row(key, row, inner):
        leaves = {name: row[name] for name in grid.leaves}
        coords, same_key = {**block, **leaves}, trial_key(key, row["trial"])
        if grid.inner is None:
            return cell(coords, same_key)
        name = grid.inner
        return jax.vmap(lambda value: cell({**coords, name: value}, same_key))(inner)

    return run_row


def _program_function(grid: Grid, cell: Cell, block: Coords):
    run_row = _row_function(grid, cell, block)

    def run_rows(key, rows, inner):
        return jax.lax.map(lambda row: run_row(key, row, inner), rows)

    if devices() == 1:
        return run_rows
    mesh = _mesh()
    split, whole = PartitionSpec("rows"), PartitionSpec()
    return jax.shard_map(run_rows, mesh=mesh, in_specs=(whole, split, whole), out_specs=split, check_vma=False)


def _mesh():
    return jax.make_mesh((devices(),), ("rows",), axis_types=(AxisType.Auto,), devices=jax.local_devices())


def _row_arrays(grid: Grid, rows: list[Coords]) -> dict[str, Array]:
    trial = jnp.asarray([row["trial"] for row in rows], jnp.uint32)
    return {"trial": trial, **{name: _leaf_array([row[name] for row in rows]) for name in grid.leaves}}


def _leaf_array(values: Sequence) -> Array:
    """Values as an array leaf: floats, unless they are integers by type."""
    if all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in values):
        return jnp.asarray(values, jnp.int32)
    return jnp.asarray(values, jnp.result_type(float))


def _inner(grid: Grid) -> Array:
    return _leaf_array(grid.axes[grid.inner]) if grid.inner else jnp.zeros(())


def compile_block(grid: Grid, cell: Cell, block: Coords) -> Program:
    """Trace and compile one block, and read off its outputs and memory; nothing is run."""
    rows = grid.rows(block)
    chunk, key = _chunk(len(rows)), jr.key(0)
    function = _program_function(grid, cell, block)
    arguments = (key, _row_arrays(grid, (rows * chunk)[:chunk]), _inner(grid))
    began = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    lead = 1 if grid.inner is None else 2
    outputs = {
        name: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype) for name, leaf in sorted(lowered.out_info.items())
    }
    analysis = compiled.memory_analysis()
    peak = analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis is not None else 0
    return Program(block, rows, chunk, compiled, seconds, int(peak), outputs)


def empty(grid: Grid, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> xr.Dataset:
    """The full grid with every cell `not_run` and NaN."""
    names = (*grid.axes, "trial")
    sizes = [*(len(values) for values in grid.axes.values()), grid.trials]
    variables: dict[str, Any] = {"status": (names, np.full(sizes, "not_run", dtype=object))}
    for name, leaf in outputs.items():
        if name == "diverged":
            continue
        dims = grid.dims.get(name, grid.shared_dims)
        if len(dims) != len(leaf.shape):
            raise GridError(
                f"the cell returns {name!r} of shape {leaf.shape}: name its dimensions in dims (got {dims})"
            )
        # A NaN marks the cells that are not ok, so whole numbers and booleans become floats.
        dtype = leaf.dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else np.float32
        variables[name] = ((*names, *dims), np.full((*sizes, *leaf.shape), np.nan, dtype))
    coords = {name: _coordinate(values) for name, values in {**grid.axes, **grid.coords}.items()}
    return xr.Dataset(variables, {**coords, "trial": np.arange(grid.trials)})


def _coordinate(values: Sequence) -> np.ndarray:
    """Values as a coordinate; text as objects, since stores have no standard form for fixed-width text."""
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind == "U" else array


def run_block(
    grid: Grid,
    program: Program,
    key: PRNGKeyArray,
    result: xr.Dataset,
    tick: Callable[[int], None] = lambda cells: None,
) -> None:
    """Run one program and fill its cells of `result` in place; `tick(cells)` is called after each chunk.

    A chunk whose program raises (out of memory, for instance) is recorded as failed, and the others still run.
    """
    inner = _inner(grid)
    per_row = len(grid.axes[grid.inner]) if grid.inner else 1
    for start in range(0, len(program.rows), program.chunk):
        rows = program.rows[start : start + program.chunk]
        padded = (rows * program.chunk)[: program.chunk]
        try:
            values = jax.device_get(program.run(*_placed(key, _row_arrays(grid, padded), inner)))
        except jax.errors.JaxRuntimeError as error:
            result.attrs.setdefault("failures", []).append(f"{program.block}: {str(error).splitlines()[0]}")
            values = None
        for position, row in enumerate(rows):
            _fill(grid, result, {**program.block, **row}, values, position)
        tick(len(rows) * per_row)


def _placed(key, rows, inner):
    """Arguments with the sharding the program was compiled for."""
    if devices() == 1:
        return key, rows, inner
    mesh = _mesh()
    whole = NamedSharding(mesh, PartitionSpec())
    return (
        jax.device_put(key, whole),
        jax.device_put(rows, NamedSharding(mesh, PartitionSpec("rows"))),
        jax.device_put(inner, whole),
    )


def _row_index(grid: Grid, row: Coords, name: str) -> int:
    """Where a row lies along an axis."""
    return row["trial"] if name == "trial" else list(grid.axes[name]).index(row[name])


def _fill(grid: Grid, result: xr.Dataset, row: Coords, values: dict | None, position: int) -> None:
    index = tuple(slice(None) if name == grid.inner else _row_index(grid, row, name) for name in (*grid.axes, "trial"))
    if values is None:
        result["status"].values[index] = "failed"
        return
    diverged = np.asarray(values["diverged"][position] if "diverged" in values else False)
    result["status"].values[index] = np.where(diverged, "diverged", "ok").astype(object)
    for name, value in values.items():
        if name != "diverged":
            cell = np.asarray(value[position], result[name].dtype)
            gone = np.reshape(diverged, np.shape(diverged) + (1,) * (cell.ndim - np.ndim(diverged)))
            result[name].values[index] = np.where(gone, np.nan, cell)


def run(grid: Grid, cell: Cell, key: PRNGKeyArray, tick: Callable[[int], None] = lambda cells: None) -> xr.Dataset:
    """Compile and run the whole grid in memory; see the module docstring for what comes back."""
    result = None
    for block in grid.blocks():
        if grid.rows(block):
            program = compile_block(grid, cell, block)
            result = empty(grid, program.outputs) if result is None else result
            run_block(grid, program, key, result, tick)
    if result is None:
        raise GridError("no cell of the grid is wanted: nothing to run")
    return result


def time_one_row(grid: Grid, cell: Cell, block: Coords) -> float:
    """Seconds one device needs for one row of a block, measured by running a row (compilation excluded)."""
    rows = grid.rows(block)[:1]
    run_row = jax.jit(_row_function(grid, cell, block))
    row = {name: value[0] for name, value in _row_arrays(grid, rows).items()}
    compiled = run_row.lower(jr.key(0), row, _inner(grid)).compile()
    began = time.perf_counter()
    jax.block_until_ready(compiled(jr.key(0), row, _inner(grid)))
    return time.perf_counter() - began
