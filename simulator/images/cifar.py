"""The binary version of CIFAR-10: records of a label and three planes (red, green, blue) of 32 x 32 bytes.

Format: the page of CIFAR-10 by Krizhevsky.  The version for Python is not read: unpickling runs what a file says.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from simulator.images.dataset import Images
from simulator.images.errors import ImageDataError
from simulator.images.files import check_file, check_folder, lines_of, readable
from simulator.images.sets import ImageSet


def read(folder: Path, known: ImageSet) -> Images:
    """The five files of training images and the one of test images; names of classes from the optional text.

    Raises `ImageDataError` if a file is missing or damaged.
    """
    check_folder(folder)
    parts = [read_batch(folder / f"data_batch_{k}.bin", known) for k in range(1, 6)]
    x_test, y_test = read_batch(folder / "test_batch.bin", known)
    names = _names(folder / "batches.meta.txt", known)
    return known.images(
        np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), x_test, y_test, names
    )


def read_batch(path: Path, known: ImageSet) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int32[np.ndarray, " n"]]:
    """Images and labels of one file; raises `ImageDataError` if it is not made of whole records of known classes."""
    check_file(path)
    with readable(path):
        content = np.fromfile(path, np.uint8)
    record = 1 + int(np.prod(known.shape))
    if len(content) % record:
        raise ImageDataError(f"{path} has {len(content)} bytes, but must be made of records of {record} bytes")
    records = content.reshape(-1, record)
    labels = records[:, 0].astype(np.int32)
    if labels.max() >= len(known.classes):
        raise ImageDataError(f"{path} holds the label {labels.max()}, but labels go from 0 to {len(known.classes) - 1}")
    return records[:, 1:].reshape(-1, *known.shape), labels


def _names(path: Path, known: ImageSet) -> tuple[str, ...]:
    if not path.exists():
        return known.classes
    names = tuple(lines_of(path))
    if len(names) != len(known.classes) or len(set(names)) != len(names):
        raise ImageDataError(
            f"{path} has {len(set(names))} different names on {len(names)} lines, but must name "
            f"{len(known.classes)} classes"
        )
    return names
