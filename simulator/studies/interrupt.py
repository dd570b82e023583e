"""Answering to the user while compiled code runs."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import jax
import jax.numpy as jnp

from simulator.studies.report import Report


class Stopped(Exception):
    """The run was asked to stop and did, with everything saved."""


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Of a user at the keyboard, and of a batch system whose time is up."""


@contextmanager
def stop_on_interrupt(report: Report) -> Iterator[threading.Event]:
    """An event that the first of `SIGNALS` sets; the second one ends the program at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        report.say("stopping as soon as the current work is saved; interrupt again to stop at once and lose it")

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def background() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """A function that does something in a thread and waits, so that this thread can answer to an interruption.

    One thread for everything, since the memory a thread has freed is not always given to the next one; and one that
    does not keep the program from ending.
    """
    tasks: SimpleQueue[tuple[Callable[[], Any], Future] | None] = SimpleQueue()
    double = jnp.result_type(float) == jnp.float64

    def work_off():
        # The precision is a setting of each thread.
        with jax.enable_x64(double):
            while (task := tasks.get()) is not None:
                work, future = task
                try:
                    future.set_result(work())
                except BaseException as error:  # handed on to whoever waits
                    future.set_exception(error)

    def do(work: Callable[[], Any]) -> Any:
        future: Future = Future()
        tasks.put((work, future))
        return future.result()

    threading.Thread(target=work_off, daemon=True).start()
    try:
        yield do
    finally:
        tasks.put(None)
