"""The process that trains and measures.

Apart from the server it neither holds up the page nor is held up by it, and both load at once: JAX takes seconds.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from functools import lru_cache
from multiprocessing.connection import Connection

from simulator.explorer.answer import Answer, Scenery
from simulator.explorer.controls import Controls, Shape

QUIET = 1.0
"""Seconds without a question after which something is compiled that nobody asked for."""


class ComputerError(Exception):
    """The process that computes has failed, or has ended."""


class Computer:
    """Answers one setting after another; safe to ask from several threads.

    A pipe, not a pool of `concurrent.futures`: whose workers would outlive a parent that is killed.
    """

    def __init__(self):
        spawn = multiprocessing.get_context("spawn")
        self._questions, theirs = spawn.Pipe()
        self._lock, self._answered = threading.Lock(), False
        self._process = spawn.Process(target=_work, args=(theirs,), daemon=True)
        with _uninterrupted():
            self._process.start()
        theirs.close()

    def ready(self, controls: Controls) -> bool:
        """Whether a setting can be answered without compiling."""
        return self._answered and self._ask("ready", controls)

    def scenery(self, controls: Controls) -> Scenery:
        """What the picture shows of a setting before anything is trained.  Raises `ComputerError` if that fails."""
        return self._ask("scenery", controls)

    def answer(self, controls: Controls) -> Answer:
        """Train and measure both defences of a setting.  Raises `ComputerError` if that fails."""
        found = self._ask("answer", controls)
        self._answered = True
        return found

    def end(self) -> None:
        """Stop computing."""
        self._process.terminate()

    def _ask(self, question: str, controls: Controls):
        with self._lock:
            try:
                self._questions.send((question, controls))
                said = self._questions.recv()
            except (EOFError, OSError) as error:
                raise ComputerError("the process that computes has ended: start the explorer again") from error
        if isinstance(said, ComputerError):
            raise said
        return said


@lru_cache(maxsize=1)
def shared() -> Computer:
    """The one that everybody who has the page open asks, so that a shape is compiled for all of them."""
    return Computer()


@contextlib.contextmanager
def _uninterrupted():
    """What is started here ignores interrupts: who interrupts the explorer is answered by the process in front."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(questions: Connection) -> None:
    """Answer until the other end is gone."""
    from simulator.explorer import live
    from simulator.startup import keep_compiled_programs

    keep_compiled_programs()
    answers = live.Live()
    # First what the first picture needs, with one other: programs that are compiled together are done together.
    answers.begin(Controls().shape, (live.DRAW, Controls().left))[0].result()
    answers.begin(Controls().shape, live.needed(Controls()))
    with contextlib.suppress(EOFError, OSError):
        while True:
            question, controls = questions.recv()
            answered = _answered(answers, question, controls)
            questions.send(answered)
            if isinstance(answered, Answer):
                _compile_ahead(answers, controls.shape, questions)
    os._exit(0)  # without waiting for what is still being compiled


def _compile_ahead(answers, shape: Shape, questions: Connection) -> None:
    """Compile what other choices need, one program after another, until somebody asks: it would hold up the answer."""
    while not questions.poll(QUIET) and answers.begin_another(shape):
        pass


def _answered(answers, question: str, controls: Controls) -> Answer | Scenery | bool | ComputerError:
    try:
        return {"ready": answers.ready, "scenery": answers.scenery, "answer": answers.answer}[question](controls)
    except Exception as error:  # whatever it is, the page says it, and other settings may still be answered
        return ComputerError(f"{type(error).__name__}: {error}")
