"""Fetching a published data set: checked, unpacked, put into place in one step; it is there whole or not at all."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from simulator.images.archives import unpack
from simulator.images.errors import ImageDataError
from simulator.images.sets import Download, ImageSet, data_folder, find

RECORD = "fetched.json"
"""The file in the folder of a fetched set that says which published files it came from."""
RETRIES = 2
TIMEOUT = 30
"""Seconds without an answer after which a try has failed."""

BLOCK = 2**16
AS_STORED = {"Accept-Encoding": "identity"}
"""Checksums are of the files as they are stored, not compressed once more on the way."""

Say = Callable[[str], None]


def _nothing(sentence: str) -> None:
    pass


def fetch(name: str, folder: str | Path | None = None, say: Say = _nothing) -> Path:
    """Download a data set into `folder` (by default `data_folder()`) and return the folder of its files there.

    Every file is downloaded to a temporary folder beside it, again if that fails, and from the next publisher if that
    goes on; checked against its published SHA-256; and, if an archive, unpacked.  The folder of the set is then made
    by one rename.  What is there already is not fetched again.  `say` is given a line per file.

    Raises `ImageDataError` if there is no such set, nobody delivers it, it is not the published one, its folder holds
    something else, or another fetch of it is at work.
    """
    known = find(name)
    root = data_folder() if folder is None else Path(folder)
    if not known.downloads:
        raise ImageDataError(f"{name} ships with the package: there is nothing to fetch, load it")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock", timeout=0):
            return _fetch_alone(known, root, say)
    except Timeout as error:
        raise ImageDataError(f"{name} is being fetched into {root} already: wait for that to end") from error
    except OSError as error:
        raise ImageDataError(
            f"{name} cannot be stored in {root} ({error.strerror or error}): give another folder"
        ) from error


def _fetch_alone(known: ImageSet, root: Path, say: Say) -> Path:
    """Fetch under the lock: what other attempts left behind is nobody's."""
    place = root / known.folder
    record = {"name": known.name, "sha256": {one.file: one.sha256 for one in known.downloads}}
    prefix = f".{known.name}-part-"
    for left in root.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    if place.exists():
        if not _is_recorded(place, record):
            raise ImageDataError(f"{place} holds something that was not fetched: move it away or give another folder")
        say(f"{known.name} is in {place} already")
        return place
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as temporary:
        made = _delivered(known, Path(temporary), say)
        (made / RECORD).write_text(json.dumps(record, indent=1))
        os.replace(made, place)
    return place


def _is_recorded(place: Path, record: dict) -> bool:
    try:
        return json.loads((place / RECORD).read_text(encoding="utf-8")) == record
    except (OSError, ValueError):
        return False


def _delivered(known: ImageSet, temporary: Path, say: Say) -> Path:
    """A folder with the files of the set."""
    files = temporary / "files"
    files.mkdir()
    for one in known.downloads:
        _download(one, files, say)
    if not known.archive:
        return files
    (archive,) = known.downloads
    say(f"unpacking {archive.file}")
    unpack(files / archive.file, temporary / "unpacked", known.unpacked)
    made = temporary / "unpacked" / known.archive
    if not made.is_dir():
        raise ImageDataError(f"{archive.file} has no folder {known.archive}, in which the set should be")
    return made


def _download(one: Download, folder: Path, say: Say) -> None:
    """One file into a folder, from the first publisher that delivers it."""
    refusals = []
    for url in one.urls:
        say(f"fetching {one.file} ({one.size / 1e6:.3g} MB) from {url}")
        try:
            _download_from(url, one, folder)
            return
        except _Refused as refused:
            refusals.append(f"{url}: {refused}")
    raise ImageDataError(f"{one.file} could not be fetched ({'; '.join(refusals)})")


class _Refused(Exception):
    """Why a publisher did not deliver a file, in a few words."""


def _download_from(url: str, one: Download, folder: Path) -> None:
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImageDataError("fetching needs pooch: install simulator with its extra images") from error
    registry = pooch.create(
        path=folder,
        base_url="",
        registry={one.file: f"sha256:{one.sha256}"},
        urls={one.file: url},
        retry_if_failed=RETRIES,
    )
    downloader = pooch.HTTPDownloader(
        progressbar=_Limit(one.size), chunk_size=BLOCK, timeout=TIMEOUT, headers=AS_STORED
    )
    try:
        with _silent(pooch.get_logger()):
            registry.fetch(one.file, downloader=downloader)
    except requests.exceptions.RequestException as error:
        raise _Refused(_words_of(error)) from error
    except _TooLong as error:
        raise _Refused(f"more than the {one.size} bytes published") from error
    except ValueError as error:  # pooch's word for a hash that differs
        raise _Refused(f"not the published file, whose SHA-256 is {one.sha256}") from error


def _words_of(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"status {response.status_code}" if response is not None else type(error).__name__


class _TooLong(ValueError):
    """An answer that is longer than the file that was asked for."""


class _Limit:
    """Stands where the downloader has its progress bar, to stop an answer that does not end."""

    def __init__(self, size: int):
        self.total, self.size, self.done = 0, size, 0

    def update(self, amount: int) -> None:
        self.done += amount
        # Blocks count in full, also the last one and those that the network cut short.
        if self.done > 2 * self.size + 16 * BLOCK:
            self.done = 0
            raise _TooLong

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        self.done = 0


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Leave speaking to us for a while."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
