"""Tiny ImageNet: a tree of small JPEG files, decoded once into an array that is kept in a cache folder.

The labels of its test part are hidden, so its validation part is what is tested on, as in the papers.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from simulator.images.dataset import Images
from simulator.images.errors import ImageDataError
from simulator.images.files import check_folder, lines_of, readable
from simulator.images.sets import ImageSet

SUFFIX = ".JPEG"


@dataclass(frozen=True)
class Listing:
    """The images of a part in their order, and the class of each."""

    files: list[Path]
    labels: list[int]


def read(folder: Path, known: ImageSet, cache: Path) -> Images:
    """The official tree; a label is the place of the class in `wnids.txt`, its name that of `words.txt` if there.

    Training images come class by class, in the order of their names; validation images in that of
    `val_annotations.txt`.  The decoded images are kept in `cache` under a key made of the path, the size and the time
    of change of every file, so a tree that has changed is decoded again.  They are mapped, not read, into memory.

    Raises `ImageDataError` if the tree is not complete, an image is not one of the right size, or `cache` cannot be
    written.
    """
    check_folder(folder)
    wnids = _wnids(folder)
    train, test = _training(folder, wnids), _validation(folder, wnids)
    x = _decoded(folder, [*train.files, *test.files], known.shape, cache)
    n = len(train.files)
    y = np.asarray([*train.labels, *test.labels], np.int32)
    return known.images(x[:n], y[:n], x[n:], y[n:], _names(folder, wnids))


def _wnids(folder: Path) -> dict[str, int]:
    path = folder / "wnids.txt"
    wnids = [line.strip() for line in lines_of(path)]
    repeated = {wnid for wnid in wnids if wnids.count(wnid) > 1}
    if repeated:
        raise ImageDataError(f"{path} has {min(repeated)} twice")
    if bad := [wnid for wnid in wnids if not wnid.isalnum()]:
        raise ImageDataError(f"{path} has the line {bad[0]!r}, but must have one WordNet number such as n01443537 each")
    return {wnid: label for label, wnid in enumerate(wnids)}


def _names(folder: Path, wnids: dict[str, int]) -> tuple[str, ...]:
    path = folder / "words.txt"
    if not path.exists():
        return tuple(wnids)
    words = dict(line.split("\t", 1) for line in lines_of(path) if "\t" in line)
    return tuple(words.get(wnid, wnid) for wnid in wnids)


def _training(folder: Path, wnids: dict[str, int]) -> Listing:
    top = folder / "train"
    check_folder(top)
    with readable(top):
        strangers = sorted({one.name for one in top.iterdir() if one.is_dir()} - set(wnids))
    if strangers:
        raise ImageDataError(f"{top / strangers[0]} is a class that {folder / 'wnids.txt'} does not list")
    files, labels = [], []
    for wnid, label in wnids.items():
        found = _images_in(top / wnid / "images")
        if not found:
            raise ImageDataError(f"{top / wnid / 'images'} holds no file that ends in {SUFFIX}")
        files += found
        labels += [label] * len(found)
    return Listing(files, labels)


def _images_in(folder: Path) -> list[Path]:
    check_folder(folder)
    with readable(folder):
        return sorted(one for one in folder.iterdir() if one.name.endswith(SUFFIX))


def _validation(folder: Path, wnids: dict[str, int]) -> Listing:
    path, top = folder / "val" / "val_annotations.txt", folder / "val" / "images"
    labels: dict[Path, int] = {}
    there = set(_images_in(top))
    for number, line in enumerate(lines_of(path), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in wnids:
            raise ImageDataError(
                f"{path} has the class {wnid!r} on line {number}, which {folder / 'wnids.txt'} does not list"
            )
        if top / name in labels:
            raise ImageDataError(f"{path} has {name} twice, the second time on line {number}")
        if top / name not in there:
            raise ImageDataError(f"{top / name} is missing, but {path} has it on line {number}")
        labels[top / name] = wnids[wnid]
    if left := there - set(labels):
        raise ImageDataError(f"{min(left)} has no line in {path}")
    return Listing(list(labels), list(labels.values()))


def _decoded(
    folder: Path, files: list[Path], shape: tuple[int, int, int], cache: Path
) -> UInt8[np.ndarray, "n channels height width"]:
    """All images, from the cache if they are there."""
    kept = cache / f"tiny-imagenet-{_key(folder, files)}.npy"
    wanted = (len(files), *shape)
    # A file that somebody cut short is no array of this shape, and is made again.
    with suppress(OSError, ValueError):
        array = np.load(kept, mmap_mode="r", allow_pickle=False)
        if array.shape == wanted and array.dtype == np.uint8:
            return array
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{kept.stem}-", suffix=".part", dir=cache)
        os.close(handle)
    except OSError as error:
        raise ImageDataError(f"{cache} cannot be written ({error.strerror}): give another cache") from error
    try:
        _write(Path(name), _decode(files, shape), wanted, cache)
        os.replace(name, kept)
    finally:
        Path(name).unlink(missing_ok=True)
    return np.load(kept, mmap_mode="r", allow_pickle=False)


def _write(path: Path, arrays: Iterator[np.ndarray], shape: tuple[int, ...], cache: Path) -> None:
    """One array after another into a file of NumPy's format, all on the disk at the end."""
    header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8))}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            try:
                file.write(array.tobytes())
            except OSError as error:  # a full disk
                raise ImageDataError(f"{cache} cannot be written ({error.strerror}): give another cache") from error
        file.flush()
        os.fsync(file.fileno())


def _key(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        about = file.stat()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _decode(files: list[Path], shape: tuple[int, int, int]) -> Iterator[UInt8[np.ndarray, "channels height width"]]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImageDataError("decoding JPEG files needs Pillow: install simulator with its extra images") from error
    for file in files:
        try:
            with Image.open(file, formats=["JPEG"]) as image:
                if image.size != (shape[2], shape[1]):
                    given = " x ".join(map(str, image.size))
                    raise ImageDataError(f"{file} has {given} pixels, but must have {shape[2]} x {shape[1]}")
                if image.mode not in ("RGB", "L"):
                    raise ImageDataError(f"{file} has the colours {image.mode}, but must be grey or in RGB")
                pixels = np.asarray(image.convert("RGB"))
        except ImageDataError:
            raise
        # What Pillow raises on files that are no images or damaged ones; a bomb is larger than it agrees to decode.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ImageDataError(f"{file} is not a JPEG image that can be decoded") from error
        yield pixels.transpose(2, 0, 1)
