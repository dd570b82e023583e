"""Planning a run: what a study's grid needs in programs, memory and time, and refusing what cannot fit."""

import dataclasses
import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr

from simulator import sweep
from simulator.studies.report import SILENT, Report
from simulator.studies.settings import Settings
from simulator.studies.study import Study

MEMORY_SHARE = 0.8
"""The share of the machine's memory a run may plan for."""

MOST_LOADED = 16
"""Programs kept at once: each takes one or two thousand of the 65,530 memory mappings that Linux allows a process."""

TIMED_ROWS = 20
"""A program is timed before a run only if it has this many rows: running one of them is then a small expense."""

Programs = sweep.Program | sweep.HostedProgram


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study's programs, compiled, and the chunks they will run."""

    settings: Settings
    grid: sweep.Grid
    cell: sweep.Cell
    layout: sweep.Layout
    chunks: list[sweep.Chunk]
    """Chunks still to be run."""
    programs: list[Programs]
    """One for every block of `chunks`, of which the first `MOST_LOADED` are loaded; none if others will run them."""
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    """Variables of a cell; none if no chunk is left."""
    compile_seconds: float = 0.0
    """From beginning to compile the programs to having all of them."""

    @property
    def cells(self) -> int:
        """Cells still to be run."""
        return self.grid.per_row * sum(map(self.rows_of, self.chunks))

    def rows_of(self, chunk: sweep.Chunk) -> int:
        """Rows of a chunk."""
        return sum(self.grid.count(chunk.block, box) for box in chunk.boxes)

    def rows_by_program(self) -> list[int]:
        """Rows still to be run by each program."""
        chunks = [[chunk for chunk in self.chunks if chunk.block == program.block] for program in self.programs]
        return [sum(map(self.rows_of, own)) for own in chunks]

    @property
    def peak_bytes(self) -> int:
        """Memory of the largest program."""
        return max((program.peak_bytes for program in self.programs), default=0)

    def program_of(self, chunk: sweep.Chunk) -> Programs:
        """The program that runs a chunk.

        Chunks come block by block: if it is not loaded, those before it are done with, and it is loaded with the next.
        """
        at = next(at for at, program in enumerate(self.programs) if program.block == chunk.block)
        if not self.programs[at].loaded:
            self.programs[:] = [program.unloaded() for program in self.programs]
            following = self.programs[at : at + MOST_LOADED]
            loaded = _compile(self.grid, self.cell, [(program.block, program.rows) for program in following])
            self.programs[at : at + MOST_LOADED] = loaded
        return self.programs[at]


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit() -> int:
    """Bytes a run may plan for on this machine's default device, within the limits set for this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    total = stats.get("bytes_limit") or min([physical, *_limits_set()])
    return int(MEMORY_SHARE * total)


CONTROL_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux tells a container, or a job of a batch system, how much memory it has: versions 2 and 1."""


def _limits_set() -> list[int]:
    texts = [Path(file).read_text().strip() for file in CONTROL_GROUP_LIMITS if Path(file).is_file()]
    limits = [int(text) for text in texts if text.isdecimal()]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return limits if soft == resource.RLIM_INFINITY else [*limits, soft]


def result_bytes(grid: sweep.Grid, outputs: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Memory of the whole result."""
    per_cell = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in outputs.values())
    # The status is a pointer to a text per cell.
    return grid.cells * (per_cell + 8)


def readable(size: float) -> str:
    """A number of bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.0f} TB" if size < 1e6 else f"{size:.1e} TB"


def refuse_if_too_large(what: str, size: float) -> None:
    """Raise `GridError` if something would not fit into this machine's memory."""
    if size > memory_limit():
        raise sweep.GridError(
            f"{what} would take {readable(size)} of memory, but a run may use {readable(memory_limit())} here: "
            "ask for fewer or smaller values"
        )


def grid_of(study: Study, settings: Settings) -> sweep.Grid:
    """The study's grid.  Raises `GridError` if it is empty, or too large to be listed."""
    grid = study.grid(settings)
    refuse_if_too_large(f"{grid.cells:,} cells", 16.0 * grid.cells)
    if not any(grid.count(block) for block in grid.blocks()):
        raise sweep.GridError("no cell of the grid is wanted: nothing to run")
    return grid


def plan(
    study: Study,
    settings: Settings,
    report: Report = SILENT,
    layout: sweep.Layout | None = None,
    saved: Callable[[sweep.Chunk], bool] = lambda chunk: False,
) -> Plan:
    """Cut the grid into chunks and compile every block that has one left to run.

    Without a `layout` the chunks are as large as about 20 of them a block make them, larger where that would leave an
    accelerator idle, and smaller where a program would not fit in memory otherwise.  Raises `GridError` if the run
    cannot fit in memory whatever the chunks.
    """
    grid, cell = grid_of(study, settings), study.cell(settings)
    most, began = _most_rows(cell), time.perf_counter()
    while True:
        cut = grid.layout(sweep.devices(), most, sweep.filling()) if layout is None else layout
        chunks = [chunk for chunk in grid.chunks(cut) if not saved(chunk)]
        left = [chunk.block for chunk in chunks]
        blocks = [(block, rows) for block, rows in zip(grid.blocks(), cut.rows, strict=True) if block in left]
        programs = _compile(grid, cell, blocks, report)
        smaller = _fewer_rows(programs) if layout is None else None
        if smaller is None:
            break
        most = smaller
    for program in programs:
        refuse_if_too_large(f"the program of {program.block or study.name}", program.peak_bytes)
        _refuse_other_outputs(program, programs[0])
    outputs = programs[0].outputs if programs else {}
    return Plan(settings, grid, cell, cut, chunks, programs, outputs, time.perf_counter() - began)


def outline(
    study: Study,
    settings: Settings,
    devices: int,
    layout: sweep.Layout | None,
    saved: Callable[[sweep.Chunk], bool] = lambda chunk: False,
) -> Plan:
    """The same without compiling: for workers of `devices` devices each that will do so themselves."""
    grid, cell = grid_of(study, settings), study.cell(settings)
    cut = grid.layout(devices, _most_rows(cell)) if layout is None else layout
    chunks = [chunk for chunk in grid.chunks(cut) if not saved(chunk)]
    outputs = sweep.outputs_of(grid, cell, chunks[0].block) if chunks else {}
    return Plan(settings, grid, cell, cut, chunks, [], outputs)


def _most_rows(cell: sweep.Cell) -> int | None:
    """Rows of a chunk at most; a hosted cell is a chunk of its own, so that it is kept as soon as it is done."""
    return 1 if isinstance(cell, sweep.Hosted) else None


def _refuse_other_outputs(program: Programs, first: Programs) -> None:
    if program.outputs != first.outputs:
        here, there = (", ".join(f"{name} {leaf.shape}" for name, leaf in p.outputs.items()) for p in (program, first))
        raise sweep.GridError(
            f"the cell returns {here} in {program.block}, but {there} in {first.block}: "
            "it must return the same names and shapes everywhere"
        )


def _fewer_rows(programs: list[Programs]) -> int | None:
    """How many rows a chunk may have for every program to fit in memory; None if they fit, or nothing helps."""
    largest = max(programs, key=lambda program: program.peak_bytes, default=None)
    if largest is None or largest.peak_bytes <= memory_limit() or largest.rows <= sweep.devices():
        return None
    return max(sweep.devices(), largest.rows * memory_limit() // (2 * largest.peak_bytes))


def _compile(
    grid: sweep.Grid, cell: sweep.Cell, blocks: list[tuple[sweep.Coords, int]], report: Report = SILENT
) -> list[Programs]:
    """The programs of some blocks, each for calls of so many rows; only the first `MOST_LOADED` stay loaded."""
    double = jnp.result_type(float) == jnp.float64
    report.start("compiling", len(blocks))

    def compile_one(of):
        at, (block, rows) = of
        # The precision is a setting of each thread.
        with jax.enable_x64(double):
            program = sweep.program_of(grid, cell, block, rows)
        report.tick(1)
        return program if at < MOST_LOADED else program.unloaded()

    # Two at a time: the compiler runs outside the interpreter lock.
    with ThreadPoolExecutor(2) as pool:
        programs = list(pool.map(compile_one, enumerate(blocks)))
    report.stop()
    return programs


def describe(planned: Plan, report: Report, timed_rows: int = TIMED_ROWS) -> str:
    """What a run will do: cells, programs, chunks, memory, and its time if enough rows make timing one worth while."""
    lines = [f"cells      {planned.cells:,} of {planned.grid.cells:,} in the grid, in {len(planned.chunks)} chunks"]
    kept = readable(result_bytes(planned.grid, planned.outputs))
    if not planned.programs:
        return f"{lines[0]}\nmemory     {kept} of results"
    hosted = not any(isinstance(program, sweep.Program) for program in planned.programs)
    compiled = "as they are needed" if hosted else f"in {planned.compile_seconds:.0f} s"
    lines.append(f"programs   {len(planned.programs)}, compiled {compiled}")
    peak = "" if hosted else f"{readable(planned.peak_bytes)} at the peak of a program, "
    lines.append(f"memory     {peak}{kept} of results")
    counted = list(zip(planned.programs, planned.rows_by_program(), strict=True))
    # A hosted cell takes as long as all of its training: it tells of its progress itself.
    timed = [
        (program, count)
        for program, count in counted
        if count >= timed_rows and isinstance(program, sweep.Program) and program.loaded
    ]
    report.start("timing the first rows of each program", len(timed))
    seconds = 0.0
    for program, count in timed:
        seconds += sweep.time_rows(program, jr.key(0)) * count
        report.tick(1)
    report.stop()
    if timed:
        untimed = len(counted) - len(timed)
        beside = f", and what {untimed} further programs take" if untimed else ""
        lines.append(
            f"time       about {seconds:.0f} s on {sweep.devices()} device(s), from the first rows of each "
            f"program{beside}"
        )
    return "\n".join(lines)
