"""What can be set in the explorer, within which limits, what it is called, and what is fixed.  Loads nothing that
takes time."""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

from simulator.catalogue import DEFENCES

MOST_EXAMPLES = 100
"""Training examples a program has room for; those beyond `Controls.n` have no weight."""

EPOCHS, LEARNING_RATE, MOMENTUM = 300, 0.05, 0.9
"""Full-batch steps of SGD, from PyTorch's initialisation."""
ATTACK_STEPS = 10
"""Of APGD on the margin, in training and in the measurement."""
RECORDS = 30
"""Of the loss along training."""
TEST_EXAMPLES = 400
"""Fresh examples of every measurement."""

INNER, NOISE = 1.0, 1.0
"""Radius of the inner sphere and standard deviation of the linear data, in units of x."""

SPHERES, LINEAR = TASKS = ("concentric spheres", "linearly separable")
"""The margin is the gap between the radii, or half the distance of the classes."""

SETS = ("l2 ball", "l∞ box", "along the signal", "across the signal")
"""The norm, and the two sets that are tied to the signal."""


class Shape(NamedTuple):
    """What changes the shape of arrays: each value has programs of its own."""

    dim: int
    width: int


@dataclass(frozen=True)
class Controls:
    """One setting of everything that can be moved.  Raises `ValueError` for a value that cannot be set."""

    task: str = SPHERES
    threat: str = "l2 ball"
    epsilon: float = 0.9
    """Radius of the threat, in training and measurement, in units of x."""
    margin: float = 2.0
    left: str = "adversarial"
    right: str = "coap"
    """The two defences that are compared."""
    n: int = 50
    """Training examples."""
    seed: int = 0
    """Of data and initial weights."""
    dim: int = 2
    width: int = 100
    """Hidden neurons."""

    def __post_init__(self):
        for field in fields(self):
            value, allowed = getattr(self, field.name), CHOICES.get(field.name)
            if allowed is not None and value not in allowed:
                raise ValueError(f"{field.name} is {value!r}, but must be one of {', '.join(map(str, allowed))}")
            least, most = LIMITS.get(field.name, (value, value))
            if not least <= value <= most:
                raise ValueError(f"{field.name} is {value}, but must be between {least} and {most}")

    @property
    def shape(self) -> Shape:
        """What decides which programs serve this setting."""
        return Shape(self.dim, self.width)

    @property
    def reach(self) -> float:
        """Half the side of the drawn square: all data, and the set of perturbations at them."""
        if self.task == SPHERES:
            largest = INNER + self.margin
        else:
            # The example shown lies in the plane, as far across as its noise is long.
            largest = max(self.margin, NOISE * max(2.5, 1.2 * (self.dim - 1) ** 0.5))
        return round(1.15 * largest + 0.4 * self.epsilon, 3)

    @property
    def truth(self) -> float:
        """The radius of the true boundary; infinite where it is the line u = 0."""
        return INNER + self.margin / 2 if self.task == SPHERES else math.inf


CHOICES: dict[str, tuple] = {
    "task": TASKS,
    "threat": SETS,
    "left": DEFENCES,
    "right": DEFENCES,
    "dim": (2, 3, 5, 10, 20, 50, 100),
    "width": (10, 30, 100, 300),
}
"""Of the controls that choose from a list."""

LIMITS: dict[str, tuple[float, float]] = {
    "epsilon": (0.0, 3.0),
    "margin": (0.2, 6.0),
    "n": (10, MOST_EXAMPLES),
    "seed": (0, 999),
}
"""Least and largest value of the others."""

LABELS = {
    "task": "data",
    "threat": "set of perturbations",
    "left": "defence on the left",
    "right": "defence on the right",
    "epsilon": "radius ε",
    "margin": "margin γ",
    "n": "training examples n",
    "seed": "sample",
    "dim": "dimension d",
    "width": "hidden neurons",
}
"""The name of every control of `Controls` on the page."""

RECOMPILES = (
    f"These two change the shapes of arrays: at a new value programs are compiled first, which takes seconds. "
    f"The sliders above never compile anything (n has room for {MOST_EXAMPLES}), and a defence at most the first time "
    f"that it is chosen."
)
