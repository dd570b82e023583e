"""Answering to the user while compiled code runs."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from simulator.studies.report import Report


class Stopped(Exception):
    """The run was asked to stop and did, with everything saved."""


@contextmanager
def stop_on_interrupt(report: Report) -> Iterator[threading.Event]:
    """An event that the first interruption by the user sets; the second one ends the program at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        report.say("stopping after the current chunk; interrupt again to stop at once and lose that chunk")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def in_thread(work: Callable[[], Any]) -> Any:
    """Do something in a thread, so that this one can answer to an interruption."""
    done: list[Any] = []
    double = jnp.result_type(float) == jnp.float64

    def target():
        try:
            # The precision is a setting of each thread.
            with jax.enable_x64(double):
                done.append((work(), None))
        except BaseException as error:  # handed on below
            done.append((None, error))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join()
    value, error = done[0]
    if error is not None:
        raise error
    return value
