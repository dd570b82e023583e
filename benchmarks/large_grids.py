"""Grids that outgrow memory: cells per second, and whether resident memory grows along the run.

    python benchmarks/large_grids.py {linear,mlp} [--cells N] [--json]

`linear`: 1,000,000 linear classifiers (d = 10); `mlp`: 100,000 networks with one hidden layer of 16 (d = 10).  Both
n = 64, 50 steps of full-batch SGD on the exact worst case of an l2 ball (linear) or on COAP (mlp), over radii, learning
rates and trials, run as any study is: planned, cut into chunks, saved chunk by chunk into a Zarr store.  The memory is
that of the process when a tenth, half and all of the cells are done; what grows is the heap, since compiled programs
and libraries are there from the start.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.random as jr
from matplotlib.figure import Figure

from simulator import losses, networks, studies, sweep, threats, train
from simulator.data import LinearlySeparable

DIM, EXAMPLES, STEPS, RATES = 10, 64, 50, 10
CELLS = {"linear": 1_000_000, "mlp": 100_000}
WIDTHS = {"linear": (), "mlp": (16,)}
LOSSES = {"linear": losses.exact, "mlp": losses.certified("coap")}


@dataclass(frozen=True, kw_only=True)
class LargeSettings(studies.Settings):
    """Radii x learning rates x trials."""

    epsilon: tuple[float, ...] = studies.setting("radius of the l2 ball", low=0)
    learning_rate: tuple[float, ...] = studies.setting("of SGD", above=0)
    kind: str = studies.setting("what is trained", choices=tuple(CELLS))


def grid(settings: LargeSettings) -> sweep.Grid:
    """Leaf axes only: one program."""
    return sweep.Grid({"epsilon": settings.epsilon, "learning_rate": settings.learning_rate}, settings.trials)


def cell(settings: LargeSettings) -> sweep.Cell:
    """Train one small network; keep its last loss."""

    def run(coords, key):
        data_key, init_key, batch_key = jr.split(key, 3)
        x, y = LinearlySeparable(DIM, 1.0, 1.0).sample(data_key, EXAMPLES)
        start = networks.mlp(init_key, DIM, WIDTHS[settings.kind], outputs=1)
        recipe = train.Recipe(coords["learning_rate"], epochs=STEPS)
        fit = train.fit(batch_key, start, x, y, threats.L2(coords["epsilon"]), LOSSES[settings.kind], recipe)
        return {"loss": fit.history["loss"][-1], "diverged": fit.diverged}

    return run


def settings_of(kind: str, cells: int) -> LargeSettings:
    """About that many cells: 10 learning rates, and as many radii as there are trials, within a factor of 10."""
    per_rate = max(1, cells // RATES)
    trials = max(1, int(per_rate**0.5 / 3))
    radii = max(1, per_rate // trials)
    return LargeSettings(
        epsilon=tuple(round(0.5 * (i + 1) / radii, 9) for i in range(radii)),
        learning_rate=tuple(round(0.02 * (i + 1), 6) for i in range(RATES)),
        trials=trials,
        kind=kind,
    )


def resident_megabytes() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(kind: str, cells: int) -> dict:
    """Run the grid as a study and watch its memory."""
    settings = settings_of(kind, cells)
    study = studies.Study(
        name="large",
        claim="Memory does not grow with the number of cells.",
        scales=dict.fromkeys(studies.SCALES, settings),
        grid=grid,
        cell=cell,
        figure=lambda result, published: Figure(),
        verdict=lambda result: studies.Verdict(True, "see the memory"),
    )
    total = grid(settings).cells
    seen: list[tuple[int, float]] = [(0, resident_megabytes())]

    def tick(amount: int) -> None:
        seen.append((seen[-1][0] + amount, resident_megabytes()))

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = studies.Report(tick=tick, say=lambda line: print(line, flush=True))
        studies.run(study, settings, scale="default", seed=0, out=Path(folder), report=report)
    seconds = time.perf_counter() - began
    at = {share: next(memory for done, memory in seen if done >= share * total) for share in (0.1, 0.5, 1.0)}
    return {
        "kind": kind,
        "cells": total,
        "seconds": round(seconds, 1),
        "cells_per_second": round(total / seconds),
        **{f"resident_mb_at_{share:.0%}": round(memory) for share, memory in at.items()},
        "resident_mb_at_the_end": round(resident_megabytes()),
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=CELLS)
    parser.add_argument("--cells", type=int, help="how many, about")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", studies.cores())
    found = measure(given.kind, given.cells or CELLS[given.kind])
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
