"""From a chunk to the store."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import PRNGKeyArray

from simulator import store, sweep
from simulator.studies.plan import Programs


def models_of(path: Path) -> Path:
    """The folder beside a store in which its hosted cells keep checkpoints and trained networks, under names that say
    what they depend on: a store may be replaced, and they are found again."""
    return path.with_suffix(".models")


def save_chunk(
    program: Programs,
    key: PRNGKeyArray,
    chunk: sweep.Chunk,
    path: Path,
    say: Callable[[str], None] = lambda sentence: None,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Run a chunk and write it to the store; returns how many cells that were.

    Hosted cells have a folder beside the store, `say` and `stopping` (see `sweep.Surroundings`).
    """
    began = time.perf_counter()
    if isinstance(program, sweep.HostedProgram):
        program = program.within(sweep.Surroundings(models_of(path), say, stopping))
    outcome = sweep.run_chunk(program, key, chunk)
    save_outcome(path, chunk, outcome, time.perf_counter() - began)
    return outcome.cells


def save_outcome(path: Path, chunk: sweep.Chunk, outcome: sweep.Outcome, seconds: float) -> None:
    """Write what running a chunk gave, with what the end of the run wants to know of it."""
    statuses = np.concatenate([filled.values["status"].ravel() for filled in outcome.boxes]).astype(str)
    names, counts = np.unique(statuses[statuses != "not_run"], return_counts=True)
    about = {
        "cells_by_status": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
        "failures": outcome.failures,
        "seconds": seconds,
        "prepare_seconds": outcome.prepare_seconds,
    }
    store.save_chunk(path, chunk.name, [(filled.box.slices, filled.values) for filled in outcome.boxes], about)
