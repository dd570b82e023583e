"""Running a study: plan, refuse what cannot fit, fill a store block by block, and tell what came out."""

import dataclasses
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import xarray as xr

from simulator import store, sweep, trials
from simulator.studies.settings import MOST, Settings, SettingsError
from simulator.studies.study import Study

MEMORY_SHARE = 0.8
"""The share of the machine's memory a run may plan for."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study's programs, compiled, and what they will need."""

    grid: sweep.Grid
    cell: sweep.Cell
    programs: list[sweep.Program]

    @property
    def cells(self) -> int:
        """Cells that will be computed."""
        per_row = len(self.grid.axes[self.grid.inner]) if self.grid.inner else 1
        return per_row * sum(len(program.rows) for program in self.programs)

    @property
    def peak_bytes(self) -> int:
        """Memory of the largest program."""
        return max((program.peak_bytes for program in self.programs), default=0)

    @property
    def result_bytes(self) -> int:
        """Memory of the whole result."""
        return _result_bytes(self.grid, self.programs[0].outputs)


@dataclasses.dataclass(frozen=True)
class Report:
    """Callbacks of a long run; the defaults are silent."""

    say: Callable[[str], None] = lambda sentence: None
    start: Callable[[str, int], None] = lambda what, total: None
    tick: Callable[[int], None] = lambda amount: None
    stop: Callable[[], None] = lambda: None


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit() -> int:
    """Bytes a run may plan for on this machine's default device."""
    stats = jax.local_devices()[0].memory_stats() or {}
    total = stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(MEMORY_SHARE * total)


def _result_bytes(grid: sweep.Grid, outputs) -> int:
    per_cell = sum(int(np.prod(leaf.shape, dtype=float)) * leaf.dtype.itemsize for leaf in outputs.values())
    # The status is a pointer to a text per cell.
    return grid.cells * (per_cell + 8)


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.0f} TB" if size < 1e6 else f"{size:.1e} TB"


def _refuse_if_too_large(what: str, size: float) -> None:
    if size > memory_limit():
        raise sweep.GridError(
            f"{what} would take {_readable(size)} of memory, but a run may use {_readable(memory_limit())} here: "
            "ask for fewer or smaller values"
        )


def plan(study: Study, settings: Settings, report: Report = Report(), skip: Callable = lambda block: False) -> Plan:
    """Compile every block that is wanted and not skipped.  Raises `GridError` if the run cannot fit in memory."""
    grid, cell = study.grid(settings), study.cell(settings)
    _refuse_if_too_large(f"{grid.cells:,} cells", 16.0 * grid.cells)
    blocks = [block for block in grid.blocks() if grid.rows(block) and not skip(block)]
    if not any(grid.rows(block) for block in grid.blocks()):
        raise sweep.GridError("no cell of the grid is wanted: nothing to run")
    report.start("compiling", len(blocks))
    double = jnp.result_type(float) == jnp.float64

    def compile_one(block):
        # The precision is a setting of each thread.
        with jax.enable_x64(double):
            program = sweep.compile_block(grid, cell, block)
        report.tick(1)
        return program

    # Two at a time: the compiler runs outside the interpreter lock.
    with ThreadPoolExecutor(2) as pool:
        programs = list(pool.map(compile_one, blocks))
    report.stop()
    planned = Plan(grid, cell, programs)
    for program in programs:
        _refuse_if_too_large(f"the result of {grid.cells:,} cells", _result_bytes(grid, program.outputs))
        _refuse_if_too_large(f"the program of {program.block or study.name}", program.peak_bytes)
    return planned


def dry_run(study: Study, settings: Settings, report: Report) -> str:
    """What a run would do: cells, programs, memory, and time from running one row of every program."""
    planned = plan(study, settings, report)
    report.start("timing one row of each program", len(planned.programs))
    seconds = 0.0
    for program in planned.programs:
        one = sweep.time_one_row(planned.grid, planned.cell, program.block)
        seconds += one * -(-len(program.rows) // sweep.devices())
        report.tick(1)
    report.stop()
    peak, kept = _readable(planned.peak_bytes), _readable(planned.result_bytes)
    lines = [
        f"cells      {planned.cells:,} of {planned.grid.cells:,} in the grid",
        f"programs   {len(planned.programs)}, compiled in {sum(p.compile_seconds for p in planned.programs):.0f} s",
        f"memory     {peak} at the peak of a program, {kept} of results",
        f"time       about {seconds:.0f} s on {sweep.devices()} device(s), extrapolated from one row of each program",
    ]
    return "\n".join(lines)


def run(
    study: Study,
    settings: Settings,
    *,
    scale: str,
    seed: int,
    out: Path,
    overwrite: bool = False,
    report: Report = Report(),
) -> Path:
    """Run a study into `out/STUDY.zarr`, continue an interrupted run, or report a complete one.

    Raises `StoreError` if something else is at that path, `GridError` if the run cannot fit in memory; in both cases
    nothing on disk has been touched.
    """
    path = store.path_of(out, study.name)
    if not 0 <= seed <= MOST:
        raise SettingsError(f"seed is {seed}, but must be between 0 and {MOST}")
    precision = str(jnp.result_type(float))
    attributes = store.provenance(
        study.name, settings.as_dict(), seed, study.numbers, precision, **_about(study, settings, scale)
    )
    state = "absent" if overwrite else store.state(path, attributes)
    if state == "complete":
        report.say(f"{study.name} is complete in {path}: nothing to compute")
        return path
    store.check_folder(out)
    began = time.perf_counter()
    kept = store.read(path) if state == "partial" else None
    planned = plan(
        study, settings, report, lambda block: kept is not None and _finished(kept, study.grid(settings), block)
    )
    result = _prepare(study, settings, planned, kept, path, attributes, seed, overwrite)
    report.start(study.name, planned.cells)
    for program in planned.programs:
        sweep.run_block(planned.grid, program, jr.key(seed), result, report.tick)
        store.write_block(path, result, program.block)
    report.stop()
    _conclude(study, result, path, time.perf_counter() - began, planned, report)
    return path


def _about(study: Study, settings: Settings, scale: str) -> dict[str, str]:
    return {"scale": scale, "claim": study.claim, **study.notes(settings)}


def _finished(kept: xr.Dataset, grid: sweep.Grid, block: sweep.Coords) -> bool:
    """Whether a block's cells were all written: status is written last, so one cell that is not not_run proves it."""
    return bool((kept["status"].sel(block) != "not_run").any())


def _prepare(study, settings, planned: Plan, kept, path: Path, attributes, seed: int, overwrite: bool) -> xr.Dataset:
    """The dataset to fill, and the store to write it to."""
    if kept is not None:
        return kept
    result = sweep.empty(planned.grid, planned.programs[0].outputs)
    started = {**attributes, "complete": False, "started": pd.Timestamp.now("UTC").isoformat(timespec="seconds")}
    exhibits = xr.Dataset() if study.exhibits is None else study.exhibits(settings, jr.key(seed))
    store.create(path, result.merge(exhibits), started, planned.grid.static, overwrite)
    return result


def _conclude(study: Study, result: xr.Dataset, path: Path, seconds: float, planned: Plan, report: Report) -> None:
    """Say what was lost, add the standard errors, and mark the store complete."""
    counts = trials.count_by_status(result)
    lost = {name: count for name, count in counts.items() if name in ("diverged", "failed")}
    if lost:
        report.say(
            f"{study.name}: {', '.join(f'{count} cells {name}' for name, count in lost.items())} of {planned.cells}; "
            "they are NaN, and means and figures leave them out"
        )
    for failure in result.attrs.get("failures", []):
        report.say(f"failed: {failure}")
    means = trials.with_sem(result)
    derived = means[[name for name in means.data_vars if name.endswith("_sem")]]
    timing = {"wall_seconds": seconds, "compile_seconds": sum(program.compile_seconds for program in planned.programs)}
    store.finish(
        path, derived, {**timing, "cells_by_status": counts, "devices": str(jax.local_devices()[0].device_kind)}
    )
