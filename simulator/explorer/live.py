"""Answers: two defences trained on one sample and measured, by programs that are compiled once."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from simulator import train
from simulator.explorer.answer import Answer, Scenery, Side
from simulator.explorer.controls import EPOCHS, RECORDS, Controls, Shape
from simulator.explorer.programs import DRAW, MEASURE, PROGRAMS, Scalars, compiled


class Live:
    """Answers one setting after another; safe to ask from several threads."""

    def __init__(self):
        self._programs: dict[tuple[Shape, str], Future[Callable]] = {}
        self._lock = threading.Lock()
        self._compilers = ThreadPoolExecutor(len(PROGRAMS))

    def begin(self, shape: Shape, names: Iterable[str]) -> list[Future[Callable]]:
        """Start compiling programs of a shape, those that nobody asked for before or that failed, without waiting for
        them."""
        with self._lock:
            for name in names:
                if (shape, name) not in self._programs or _failed(self._programs[shape, name]):
                    self._programs[shape, name] = self._compilers.submit(compiled, shape, name)
            return [self._programs[shape, name] for name in names]

    def begin_another(self, shape: Shape) -> bool:
        """Start compiling one more program of a shape, for what may be asked next; whether there is one to wait for."""
        with self._lock:
            if not all(one.done() for one in self._programs.values()):
                return True
            missing = [name for name in PROGRAMS if (shape, name) not in self._programs]
        self.begin(shape, missing[:1])
        return bool(missing)

    def ready(self, controls: Controls) -> bool:
        """Whether a setting can be answered without compiling."""
        with self._lock:
            found = [self._programs.get((controls.shape, name)) for name in needed(controls)]
        return all(one is not None and one.done() and not _failed(one) for one in found)

    def scenery(self, controls: Controls) -> Scenery:
        """What the picture shows of a setting before anything is trained."""
        (draw,) = self.begin(controls.shape, (DRAW,))
        return _fetched(draw.result()(Scalars.of(controls))[1], controls)

    def answer(self, controls: Controls) -> Answer:
        """Train and measure both defences of a setting."""
        asked, waits = time.perf_counter(), not self.ready(controls)
        draw, measure, *training = (one.result() for one in self.begin(controls.shape, needed(controls)))
        began = time.perf_counter()
        at = Scalars.of(controls)
        made, scenery = draw(at)

        def side(trained: Callable) -> Side:
            return jax.device_get(measure(at.reach, made, trained(made)))

        with ThreadPoolExecutor(2) as pool:
            left, right = pool.map(side, training)
        epochs = train.recorded_epochs(EPOCHS, EPOCHS // RECORDS)
        waited = began - asked if waits else 0.0
        seconds = time.perf_counter() - began
        return Answer(controls, _fetched(scenery, controls), left, right, epochs, seconds, waited)


def _failed(program: Future) -> bool:
    return program.done() and program.exception() is not None


def _fetched(scenery: Mapping[str, jax.Array], controls: Controls) -> Scenery:
    """On the host, with the examples that have weight: the first n."""
    found = jax.device_get(scenery)
    return {**found, "x": found["x"][: controls.n], "y": found["y"][: controls.n]}


def needed(controls: Controls) -> tuple[str, ...]:
    """The programs that answer a setting."""
    return DRAW, MEASURE, controls.left, controls.right
