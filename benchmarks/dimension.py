"""How training grows with the dimension: in the coordinates of the data, and in the span of what a trial draws.

    python benchmarks/dimension.py [--dims 1000,10000,...] [--steps N] [--json]

Adversarial training (PGD-10, l2) of one hidden layer of 100 on n = 50 linearly separable examples by full-batch SGD,
16 radii x 2 trials.  `reduce_s` is the first stage of a trial, the drawing of its data and weights and the QR
decomposition, summed over trials; `train_s` is all the rest.  The exponent is the slope of log(time) over
log(dimension) between the smallest and the largest dimension.
"""

import argparse
import json
import math
import time

import jax
import jax.random as jr

from simulator import attacks, losses, networks, span, studies, sweep, threats, train
from simulator.data import LinearlySeparable

EXAMPLES, WIDTH, RADII, TRIALS = 50, 100, 16, 2
PLAIN_UP_TO = 10_000
"""Beyond this dimension the plain form takes minutes."""


def cell(dim: int, steps: int, reduced: bool) -> sweep.Staged:
    """Train one network, in the span or in the coordinates of the data."""
    recipe = train.Recipe(0.01, momentum=0.9, epochs=steps)
    loss = losses.attacked(lambda *example: attacks.pgd(*example, steps=10, objective="margin"))

    def prepare(coords, key):
        data_key, init_key = jr.split(key)
        task = LinearlySeparable(dim)
        problem = span.problem(task, networks.mlp(init_key, dim, (WIDTH,)), *task.sample(data_key, EXAMPLES))
        return span.fewest(problem) if reduced else problem

    def run(coords, key, problem):
        fit = problem.fit(key, threats.L2(coords["epsilon"]), loss, recipe)
        return {"loss": fit.history["loss"][-1], "diverged": fit.diverged}

    return sweep.Staged(prepare, run)


def measure(dim: int, steps: int, reduced: bool) -> dict:
    """Seconds of both stages of the whole grid."""
    grid = sweep.Grid({"epsilon": tuple(0.25 * (i + 1) for i in range(RADII))}, trials=TRIALS)
    program = sweep.compile_block(grid, cell(dim, steps, reduced), {}, grid.cells)
    rows = grid.rows({})
    began = time.perf_counter()
    shared = program.share(jr.key(0), rows)
    prepared = time.perf_counter()
    values = program(jr.key(0), rows, shared)
    ended = time.perf_counter()
    if values["diverged"].any():
        raise SystemExit(f"{values['diverged'].sum()} of {grid.cells} configurations diverged")
    return {
        "dim": dim,
        "form": "span" if reduced else "plain",
        "reduce_s": round(prepared - began, 3),
        "train_s": round(ended - prepared, 3),
        "compile_s": round(program.compile_seconds, 2),
        "mean_loss": round(float(values["loss"].mean()), 6),
    }


def exponent(rows: list[dict]) -> float:
    """Of the time of training, between the smallest and the largest dimension."""
    first, last = rows[0], rows[-1]
    return round(math.log(last["train_s"] / first["train_s"]) / math.log(last["dim"] / first["dim"]), 2)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", default="1000,10000,100000,1000000")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", studies.cores())
    dims = [int(dim) for dim in given.dims.split(",")]
    spans = [measure(dim, given.steps, True) for dim in dims]
    plains = [measure(dim, given.steps, False) for dim in dims if dim <= PLAIN_UP_TO]
    exponents = {rows[0]["form"]: exponent(rows) for rows in (spans, plains) if len(rows) > 1}
    if given.json:
        print(json.dumps({"rows": [*spans, *plains], "exponents": exponents}))
        return
    for row in (*spans, *plains):
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    for form, slope in exponents.items():
        print(f"exponent of train_s, {form}: {slope}")


if __name__ == "__main__":
    main()
