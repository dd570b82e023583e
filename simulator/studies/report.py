"""What a long run tells while it works."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Report:
    """Callbacks of a long run; the defaults are silent."""

    say: Callable[[str], None] = lambda sentence: None
    start: Callable[[str, int], None] = lambda what, total: None
    tick: Callable[[int], None] = lambda amount: None
    stop: Callable[[], None] = lambda: None


SILENT = Report()
