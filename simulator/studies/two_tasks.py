"""Both tasks with a known signal, each with radii and dimensions of its own: what `alignment` and `l2-budget` share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from simulator import networks, span, sweep
from simulator.data import ConcentricSpheres, LinearlySeparable, Task
from simulator.studies import protocol
from simulator.studies.protocol import Protocol
from simulator.studies.settings import SettingsError, setting

TASKS = ("spheres", "linear")

THESIS: dict[str, Any] = {
    "task": TASKS,
    "learning_rates": (0.1, 0.01, 0.001),
    "selection": "validation",
    "momentum": 0.95,
    "epochs": 150,
    "batch": 0,
    "spheres_dim": (100,),
    "inner": 1.0,
    "outer": 12.0,
    "linear_dim": (1000,),
    "margin": 6.0,
    "noise": 1.0,
    "n": (50,),
}
"""Both tasks and their recipe as in the thesis, appendix C.2."""
THESIS_TRIALS = 15
"""Seeds behind every mean the thesis shows."""
SMOKE: dict[str, Any] = {
    "defence": ("adversarial", "coap"),
    "learning_rates": (0.01,),
    "epochs": 20,
    "spheres_dim": (20,),
    "linear_dim": (50,),
    "n": (20,),
    "trials": 2,
    **protocol.BRIEFLY,
}
"""What makes a run a matter of seconds."""


@dataclass(frozen=True, kw_only=True)
class TwoTasksSettings(Protocol):
    """Axes task, defence, n, dim, epsilon, trial."""

    task: tuple[str, ...] = setting("data with a known signal direction", choices=TASKS)
    spheres_epsilon: tuple[float, ...] = setting("l2 radii on the spheres, in training and evaluation", low=0)
    linear_epsilon: tuple[float, ...] = setting("l2 radii on the linear data, in training and evaluation", low=0)
    spheres_dim: tuple[int, ...] = setting("dimension of the spheres", low=2)
    inner: float = setting("radius of the inner sphere (y = +1)", above=0)
    outer: float = setting("radius of the outer sphere (y = -1)", above=0)
    linear_dim: tuple[int, ...] = setting("dimension of the linear data", low=2)
    margin: float = setting("gamma of the linear data: half the class separation", above=0)
    noise: float = setting("sigma of the linear data", low=0)

    def check(self) -> None:
        super().check()
        if self.inner >= self.outer:
            raise SettingsError(
                f"inner is {self.inner} and outer is {self.outer}, but the inner radius must be smaller"
            )

    def epsilon_of(self, task: str, defence: str) -> tuple[float, ...]:
        """The radii a defence is run at on a task."""
        del defence
        return self.spheres_epsilon if task == "spheres" else self.linear_epsilon

    def dim_of(self, task: str) -> tuple[int, ...]:
        """The dimensions a task is run at."""
        return self.spheres_dim if task == "spheres" else self.linear_dim

    def task_of(self, name: str, dim: int) -> Task:
        """The task of that name and dimension."""
        if name == "spheres":
            return ConcentricSpheres(dim, self.inner, self.outer)
        return LinearlySeparable(dim, self.margin, self.noise)


def grid(
    settings: TwoTasksSettings,
    *further: str,
    wanted: Callable[[sweep.Coords], bool] = lambda cell: True,
    **trailing,
) -> sweep.Grid:
    """The axes and which of their cells belong together.

    `further` are settings that are static axes too; `wanted` leaves further cells out; `trailing` names the dimensions
    of array-valued variables.
    """
    dim = sorted({value for task in settings.task for value in settings.dim_of(task)})
    epsilon = sorted(
        {value for task in settings.task for name in settings.defence for value in settings.epsilon_of(task, name)}
    )
    own = {name: getattr(settings, name) for name in further}
    axes = {"task": settings.task, **own, "defence": settings.defence, "n": settings.n, "dim": dim, "epsilon": epsilon}
    return sweep.Grid(
        axes,
        settings.trials,
        static=("task", *further, "defence", "n", "dim"),
        wanted=lambda cell: (
            cell["epsilon"] in settings.epsilon_of(cell["task"], cell["defence"])
            and cell["dim"] in settings.dim_of(cell["task"])
            and wanted(cell)
        ),
        **trailing,
    )


def staged(
    settings: TwoTasksSettings,
    widths: Callable[[sweep.Coords], tuple[int, ...]],
    run: Callable[[sweep.Coords, PRNGKeyArray, span.Problem], dict],
) -> sweep.Staged:
    """The cell that draws a problem with hidden layers of `widths(coords)`, and runs `run(coords, key, problem)`."""

    def prepare(coords, key):
        data_key, init_key, _ = jr.split(key, 3)
        return draw(settings, coords, data_key, init_key, widths(coords))

    return sweep.Staged(prepare, lambda coords, key, problem: run(coords, jr.split(key, 3)[2], problem))


def draw(
    settings: TwoTasksSettings,
    coords: sweep.Coords,
    data_key: PRNGKeyArray,
    init_key: PRNGKeyArray,
    widths: tuple[int, ...],
    directions: Float[Array, "k d"] | None = None,
) -> span.Problem:
    """`drawn`, in the span of what was drawn where that has fewer coordinates."""
    return span.fewest(drawn(settings, coords, data_key, init_key, widths, directions))


def drawn(
    settings: TwoTasksSettings,
    coords: sweep.Coords,
    data_key: PRNGKeyArray,
    init_key: PRNGKeyArray,
    widths: tuple[int, ...],
    directions: Float[Array, "k d"] | None = None,
) -> span.Problem:
    """The data and the initial network of a trial; `widths` are of the hidden layers, `directions` the threat's own."""
    task = settings.task_of(coords["task"], coords["dim"])
    network = networks.mlp(init_key, task.dim, widths)
    return span.problem(task, network, *task.sample(data_key, coords["n"]), directions)
