"""Unpacking archives that may be damaged or hostile: only plain files and folders, only below the folder given."""

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from simulator.images.errors import ImageDataError

MOST_FILES = 10**6
BLOCK = 2**16

DAMAGE = (
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)
"""What the libraries raise on archives that are damaged, encrypted or compressed in a way they do not know."""


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Unpack a .zip or .tar.gz into `folder`.

    Raises `ImageDataError`, before anything of a bad member is written, if the archive is damaged, holds more than
    `limit` bytes or a million files, or has a member that is a link or a device or would leave the folder.
    """
    with _refusing_damage(archive):
        if archive.name.endswith(".zip"):
            _unzip(archive, folder, limit)
        else:
            _untar(archive, folder, limit)


@contextmanager
def _refusing_damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except ImageDataError:
        raise
    except DAMAGE as error:
        raise ImageDataError(f"{archive.name} is not an archive that can be unpacked ({error})") from error
    except OSError as error:
        raise ImageDataError(f"{archive.name} cannot be unpacked ({error.strerror or error})") from error


class _Check:
    """The members of one archive so far."""

    def __init__(self, archive: Path, limit: int):
        self.archive, self.limit, self.total, self.names = archive.name, limit, 0, set[str]()

    def __call__(self, name: str, size: int, plain: bool) -> None:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in name or "\0" in name:
            raise ImageDataError(f"{self.archive} has the member {name!r}, which would leave its folder")
        if not plain:
            raise ImageDataError(f"{self.archive} has the member {name!r}, which is neither a file nor a folder")
        key = "/".join(parts).casefold()
        if key in self.names:
            raise ImageDataError(f"{self.archive} has the member {name!r} twice")
        self.names.add(key)
        self.count(size)

    def count(self, size: int) -> None:
        """So many bytes more."""
        self.total += size
        if self.total > self.limit or len(self.names) > MOST_FILES:
            raise ImageDataError(
                f"{self.archive} is too large: it holds more than the {self.limit} bytes or {MOST_FILES} files expected"
            )


def _untar(archive: Path, folder: Path, limit: int) -> None:
    check = _Check(archive, limit)
    with gzip.open(archive) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                check(member.name, member.size, (member.isreg() and not member.issparse()) or member.isdir())
                tar.extract(member, folder, filter="data")
        # The checksum of all follows the last byte, where the end of the members is not yet the end.
        while left := stream.read(BLOCK):
            check.count(len(left))


def _unzip(archive: Path, folder: Path, limit: int) -> None:
    check = _Check(archive, limit)
    with zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            # Archives made elsewhere than on Unix state no kind.
            check(member.orig_filename, member.file_size, kind in (0, stat.S_IFREG, stat.S_IFDIR))
        for member in members:
            zipped.extract(member, folder)
