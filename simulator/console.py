"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simulator import studies


@contextmanager
def console_report(quiet: bool = False) -> Iterator[studies.Report]:
    """A progress bar with remaining time on a terminal, a plain line every 10 s elsewhere; nothing for short work."""
    if quiet:
        yield studies.Report()
        return
    errors = Console(stderr=True)
    if not errors.is_terminal:
        yield _plain_report()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        tasks: list = []

        def tick(amount: int) -> None:
            speed = bar.tasks[-1].speed
            bar.update(tasks[-1], advance=amount, rate=f"{speed:.3g}/s" if speed else "")

        yield studies.Report(
            say=lambda sentence: bar.console.print(sentence, highlight=False),
            start=lambda what, total: tasks.append(bar.add_task(what, total=total, rate="")),
            tick=tick,
            stop=lambda: bar.update(tasks[-1], visible=False),
        )


class _PlainProgress:
    """Lines for a log: what, how far, how fast, how long still."""

    def __init__(self):
        self.what, self.total, self.done, self.began, self.spoken = "", 0, 0, 0.0, 0.0

    def start(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.began = self.spoken = time.monotonic()

    def tick(self, amount: int) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.spoken >= 10:
            self.spoken, rate = now, self.done / (now - self.began)
            left = (self.total - self.done) / rate
            line = f"{self.what}: {self.done} of {self.total}, {rate:.3g} per second, about {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)


def _plain_report() -> studies.Report:
    progress = _PlainProgress()

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    return studies.Report(say=say, start=progress.start, tick=progress.tick)
