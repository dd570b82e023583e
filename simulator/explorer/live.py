"""Answers: two defences trained on one sample and measured, by programs that are compiled once."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import jax
import numpy as np

from simulator import train
from simulator.explorer.controls import Controls, Shape
from simulator.explorer.programs import DRAW, EPOCHS, MEASURE, PROGRAMS, RECORDS, Scalars, compiled

Side = dict[str, np.ndarray]
"""What one defence came to: the metrics of `metrics.evaluate`, and what the picture shows of it."""


@dataclass(frozen=True)
class Answer:
    """Both defences of a setting."""

    controls: Controls
    left: Side
    right: Side
    seconds: float
    """To draw, train and measure."""
    compile_seconds: float
    """Of waiting for programs before; 0 if there were all."""

    @property
    def sides(self) -> tuple[tuple[str, Side], tuple[str, Side]]:
        """Both by the names of the defences, which may be the same."""
        return (self.controls.left, self.left), (self.controls.right, self.right)

    @property
    def epochs(self) -> list[int]:
        """Those after which losses were recorded."""
        return train.recorded_epochs(EPOCHS, EPOCHS // RECORDS)


class Live:
    """Answers one setting after another; safe to ask from several threads."""

    def __init__(self):
        self._programs: dict[tuple[Shape, str], Future[Callable]] = {}
        self._lock = threading.Lock()
        self._compilers = ThreadPoolExecutor(len(PROGRAMS))

    def begin(self, shape: Shape, names: Iterable[str] = PROGRAMS) -> list[Future[Callable]]:
        """Start compiling programs of a shape, those that nobody asked for before, without waiting for them."""
        with self._lock:
            for name in names:
                if (shape, name) not in self._programs:
                    self._programs[shape, name] = self._compilers.submit(compiled, shape, name)
            return [self._programs[shape, name] for name in names]

    def ready(self, controls: Controls) -> bool:
        """Whether a setting can be answered without compiling."""
        with self._lock:
            found = [self._programs.get((controls.shape, name)) for name in needed(controls)]
        return all(one is not None and one.done() for one in found)

    def answer(self, controls: Controls) -> Answer:
        """Train and measure both defences of a setting."""
        asked, waits = time.perf_counter(), not self.ready(controls)
        draw, measure, *training = (one.result() for one in self.begin(controls.shape, needed(controls)))
        began = time.perf_counter()
        at = Scalars.of(controls)
        made = draw(at)

        def side(trained: Callable) -> Side:
            found = jax.device_get(measure(at.reach, made, trained(made)))
            # Examples beyond the first n have no weight.
            return {**found, "x": found["x"][: controls.n], "y": found["y"][: controls.n]}

        with ThreadPoolExecutor(2) as pool:
            left, right = pool.map(side, training)
        return Answer(controls, left, right, time.perf_counter() - began, began - asked if waits else 0.0)


def needed(controls: Controls) -> tuple[str, ...]:
    """The programs that answer a setting."""
    return DRAW, MEASURE, controls.left, controls.right


@lru_cache(maxsize=1)
def shared() -> Live:
    """The one that everybody who has the page open asks, so that a shape is compiled for all of them."""
    return Live()
