"""Programs: one block of a grid, compiled once, called once per chunk.

The rows of a chunk are split over all devices.  Each device walks its rows in a loop, a few at a time: how many is
chosen from the sizes of the arrays in a row, since a processor core wants what fits in its cache; an accelerator gets
up to `MOST_AT_ONCE`.  The number of rows is data, so that chunks of any length share one program.
"""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from simulator.sweep.grid import Coords, Grid, trial_key
from simulator.sweep.hosted import Hosted, HostedProgram, hosted_block

CACHE_BYTES = 1 << 17
"""Rows are vectorised on a processor while the largest array of one step stays below this: a part of a core's cache."""

MOST_AT_ONCE = 512
"""Rows vectorised at once at most."""

COMPILER_OPTIONS: dict[str, bool | int | float | str] = {
    "xla_backend_optimization_level": 2,
    "xla_cpu_prefer_vector_width": 512,
}
"""The highest level, 3, takes a tenth longer to compile and made none of the benchmarks measurably faster.  Vectors of
512 bits instead of the compiler's 256 make steps of bounds a tenth to a fifth faster where the processor has them."""


PRECISION = "highest"
"""Of matrix products: accelerators round their factors to fewer digits unless told not to, and a bound must not."""


@dataclass(frozen=True)
class Staged:
    """A cell in two stages: `prepare` computes once per trial what the cells of a trial share along the leaf axes."""

    prepare: Callable[[Coords, PRNGKeyArray], Any]
    """(static coordinates, key of the trial) -> any pytree of arrays."""
    run: Callable[[Coords, PRNGKeyArray, Any], dict[str, Array]]
    """(coordinates, key of the trial, what `prepare` returned) -> values of the cell."""


CompiledCell = Callable[[Coords, PRNGKeyArray], dict[str, Array]] | Staged
"""`cell(coords, key) -> {name: scalar or small array}`, or the same in two stages."""

Cell = CompiledCell | Hosted
"""(coords, key) -> {variable: scalar or small array}, compiled or on the host."""


@dataclass(frozen=True)
class Program:
    """A block of the grid, compiled."""

    grid: Grid
    block: Coords
    rows: int
    """Rows of a call at most."""
    at_once: int
    """Rows each device vectorises."""
    run: Callable | None
    """None once it has been unloaded."""
    prepare: Callable | None
    compile_seconds: float
    peak_bytes: int
    """Temporary and output memory of one call, by the compiler's own analysis."""
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    """Variables of one cell."""

    def __call__(self, key: PRNGKeyArray, rows: list[tuple[int, ...]], shared: Any = None) -> dict[str, np.ndarray]:
        """Values of the rows, in their order (and of the inner axis, if there is one, behind it).

        `shared` is what `share` returned for these rows; without it the first stage is run here.
        """
        if self.run is None:
            raise RuntimeError(f"the program of {self.block} has been unloaded: compile it again")
        shared = self.share(key, rows) if shared is None else shared
        trials = sorted({row[0] for row in rows})
        slots = [trials.index(row[0]) for row in rows]
        counts, leaves = _split(self.grid, rows, slots, self._buffer)
        values = jax.device_get(self.run(*_placed(key, counts, leaves, shared)))
        # Each device fills its own part of the buffer from the front.
        kept = np.concatenate([np.arange(count) + at * self._buffer for at, count in enumerate(_counts(len(rows)))])
        return {name: value[kept] for name, value in values.items()}

    def unloaded(self) -> "Program":
        """What is known of the program, without the program."""
        return replace(self, run=None, prepare=None)

    @property
    def loaded(self) -> bool:
        """Whether it can be called."""
        return self.run is not None

    @property
    def _buffer(self) -> int:
        """Rows of one device at most."""
        return -(-self.rows // devices())

    def share(self, key: PRNGKeyArray, rows: list[tuple[int, ...]]) -> Any:
        """What the first stage computes for the trials of the rows, stacked in their order; () if there is none."""
        if self.prepare is None:
            return ()
        trials, most = sorted({row[0] for row in rows}), min(self.grid.trials, self.rows)
        return jax.block_until_ready(self.prepare(key, np.array((trials * most)[:most], np.uint32)))


def devices() -> int:
    """Devices the rows are split over: all of this process, or of all processes that were joined."""
    return len(jax.devices())


def filling() -> int:
    """Rows a chunk should have at least, where its block has as many, to keep all devices busy.

    An accelerator takes as many as it may vectorise: seven cost one a third of the time of 128.
    """
    return devices() if _on_processors() else devices() * MOST_AT_ONCE


def _on_processors() -> bool:
    return jax.devices()[0].platform == "cpu"


def _mesh():
    return jax.make_mesh((devices(),), ("rows",), axis_types=(AxisType.Auto,), devices=jax.devices())


def _counts(rows: int) -> list[int]:
    """Rows of each device: as even as possible."""
    return [len(part) for part in np.array_split(np.arange(rows), devices())]


def _split(grid: Grid, rows: list[tuple[int, ...]], slots: list[int], share: int):
    """How many rows each device has, and their values, each device's part padded to `share` rows.

    In NumPy: an operation of JAX outside a program would be a program of its own, compiled at its first use.
    """
    counts = _counts(len(rows))
    starts = [sum(counts[:device]) for device in range(len(counts))]
    take = [min(start + at, len(rows) - 1) for start in starts for at in range(share)]
    places = np.array([rows[at] for at in take])
    values = {name: leaf_array(grid.axes[name])[places[:, 1 + i]] for i, name in enumerate(grid.leaves)}
    values["trial"] = places[:, 0].astype(np.uint32)
    values["slot"] = np.array([slots[at] for at in take], np.int32)
    return np.array(counts, np.int32), values


def leaf_array(values) -> np.ndarray:
    """Values as an array leaf: floats, unless they are integers by type."""
    if all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in values):
        return np.asarray(values, np.int32)
    return np.asarray(values, np.dtype(jnp.result_type(float)))


def _placed(key, counts, rows, shared):
    """Arguments with the sharding the program was compiled for."""
    if devices() == 1:
        return key, counts, rows, shared
    whole, split = NamedSharding(_mesh(), PartitionSpec()), NamedSharding(_mesh(), PartitionSpec("rows"))
    put = jax.device_put if jax.process_count() == 1 else _put_over_processes
    return put(key, whole), put(counts, split), put(rows, split), put(shared, whole)


def _put_over_processes(tree, sharding: NamedSharding):
    """Values that every process holds whole, laid out over the devices of all of them."""

    def put(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jr.wrap_key_data(put(jr.key_data(leaf)), impl=jr.key_impl(leaf))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(put, tree)


def _row_function(grid: Grid, cell: CompiledCell, block: Coords):
    """(key, row, shared) -> outputs of the row's cells, with the inner axis in front."""

    def run_cell(coords, key, shared):
        return cell.run(coords, key, shared) if isinstance(cell, Staged) else cell(coords, key)

    def run_row(key, row, shared):
        coords = {**block, **{name: row[name] for name in grid.leaves}}
        same_key = trial_key(key, row["trial"])
        own = jax.tree.map(lambda leaf: leaf[row["slot"]], shared)
        if grid.inner is None:
            return run_cell(coords, same_key, own)
        name, values = grid.inner, jnp.asarray(leaf_array(grid.axes[grid.inner]))
        return jax.vmap(lambda value: run_cell({**coords, name: value}, same_key, own))(values)

    return run_row


def _walk(run_row, at_once: int, outputs):
    """(key, [count], rows, shared) -> outputs: the first `count` rows of one device, `at_once` at a time."""

    def some(key, rows, shared, start):
        if at_once == 1:
            values = run_row(key, jax.tree.map(lambda leaf: leaf[start], rows), shared)
            return jax.tree.map(lambda value: value[None], values)
        part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, at_once), rows)
        return jax.vmap(lambda row: run_row(key, row, shared))(part)

    def run_rows(key, count, rows, shared):
        size = rows["trial"].shape[0]

        def step(index, filled):
            # The last step of a full buffer overlaps the one before rather than leave it.
            start = jnp.minimum(index * at_once, size - at_once)
            values = some(key, rows, shared, start)
            return jax.tree.map(
                lambda all, new: jax.lax.dynamic_update_slice_in_dim(all, new, start, 0), filled, values
            )

        empty = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), outputs)
        return jax.lax.fori_loop(0, -(-count[0] // at_once), step, empty)

    return run_rows


def _largest_array(jaxpr) -> int:
    """Bytes of the largest array any step of a traced program makes."""
    largest = 0
    for equation in jaxpr.eqns:
        sizes = [_bytes(variable.aval) for variable in equation.outvars]
        inner = [leaf for leaf in jax.tree.leaves(equation.params, is_leaf=_traced) if _traced(leaf)]
        nested = [_largest_array(leaf) for leaf in inner]
        # What an equation that contains a program returns has been counted there, step by step.
        largest = max(largest, *(nested or sizes), 0)
    return largest


def _traced(value) -> bool:
    return hasattr(value, "eqns")


def _bytes(shaped) -> int:
    dtype = getattr(shaped, "dtype", None)
    return shaped.size * dtype.itemsize if isinstance(dtype, np.dtype) else 0


def _at_once(largest: int, share: int) -> int:
    """Rows a device vectorises, from the largest array of one row; never more than its share of a chunk."""
    most = CACHE_BYTES // max(1, largest) if _on_processors() else MOST_AT_ONCE
    return max(1, min(most, share, MOST_AT_ONCE))


def _vectorises(run_row, key, rows, shared) -> bool:
    """Whether JAX can vectorise every step of a row that has been traced.

    JAX tells only by raising `NotImplementedError`: for a call back to Python that does not say how, for one.  The
    steps are replayed from the trace, so of the cell's code only its own rules of batching run, and one that raises
    this says the same.
    """
    try:
        jax.eval_shape(jax.vmap(run_row, in_axes=(None, 0, None)), key, rows, shared)
    except NotImplementedError:
        return False
    return True


def _trace(grid: Grid, cell: CompiledCell, block: Coords, shared):
    """One row of a block, traced, with example values of the rows: the first one for every device."""
    some = grid.rows(block)[:1] * devices()
    counts, values = _split(grid, some, [0] * len(some), 1)
    one_row = {name: value[0] for name, value in values.items()}
    with jax.default_matmul_precision(PRECISION):
        return jax.jit(_row_function(grid, cell, block)).trace(jr.key(0), one_row, shared), counts, values


def _outputs_of_a_cell(grid: Grid, of_a_row) -> dict[str, jax.ShapeDtypeStruct]:
    lead = 0 if grid.inner is None else 1
    return {name: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype) for name, leaf in sorted(of_a_row.items())}


def outputs_of(grid: Grid, cell: Cell, block: Coords) -> Mapping[str, jax.ShapeDtypeStruct]:
    """The variables of a cell in this block, without compiling anything."""
    if isinstance(cell, Hosted):
        return hosted_block(grid, cell, block).outputs
    shared = _traced_prepare(grid, cell, block, 1).out_info if isinstance(cell, Staged) else ()
    return _outputs_of_a_cell(grid, _trace(grid, cell, block, _shapes(shared))[0].out_info)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: tracing makes objects that stay, and to search them costs a tenth of a second."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def program_of(grid: Grid, cell: Cell, block: Coords, rows: int) -> Program | HostedProgram:
    """The program of one block for calls of at most `rows` rows, compiled unless its cells are hosted."""
    if isinstance(cell, Hosted):
        return hosted_block(grid, cell, block)
    return compile_block(grid, cell, block, rows)


@_uncollected()
def compile_block(grid: Grid, cell: CompiledCell, block: Coords, rows: int) -> Program:
    """Trace and compile one block for calls of at most `rows` rows; nothing is run."""
    began = time.perf_counter()
    share, prepare, shared = -(-rows // devices()), None, ()
    if isinstance(cell, Staged):
        first_stage = _traced_prepare(grid, cell, block, min(grid.trials, rows))
        prepare, shared = first_stage.lower().compile(), _shapes(first_stage.out_info)
    # Traced once, to see how large its arrays are, then used as it was traced.
    traced, counts, values = _trace(grid, cell, block, shared)
    outputs, steps = traced.out_info, jaxpr_as_fun(traced.jaxpr)

    def run_row(*arguments):
        results = [jnp.asarray(value) for value in steps(*jax.tree.leaves(arguments))]
        return jax.tree.unflatten(jax.tree.structure(outputs), results)

    many = {name: np.repeat(leaf[:1], share * devices()) for name, leaf in values.items()}
    arguments = (jr.key(0), counts, many, shared)
    at_once = _at_once(_largest_array(traced.jaxpr), share)
    if at_once > 1 and not _vectorises(run_row, jr.key(0), many, shared):
        at_once = 1
    compiled = _over_devices(_walk(run_row, at_once, outputs)).lower(*_shapes(arguments)).compile(COMPILER_OPTIONS)
    seconds = time.perf_counter() - began
    of_a_cell = _outputs_of_a_cell(grid, outputs)
    return Program(grid, block, rows, at_once, compiled, prepare, seconds, _peak_bytes(compiled), of_a_cell)


def _over_devices(function):
    """The function of one device's rows as a jitted function of all rows."""
    if devices() == 1:
        return jax.jit(function)
    split, whole = PartitionSpec("rows"), PartitionSpec()
    specs = (whole, split, split, whole)
    mapped = jax.shard_map(function, mesh=_mesh(), in_specs=specs, out_specs=split, check_vma=False)
    # Over several processes every one of them receives the whole result.
    out = whole if jax.process_count() > 1 else split
    placed = [NamedSharding(_mesh(), spec) for spec in specs]
    return jax.jit(mapped, in_shardings=placed, out_shardings=NamedSharding(_mesh(), out))


def _traced_prepare(grid: Grid, cell: Staged, block: Coords, trials: int):
    """The first stage for `trials` trials, one after the other."""

    def run(key, numbers):
        return jax.lax.map(lambda trial: cell.prepare(block, trial_key(key, trial)), numbers)

    with jax.default_matmul_precision(PRECISION):
        return jax.jit(run).trace(jr.key(0), np.zeros(trials, np.uint32))


def _shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _peak_bytes(compiled) -> int:
    analysis = compiled.memory_analysis()
    return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes) if analysis is not None else 0
