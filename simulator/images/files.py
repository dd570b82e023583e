"""Reading a file that may be missing, damaged or something else, with one sentence for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulator.images.errors import ImageDataError


def check_file(path: Path) -> None:
    """Raise `ImageDataError` unless there is a file with something in it."""
    if path.is_dir():
        raise ImageDataError(f"{path} is a folder, but must be a file")
    if not path.exists():
        raise ImageDataError(f"{path} is missing")
    if path.stat().st_size == 0:
        raise ImageDataError(f"{path} is empty")


def check_folder(path: Path) -> None:
    """Raise `ImageDataError` unless there is such a folder."""
    if not path.exists():
        raise ImageDataError(f"{path} is missing")
    if not path.is_dir():
        raise ImageDataError(f"{path} is a file, but must be a folder")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system says of a file into an `ImageDataError`."""
    try:
        yield
    except OSError as error:
        raise ImageDataError(f"{path} cannot be read ({error.strerror or error})") from error


def lines_of(path: Path) -> list[str]:
    """The lines of a text that are not blank; raises `ImageDataError` if it is not a text in UTF-8 or holds none."""
    check_file(path)
    with readable(path):
        try:
            lines = [line.rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ImageDataError(f"{path} is not a text in UTF-8") from error
    if not lines:
        raise ImageDataError(f"{path} holds no line that is not blank")
    return lines
