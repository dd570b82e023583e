"""Sweeps: a grid of named axes to an `xarray.Dataset`, with no knowledge of what a cell computes.

A cell is `cell(coords, key) -> {name: scalar or small array}`.  An axis is either

- *static*: its values change shapes or code, so it is a Python loop with one compiled program per combination; or
- a *leaf*: its values are array leaves of one program.

Inside a program, rows (a trial and one value per leaf axis but one) are split over all devices and walked in a loop;
the remaining *inner* axis is vectorised, so that what does not depend on it (data, test points) is computed once per
row.  Cells of one trial get the same key, hence share their data and initialisation: differences along every other axis
lose that noise (common random numbers).

A *hosted* cell is no program but a function on the host that calls compiled programs of its own, for work that takes
minutes to hours a cell: it is given a folder for checkpoints and told when to stop, and every chunk is one such cell.

```python
import jax, jax.random as jr
from simulator import sweep

grid = sweep.Grid({"n": (10, 1000), "scale": (1.0, 2.0)}, trials=3, static=("n",))
draw = lambda coords, key: {"mean": coords["scale"] * jr.normal(key, (coords["n"],)).mean()}
result = sweep.run(grid, draw, jr.key(0))
assert result["mean"].dims == ("n", "scale", "trial")
assert (result["mean"].sel(scale=2.0) == 2 * result["mean"].sel(scale=1.0)).all()  # a trial shares its draws
```

Every result carries `status`: ok, diverged (the cell said so), failed (its program raised) or not_run.  A cell that is
not ok is NaN in every variable, and is excluded, loudly, from every mean.
"""

from simulator.sweep.execute import (
    STATUSES,
    Filled,
    Outcome,
    Values,
    assemble,
    empty,
    rows_of,
    run,
    run_chunk,
    run_row,
    stack,
    time_rows,
    variables,
)
from simulator.sweep.grid import Box, Chunk, Coords, Grid, GridError, Layout, trial_key
from simulator.sweep.hosted import Hosted, HostedProgram, Stopping, Surroundings
from simulator.sweep.program import (
    Cell,
    CompiledCell,
    Program,
    Staged,
    compile_block,
    devices,
    filling,
    outputs_of,
    program_of,
)

__all__ = [
    "STATUSES",
    "Box",
    "Cell",
    "Chunk",
    "CompiledCell",
    "Coords",
    "Filled",
    "Grid",
    "GridError",
    "Hosted",
    "HostedProgram",
    "Layout",
    "Outcome",
    "Program",
    "Staged",
    "Stopping",
    "Surroundings",
    "Values",
    "assemble",
    "compile_block",
    "devices",
    "empty",
    "filling",
    "outputs_of",
    "program_of",
    "rows_of",
    "run",
    "run_chunk",
    "run_row",
    "stack",
    "time_rows",
    "trial_key",
    "variables",
]
