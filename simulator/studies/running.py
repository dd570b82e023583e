"""Running a study: fill a store chunk by chunk, here or on a cluster, and tell what came out."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import xarray as xr

from simulator import store, sweep, trials
from simulator.studies import plan as planning
from simulator.studies.interrupt import Stopped, background, stop_on_interrupt
from simulator.studies.plan import Plan
from simulator.studies.remote import Workers
from simulator.studies.report import SILENT, Report
from simulator.studies.saving import save_chunk
from simulator.studies.settings import MOST, Settings, SettingsError
from simulator.studies.study import Study


def dry_run(study: Study, settings: Settings, report: Report) -> str:
    """What a run would do: cells, programs, memory, and time from running the first rows of every program."""
    return planning.describe(planning.plan(study, settings, report), report, timed_rows=1)


def run(
    study: Study,
    settings: Settings,
    *,
    scale: str,
    seed: int,
    out: Path,
    overwrite: bool = False,
    report: Report = SILENT,
    on: Workers | None = None,
) -> Path:
    """Run a study into `out/STUDY.zarr`, continue an interrupted run, or report a complete one.

    Chunks whose values can no longer be read as they were written are computed again.  Raises `StoreError` if something
    else is at that path or another run is writing it, `GridError` if the run cannot fit in memory (in both cases
    nothing on disk has been touched), `Stopped` after an interruption by the user, and `ClusterError` if the cluster to
    run `on` cannot be used.
    """
    path = store.path_of(out, study.name)
    if not 0 <= seed <= MOST:
        raise SettingsError(f"seed is {seed}, but must be between 0 and {MOST}")
    precision = str(jnp.result_type(float))
    about = {"scale": scale, "claim": study.claim, **study.notes(settings)}
    files = study.files(settings)
    about |= {store.FILES: files} if files else {}
    attributes = store.provenance(study.name, settings.as_dict(), seed, study.numbers, precision, **about)
    grid = planning.grid_of(study, settings)
    state = "absent" if overwrite else store.state(path, attributes)
    if state == "complete" and _is_sound(grid, path):
        report.say(f"{study.name} is complete in {path}: nothing to compute")
        return path
    store.check_folder(out)
    # A run that cannot be is refused before anything is written.
    planned = _plan(study, settings, report, on) if state == "absent" else None
    with store.writing(path):
        if planned is not None:
            _create(planned, path, attributes, _fixed(study, settings, grid, seed), overwrite)
        else:
            planned = _continue(study, settings, grid, seed, path, attributes, report, on)
        _note_compilation(path, planned)
        _fill(planned, path, seed, study.name, report, on)
        _conclude(study, grid, path, report)
    return path


def _plan(study, settings, report: Report, on: Workers | None, layout=None, saved=lambda chunk: False) -> Plan:
    if on is None:
        return planning.plan(study, settings, report, layout, saved)
    return planning.outline(study, settings, on.devices, layout, saved)


def _continue(study, settings, grid: sweep.Grid, seed: int, path: Path, attributes, report: Report, on) -> Plan:
    """What is left to do of the run that is there, whose store is mended on the way."""
    # Asked again, since only now nobody else can change the answer.
    store.state(path, attributes)
    layout, start = _layout_of(path), store.records(path).get(store.FIXED)
    intact = start is not None and store.is_sound(path, start)
    fixed = xr.Dataset() if intact else _fixed(study, settings, grid, seed)
    store.mend(path, store.Template(_known(path), _extents(grid, layout), fixed))
    sound = _sound_chunks(path, report)
    return _plan(study, settings, report, on, layout, lambda chunk: chunk.name in sound)


def _note_compilation(path: Path, planned: Plan) -> None:
    before = store.attributes(path)["compile_seconds"]
    store.annotate(path, {"compile_seconds": before + planned.compile_seconds})


def _fixed(study: Study, settings: Settings, grid: sweep.Grid, seed: int) -> xr.Dataset:
    """What a store of the study holds from the start: coordinates and exhibits."""
    exhibits = xr.Dataset() if study.exhibits is None else study.exhibits(settings, jr.key(seed))
    return xr.Dataset(coords=grid.coordinates()).merge(exhibits)


def _is_sound(grid: sweep.Grid, path: Path) -> bool:
    """Whether a store that says it is complete can be read down to the last byte as it was written."""
    records = store.records(path)
    needed = [store.FIXED, *(chunk.name for chunk in grid.chunks(_layout_of(path))), store.DERIVED]
    return store.lists_records(path) and all(name in records and store.is_sound(path, records[name]) for name in needed)


def _layout_of(path: Path) -> sweep.Layout:
    attributes = store.attributes(path)
    return sweep.Layout(tuple(attributes["chunk_extents"]), tuple(attributes["chunk_rows"]))


def _sound_chunks(path: Path, report: Report) -> set[str]:
    """The names of the chunks that are saved and sound; those that have been damaged are announced."""
    records = store.records(path)
    sound = {name for name, record in records.items() if store.is_sound(path, record)}
    damaged = [name for name in records if name not in sound and name not in (store.FIXED, store.DERIVED)]
    if damaged:
        report.say(f"{len(damaged)} saved chunks of {path} have been damaged since: they are computed again")
    return sound


def _extents(grid: sweep.Grid, layout: sweep.Layout) -> dict[str, int]:
    return dict(zip(grid.names, layout.extents, strict=True))


def _create(planned: Plan, path: Path, attributes: Mapping[str, Any], fixed: xr.Dataset, overwrite: bool) -> None:
    variables = _variables(planned)
    started = {
        **attributes,
        "complete": False,
        "started": pd.Timestamp.now("UTC").isoformat(timespec="seconds"),
        "compile_seconds": 0.0,
        "chunk_extents": list(planned.layout.extents),
        "chunk_rows": list(planned.layout.rows),
        "variables": {
            name: [list(dims), list(shape), _type_name(kind)] for name, (dims, shape, kind) in variables.items()
        },
    }
    extents = _extents(planned.grid, planned.layout)
    store.create(path, store.Template(variables, extents, fixed), started, overwrite)


def _variables(planned: Plan) -> dict[str, tuple[tuple[str, ...], tuple[int, ...], Any]]:
    """Every variable of the result."""
    grid = planned.grid
    kept = sweep.variables(grid, planned.outputs)
    sized = {name: (dims, (*grid.shape, *leaf.shape), leaf.dtype) for name, (dims, leaf) in kept.items()}
    return {"status": (grid.names, grid.shape, str), **sized}


def _type_name(kind: Any) -> str:
    return "text" if kind is str else np.dtype(kind).name


def _known(path: Path) -> dict[str, tuple[tuple[str, ...], tuple[int, ...], Any]]:
    """The variables of a store, from its attributes: they outlive the description of an array."""
    listed = store.attributes(path)["variables"]
    return {
        name: (tuple(dims), tuple(shape), str if kind == "text" else np.dtype(kind))
        for name, (dims, shape, kind) in listed.items()
    }


def _fill(planned: Plan, path: Path, seed: int, name: str, report: Report, on: Workers | None) -> None:
    """Run and save every chunk that is left."""
    if not planned.chunks:
        return
    for line in planning.describe(planned, report).splitlines():
        report.say(line)
    report.start(name, planned.cells)
    number = 0
    with stop_on_interrupt(report) as stop:
        if on is None:
            done = _chunks_here(planned, path, seed, report.say, stop.is_set)
        else:
            done = on.chunks(planned, path, seed)
        try:
            for number, cells in enumerate(done, start=1):
                report.tick(cells)
                if stop.is_set() and number < len(planned.chunks):
                    raise sweep.Stopping
        except sweep.Stopping as asked:
            report.stop()
            also = f"; {asked}" if str(asked) else ""
            raise Stopped(
                f"stopped with {number} of {len(planned.chunks)} chunks done and saved in {path}{also}"
            ) from asked
    report.stop()


def _chunks_here(planned: Plan, path: Path, seed: int, say: Callable[[str], None], stopping: Callable[[], bool]):
    """Run the chunks in this process; yields the number of cells of each."""
    with background() as do:
        for chunk in planned.chunks:
            yield do(partial(save_chunk, planned.program_of(chunk), jr.key(seed), chunk, path, say, stopping))


def _conclude(study: Study, grid: sweep.Grid, path: Path, report: Report) -> None:
    """Say what was lost, add the standard errors over trials, and mark the store complete."""
    records = [one for name, one in store.records(path).items() if name not in (store.FIXED, store.DERIVED)]
    counts: dict[str, int] = {}
    for record in records:
        for status, count in record["cells_by_status"].items():
            counts[status] = counts.get(status, 0) + count
    run_cells = sum(counts.values())
    lost = {name: count for name, count in counts.items() if name in ("diverged", "failed")}
    if lost:
        report.say(
            f"{study.name}: {', '.join(f'{count} cells {name}' for name, count in lost.items())} of {run_cells}; "
            "they are NaN, and means and figures leave them out"
        )
    failures = [failure for record in records for failure in record["failures"]]
    for failure in failures:
        report.say(f"failed: {failure['cell']}: {failure['error']}")
    _add_standard_errors(grid, path)
    if grid.cells > run_cells:
        counts["not_run"] = grid.cells - run_cells
    seconds, prepared = (sum(record[name] for record in records) for name in ("seconds", "prepare_seconds"))
    timing = {"wall_seconds": seconds + store.attributes(path)["compile_seconds"], "prepare_seconds": prepared}
    device = f"{sweep.devices()} x {jax.devices()[0].device_kind}"
    # Last of all, since it says that all the rest is there.
    store.annotate(
        path, {**timing, "cells_by_status": counts, "failures": failures, "devices": device, "complete": True}
    )


def _add_standard_errors(grid: sweep.Grid, path: Path) -> None:
    """Derive the standard errors over trials, box by box."""
    layout, known = _layout_of(path), _known(path)
    names = [name for name in known if name != "status" and not name.endswith(("_se_test", "_sem"))]
    at = grid.names.index("trial")
    derived = {
        f"{name}_sem": (_without(dims, at), _without(shape, at), kind)
        for name, (dims, shape, kind) in known.items()
        if name in names
    }
    store.add_variables(path, derived, _extents(grid, layout))

    def slabs():
        for box in grid.boxes(layout.extents[:at]):
            whole = (*box, slice(0, grid.trials))
            # What was never run is NaN unwritten; of a sparse grid that is most boxes.
            if (store.read_box(path, ["status"], whole)["status"] == "not_run").all():
                continue
            part = trials.with_sem(store.read_box(path, [*names, "status"], whole))
            yield box, {name: part[name].values.astype(kind) for name, (_, _, kind) in derived.items()}

    store.save_chunk(path, store.DERIVED, slabs(), {})


def _without(values: tuple, position: int) -> tuple:
    return (*values[:position], *values[position + 1 :])
