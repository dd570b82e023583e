"""IDX, the format of MNIST and Fashion-MNIST: a header of big-endian numbers, then bytes, plain or compressed by gzip.

Header: two zero bytes, the code of the type (8: unsigned bytes), the number of axes, then the length of each axis as
32 bits.  Format: the page of MNIST by LeCun, Cortes and Burges.
"""

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from simulator.images.dataset import Images
from simulator.images.errors import ImageDataError
from simulator.images.files import check_file, check_folder, readable
from simulator.images.sets import ImageSet

UNSIGNED_BYTES = 8
MOST_IMAGES = 10**6
"""More than any file of these sets holds: what claims more is damaged, and must not fill the memory."""
BLOCK = 2**20


def read(folder: Path, known: ImageSet) -> Images:
    """A set of two pairs of files under their official names, compressed (.gz) or, where only that is there, plain.

    Raises `ImageDataError` if a file is missing or damaged, or the pairs do not match each other or the set.
    """
    check_folder(folder)
    arrays = []
    for part in ("train", "t10k"):
        image_file = _found(folder, f"{part}-images-idx3-ubyte")
        label_file = _found(folder, f"{part}-labels-idx1-ubyte")
        x, y = read_images(image_file, known.shape[1:]), read_labels(label_file, len(known.classes))
        if len(x) != len(y):
            raise ImageDataError(f"{image_file} holds {len(x)} images, but {label_file} {len(y)} labels")
        arrays += [x, y]
    x_train, y_train, x_test, y_test = arrays
    return known.images(x_train, y_train, x_test, y_test)


def read_images(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "n 1 height width"]:
    """Grey images of `size` (height, width); raises `ImageDataError` if the file holds anything else."""
    return read_array(path, size)[:, None]


def read_labels(path: Path, classes: int) -> Int32[np.ndarray, " n"]:
    """Labels in 0..classes - 1; raises `ImageDataError` if the file holds anything else."""
    labels = read_array(path, ())
    if labels.max() >= classes:
        raise ImageDataError(f"{path} holds the label {labels.max()}, but labels go from 0 to {classes - 1}")
    return labels.astype(np.int32)


def read_array(path: Path, size: tuple[int, ...]) -> UInt8[np.ndarray, "n *size"]:
    """Arrays of bytes of that size, one after another, from a file that is compressed if its name ends in .gz.

    Raises `ImageDataError` if it is missing, damaged, of another type or size, or longer or shorter than it says.
    """
    check_file(path)
    with readable(path), path.open("rb") as file:
        if path.suffix != ".gz":
            return _array(file, path, size)
        if file.read(2) != b"\x1f\x8b":
            raise ImageDataError(f"{path} is not compressed by gzip, as its name says")
        file.seek(0)
        try:
            return _array(gzip.GzipFile(fileobj=file), path, size)
        except EOFError as error:
            raise ImageDataError(f"{path} is truncated: its compressed data end too early") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ImageDataError(f"{path} is damaged: its compressed data cannot be read ({error})") from error


def _array(file: BufferedIOBase, path: Path, size: tuple[int, ...]) -> UInt8[np.ndarray, "n *size"]:
    count = _count(file, path, size)
    length = count * math.prod(size)
    content = bytearray()
    while len(content) <= length and (block := file.read(min(BLOCK, length + 1 - len(content)))):
        content += block
    if len(content) < length:
        raise ImageDataError(f"{path} is truncated: {len(content)} bytes follow its header, which announces {length}")
    if len(content) > length:
        raise ImageDataError(f"{path} goes on after the {length} bytes that its header announces")
    return np.frombuffer(content, np.uint8).reshape(count, *size)


def _count(file: BufferedIOBase, path: Path, size: tuple[int, ...]) -> int:
    """The length of the first axis, if the header is one for arrays of that size."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ImageDataError(f"{path} is not an IDX file: it starts with {magic.hex(' ')}, not with two zero bytes")
    if magic[2] != UNSIGNED_BYTES:
        raise ImageDataError(f"{path} holds data of the type {magic[2]:#04x}, but must hold unsigned bytes (0x08)")
    axes = 1 + len(size)
    if magic[3] != axes:
        raise ImageDataError(f"{path} has the rank {magic[3]}, but must have {axes}")
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise ImageDataError(f"{path} is truncated within its header")
    count, *given = struct.unpack(f">{axes}I", lengths)
    if tuple(given) != size:
        shown, wanted = (" x ".join(map(str, one)) for one in (given, size))
        raise ImageDataError(f"{path} holds images of {shown} pixels, but they must have {wanted}")
    if not 1 <= count <= MOST_IMAGES:
        raise ImageDataError(f"{path} announces {count} examples, but must have between 1 and {MOST_IMAGES}")
    return count


def _found(folder: Path, name: str) -> Path:
    """The compressed file, or the plain one where only that exists."""
    compressed, plain = folder / f"{name}.gz", folder / name
    return plain if plain.exists() and not compressed.exists() else compressed
