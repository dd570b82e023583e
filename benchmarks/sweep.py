"""The standard task through the sweep: how fast it trains, and how far that is from what the machine could do.

    python benchmarks/sweep.py METHOD [--steps N] [--dim D] [--configurations N] [--json]

METHOD is adversarial, coap, crown-ibp or ibp.  The task: linearly separable data in d = 100 dimensions, n = 200
examples, one hidden layer of 100, full batch, Adam, 500 steps, 16 radii x 8 seeds, l2, float32; adversarial training
uses PGD-10.  `gflop` is the textbook count of the matrix products (elementwise work and the output layer not counted),
whatever the program does instead; `peak_gflops` is the best of 7 products of 2048 x 2048 matrices in full precision on
all cores, in a process of its own.  Where JAX has an accelerator, the task and the products run on that.  Times of one
run are comparable with each other, not with those of another hour or machine.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr

from simulator import attacks, losses, networks, studies, sweep, threats, train
from simulator.data import LinearlySeparable

METHODS = ("adversarial", "coap", "crown-ibp", "ibp")
EXAMPLES, WIDTH, SEEDS = 200, 100, 8
PRODUCTS = {"adversarial": 22, "coap": 5, "crown-ibp": 5, "ibp": 2}
"""Of n x d by d x h matrices in a step, by the textbook algorithm: 10 times forward and input gradient, then forward
and weight gradient; X W and A W^T forward and three products backward; forward and weight gradient."""


def loss_of(method: str) -> losses.Loss:
    """The training loss of a method."""
    if method == "adversarial":
        return losses.attacked(lambda *example: attacks.pgd(*example, steps=10, objective="margin"))
    return losses.certified(method)


def cell(method: str, task: LinearlySeparable, steps: int):
    """Train one network; returns its last loss."""
    recipe = train.Recipe(1e-3, epochs=steps, optimizer="adam")

    def run(coords, key):
        data_key, init_key, batch_key = jr.split(key, 3)
        x, y = task.sample(data_key, EXAMPLES)
        start = networks.mlp(init_key, task.dim, (WIDTH,), outputs=1)
        fit = train.fit(batch_key, start, x, y, threats.L2(coords["epsilon"]), loss_of(method), recipe)
        return {"loss": fit.history["loss"][-1], "diverged": fit.diverged}

    return run


def measure(method: str, steps: int, task: LinearlySeparable, radii: tuple[float, ...], seeds: int) -> dict:
    """Compile the sweep, run it once, and report."""
    grid = sweep.Grid({"epsilon": radii}, trials=seeds)
    configurations = grid.cells
    program = sweep.compile_block(grid, cell(method, task, steps), {}, configurations)
    rows = grid.rows({})
    began = time.perf_counter()
    values = program(jr.key(0), rows)
    seconds = time.perf_counter() - began
    if values["diverged"].any():
        raise SystemExit(f"{method}: {values['diverged'].sum()} of {configurations} configurations diverged")
    gflop = PRODUCTS[method] * 2 * EXAMPLES * task.dim * WIDTH * steps * configurations / 1e9
    return {
        "method": method,
        "steps": steps,
        "dim": task.dim,
        "configurations": configurations,
        "run_s": round(seconds, 3),
        "compile_s": round(program.compile_seconds, 3),
        "gflop": round(gflop, 1),
        "rate_gflops": round(gflop / seconds, 1),
    }


def peak_gflops(size: int = 2048, repeats: int = 7) -> float:
    """The rate of the best of some float32 matrix products on all cores."""
    a = jr.normal(jr.key(0), (size, size), jnp.float32)
    product = jax.jit(partial(jnp.dot, precision="highest"))
    product(a, a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


def peak_in_its_own_process() -> float:
    """`peak_gflops` with one device over all cores, which this process may have split into several."""
    command = [sys.executable, "-c", "from sweep import peak_gflops; print(peak_gflops())"]
    folder = __file__.rpartition("/")[0] or "."
    return float(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--margin", type=float, default=6.0, help="of the data")
    parser.add_argument("--noise", type=float, default=1.0, help="of the data")
    parser.add_argument("--radii", type=int, default=16, help="how many radii, from 0.1 on")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", studies.cores())
    peak = peak_in_its_own_process()
    radii = tuple(round(0.1 + 1.5 * i / max(1, given.radii - 1), 6) for i in range(given.radii))
    task = LinearlySeparable(given.dim, given.margin, given.noise)
    found = measure(given.method, given.steps, task, radii, given.seeds) | {"peak_gflops": round(peak, 1)}
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:15} {value}")
    print(f"{'share of peak':15} {found['rate_gflops'] / peak:.0%}")


if __name__ == "__main__":
    main()
