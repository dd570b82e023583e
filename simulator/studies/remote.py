"""Running the chunks of a study on a cluster: each task is one chunk, computed and saved by a worker."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from simulator import cluster, sweep
from simulator.studies.plan import Plan, Programs, cores
from simulator.studies.registry import find
from simulator.studies.saving import save_chunk, save_outcome
from simulator.studies.settings import override


@dataclass(frozen=True)
class Job:
    """All a worker needs to compute any chunk of a run."""

    study: str
    """As `studies.find` takes it, absolute if it is a file."""
    settings: str
    """As JSON: the class of a user's own settings cannot be sent to where their file has not been loaded."""
    seed: int
    double: bool
    layout: sweep.Layout
    path: Path


@lru_cache(maxsize=16)
def _program(job: Job, block: int) -> Programs:
    """The program of a block, compiled once per worker."""
    study = find(job.study)
    settings = override(study.scales["default"], json.loads(job.settings))
    grid = study.grid(settings)
    return sweep.program_of(grid, study.cell(settings), grid.blocks()[block], job.layout.rows[block])


@dataclass(frozen=True)
class _NoProgram:
    """What a worker returns for a block that cannot be compiled: the same holds for all of its cells."""

    error: Exception


def _compute_chunk(job: Job, block: int, chunk: sweep.Chunk) -> int | _NoProgram:
    """Run and save a chunk, on a worker; returns its number of cells."""
    with jax.enable_x64(job.double):
        try:
            program = _program(job, block)
        except Exception as error:  # whatever the code of the cell raises
            return _NoProgram(error)
        return save_chunk(program, jr.key(job.seed), chunk, job.path)


def _compute_row(job: Job, block: int, chunk: sweep.Chunk, at: int) -> sweep.Values:
    """The values of one row of a chunk, on a worker."""
    with jax.enable_x64(job.double):
        program = _program(job, block)
        return sweep.run_row(program, jr.key(job.seed), sweep.rows_of(program.grid, chunk)[at])


@dataclass(frozen=True)
class Workers:
    """A cluster to run the chunks of one study on."""

    client: Any
    study: str
    devices: int
    """Of one worker."""

    def chunks(self, planned: Plan, path: Path, seed: int) -> Iterator[int]:
        """Run and save every chunk of a plan; yields the number of cells of each as it ends.

        A chunk that ends in an error, or takes its workers down with it, is run again row by row: the rows that end so
        too are recorded as failed, the others are kept.  An error of the cell's own code ends the run, as it does
        without a cluster.
        """
        double = jnp.result_type(float) == jnp.float64
        job = Job(self.study, json.dumps(planned.settings.as_dict()), seed, double, planned.layout, path.absolute())
        blocks = planned.grid.blocks()
        tasks = [(job, blocks.index(chunk.block), chunk) for chunk in planned.chunks]
        for task, found in cluster.spread(self.client, _compute_chunk, tasks):
            if isinstance(found, _NoProgram):
                raise found.error
            yield self._row_by_row(planned, found, *task) if isinstance(found, BaseException) else found

    def _row_by_row(self, planned: Plan, error: BaseException, job: Job, block: int, chunk: sweep.Chunk) -> int:
        began = time.perf_counter()
        rows = sweep.rows_of(planned.grid, chunk)
        found: list[Any] = [error] * len(rows)
        tasks = [(job, block, chunk, at) for at in range(len(rows))] if len(rows) > 1 else []
        for (*_, at), value in cluster.spread(self.client, _compute_row, tasks):
            found[at] = value
        values, errors = sweep.stack(planned.grid, planned.outputs, found)
        boxes, failures = sweep.assemble(planned.grid, planned.outputs, chunk, values, errors)
        outcome = sweep.Outcome(boxes, len(rows) * planned.grid.per_row, failures)
        save_outcome(job.path, chunk, outcome, time.perf_counter() - began)
        return outcome.cells


@contextmanager
def workers(address: str, study: str) -> Iterator[Workers]:
    """A cluster for the study of that name; see `cluster.connect`.  Raises `ClusterError` if there is none."""
    name, colon, attribute = study.rpartition(":")
    with cluster.connect(address, cores()) as client:
        threads = [worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
        devices = cluster.devices_per_worker(address, cores()) or max(threads, default=1)
        yield Workers(client, f"{Path(name).absolute()}:{attribute}" if colon else study, devices)
