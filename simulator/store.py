"""Stores: one Zarr directory per study, with everything needed to tell what made it.

A store is written chunk by chunk, a chunk being any list of boxes of the arrays: first the data, then a *record* of the
chunk with a digest of all its values, written to a temporary file, flushed to the disk and renamed.  A chunk counts as
saved only while what can be read back has the digest of its record, so nothing that is missing, torn, truncated or
altered passes for a result.  An interrupted store made by the same settings is continued; one made by anything else is
refused with the difference, never overwritten unless asked.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import Crc32cCodec, ZstdCodec

IDENTITY = ("study", "settings", "seed", "numbers", "precision")
"""The attributes that decide whether two stores hold the same experiment, with `FILES` where there is one."""

FILES = "files"
"""The attribute that says, by digests, what a study read from files; those that only draw have none."""

BOOKKEEPING = ("chunk_extents", "chunk_rows", "variables")
"""The attributes that only the continuation of a run needs."""

LIBRARIES = ("jax", "jaxlib", "numpy", "optax", "equinox", "xarray", "zarr")
"""Those whose versions a store keeps."""

FIXED, DERIVED = "fixed", "derived"
"""Records of what is known from the start, and of what is derived at the end; every other one is a chunk's."""


class StoreError(Exception):
    """A store that cannot be used as asked, in one sentence."""


def provenance(
    study: str, settings: Mapping[str, Any], seed: int, numbers: int, precision: str, **extra: Any
) -> dict[str, Any]:
    """The attributes of a store: identity, versions, commit.  `numbers` is the version of the code's numbers."""
    return {
        "study": study,
        "settings": json.dumps(settings, sort_keys=True),
        "seed": seed,
        "numbers": numbers,
        "precision": precision,
        "versions": json.dumps({name: version(name) for name in LIBRARIES}),
        "commit": _commit(),
        **extra,
    }


def _commit() -> str:
    """The commit of the checkout the code runs from, with "-dirty" if the code is not that of it; or "unknown" outside
    one.  Figures and results that a run has written into the checkout are no code."""
    try:
        commit = _git("describe", "--always", "--abbrev=12")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--", ".") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    """What git says of the folder of this package."""
    here = Path(__file__).resolve().parent
    return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def path_of(folder: Path, study: str) -> Path:
    """Where a study's store lies in a folder."""
    return folder / f"{study}.zarr"


def locate(folder: Path, study: str) -> Path:
    """Where a study's store lies in a folder, or its archive if only that is there."""
    path, archive = path_of(folder, study), archive_of(folder, study)
    return archive if archive.exists() and not path.exists() else path


def archive_of(folder: Path, study: str) -> Path:
    """Where a study's archive lies in a folder."""
    return folder / f"{study}.zarr.zip"


def archive(result: xr.Dataset, path: Path) -> None:
    """Write a result as one small file, a Zarr store in a zip archive; the same result gives the same bytes."""
    kept = result.drop_encoding()
    kept.attrs = {name: value for name, value in result.attrs.items() if name not in BOOKKEEPING}
    codecs = [ZstdCodec(level=9), Crc32cCodec()]
    whole = {name: {"chunks": one.shape, "compressors": codecs} for name, one in kept.variables.items() if one.shape}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        kept.to_zarr(folder, mode="w", consolidated=False, zarr_format=3, encoding=whole)
        new = path.with_name(f"{path.name}.new")
        with zipfile.ZipFile(new, "w") as file:
            for part in sorted(part for part in Path(folder).rglob("*") if part.is_file()):
                # Without the time of writing, which a ZipInfo made from a name alone does not have.
                file.writestr(zipfile.ZipInfo(str(part.relative_to(folder))), part.read_bytes())
        new.replace(path)


def digest(result: xr.Dataset) -> str:
    """Of all values of a result: two with the same digest hold the same numbers."""
    found = hashlib.sha256()
    for name in sorted(map(str, result.variables)):
        found.update(f"{name} {result[name].dims}".encode())
        _digest(found, result[name].values)
    return found.hexdigest()[:16]


def read(path: Path) -> xr.Dataset:
    """Load a store, or an archive, into memory.  Raises `StoreError` if none is at `path` or it cannot be read."""
    if not path.exists():
        raise StoreError(f"there is no store at {path}: run the study first")
    if inside := [] if path.is_file() or (path / "zarr.json").exists() else sorted(path.glob("*.zarr*")):
        raise StoreError(f"{path} is a folder of results: give one of {', '.join(map(str, inside))}")
    try:
        source = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
        result = xr.load_dataset(source, engine="zarr", consolidated=False)
    except Exception as error:  # whatever a damaged directory makes the reader raise
        raise StoreError(
            f"{path} is not a readable result store ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    missing = [name for name in IDENTITY if name not in result.attrs]
    if missing or "status" not in result:
        raise StoreError(f"{path} is not a result store of this program: it lacks {', '.join(missing) or 'status'}")
    text = [name for name, variable in result.variables.items() if variable.dtype.kind == "T"]
    read = result.assign({n: result[n].astype(object) for n in text}).assign_attrs(result.attrs)
    # Of its own a store lists its arrays in an order that changes from one process to the next.
    names = sorted(read.data_vars)
    return read.drop_vars(names).assign({name: read[name] for name in names})


def state(path: Path, wanted: Mapping[str, Any]) -> str:
    """ "absent", "partial" or "complete".  Raises `StoreError` if something else is there, saying what differs."""
    if not path.exists():
        return "absent"
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except Exception as error:
        raise StoreError(
            f"{path} exists but is not a result store: move it away, give another --out, or replace it by --overwrite"
        ) from error
    differences = [
        _difference(key, attributes.get(key), wanted.get(key))
        for key in (*IDENTITY, FILES)
        if attributes.get(key) != wanted.get(key)
    ]
    if differences:
        raise StoreError(
            f"{path} holds another run ({'; '.join(differences)}): give another --out, or replace it by --overwrite"
        )
    return "complete" if attributes.get("complete") else "partial"


def attributes(path: Path) -> dict[str, Any]:
    """The attributes of a store, without its data."""
    return dict(zarr.open_group(path, mode="r").attrs)


def _difference(key: str, there: Any, here: Any) -> str:
    try:
        old, new = dict(json.loads(there)), json.loads(here)
    except (TypeError, ValueError):  # not settings, or not ours
        return f"{key} is {there} there, {here} here"
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return "; ".join(f"{name} is {old.get(name)} there, {new.get(name)} here" for name in names)


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise `StoreError` if the folder an option names cannot be made or written into; nothing is created."""
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not there.is_dir():
        raise StoreError(f"{there} is a file, not a folder: give another {option}")
    if not os.access(there, os.W_OK):
        raise StoreError(f"the folder {there} is not writable: give another {option}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the store for writing.  Raises `StoreError` if another process, on this machine, holds it.

    The lock belongs to the process, so that one that was killed leaves nothing to clean up.
    """
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.parent / f".{path.stem}.lock", timeout=0):
            yield
    except Timeout as error:
        raise StoreError(f"another run is writing {path}: wait until it ends, or give another --out") from error


Variables = Mapping[str, tuple[Sequence[str], Sequence[int], Any]]
"""Name -> (dimensions, shape, type) of arrays that are filled box by box; text as type `str`."""


@dataclass(frozen=True)
class Template:
    """What a store holds besides its attributes."""

    variables: Variables
    extents: Mapping[str, int]
    """Positions of a box along each dimension; other dimensions are kept whole."""
    fixed: xr.Dataset
    """Coordinates, and variables that are known from the start; none where those of a store are sound."""


def create(path: Path, template: Template, attributes: Mapping[str, Any], overwrite: bool) -> None:
    """Make an empty store, whole or not at all.  Raises `StoreError` if `path` is taken and not to be overwritten."""
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists already: give another --out, or replace it by --overwrite")
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    for leftover in (new, old):
        _remove(leftover)
    group = zarr.open_group(new, mode="w")
    _write_group(new / "progress", {})
    _make_arrays(new, template)
    group.attrs.update(dict(attributes))
    if path.exists():
        path.rename(old)
    new.rename(path)
    _remove(old)


def mend(path: Path, template: Template) -> None:
    """Make again what a continued run needs and does not find: the description of an array, a coordinate."""
    _write_group(path / "progress", {})
    _make_arrays(path, template)
    annotate(path, {"complete": False})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()


def _make_arrays(path: Path, template: Template) -> None:
    """Make the arrays that are not there as they should be; the data of an array without its description are kept."""
    group = zarr.open_group(path, mode="r+")
    for name, (dims, shape, dtype) in template.variables.items():
        if not _describes(group, name, shape):
            (path / name / "zarr.json").unlink(missing_ok=True)
            _make_array(group, name, dims, shape, dtype, template.extents)
    for name, variable in template.fixed.variables.items():
        _remove(path / str(name))
        text = variable.dtype.kind in "OU"
        _make_array(group, str(name), variable.dims, variable.shape, str if text else variable.dtype, {})
    if template.fixed.variables:
        values = {str(name): variable.values for name, variable in template.fixed.variables.items()}
        save_chunk(path, FIXED, [((), values)], {})


def _make_array(group: zarr.Group, name: str, dims, shape, dtype, extents: Mapping[str, int]) -> zarr.Array:
    # The fill value is what a chunk that was never written reads as.
    fill = "not_run" if dtype is str else np.nan if np.dtype(dtype).kind == "f" else 0
    return group.create_array(
        name,
        shape=tuple(shape),
        chunks=tuple(max(1, min(size, extents.get(dim, size))) for dim, size in zip(dims, shape, strict=True)),
        dtype=dtype,
        fill_value=fill,
        dimension_names=tuple(dims),
        # The default compression does not notice a flipped bit.
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
    )


def _describes(group: zarr.Group, name: str, shape: Sequence[int]) -> bool:
    try:
        return group[name].shape == tuple(shape)
    except Exception:  # absent, or whatever a damaged description makes the reader raise
        return False


Box = tuple[slice, ...]
"""A range of positions along every axis."""


def save_chunk(path: Path, name: str, boxes: Iterable[tuple[Box, Mapping[str, np.ndarray]]], about: Mapping) -> None:
    """Write the boxes of a chunk, one by one, then its record, which also keeps `about`.

    A box is a range of positions along the leading axes, whole in the chunks of the arrays (`ValueError` otherwise).
    """
    group, digest = zarr.open_group(path, mode="r+"), hashlib.sha256()
    places: list[list[list[int]]] = []
    names: list[str] = []
    for box, values in boxes:
        names = sorted(values)
        places.append([[part.start, part.stop] for part in box])
        for variable in names:
            kept = _plain(values[variable])
            _write(group[variable], box, kept)
            _digest(digest, kept)
    _write_group(path / "progress" / name, {"boxes": places, "variables": names, "digest": digest.hexdigest(), **about})


def _plain(values: np.ndarray) -> np.ndarray:
    """The values with every NaN the same: a part of an array that is nothing but NaN is not written, as that is what a
    missing part reads as, and a NaN with a sign, as processors make them, would not be read back as it was."""
    if values.dtype.kind != "f":
        return values
    return np.where(np.isnan(values), np.array(np.nan, values.dtype), values)


def _write(array: zarr.Array, box: Box, values: np.ndarray) -> None:
    for part, size, chunk in zip(box, array.shape, array.chunks, strict=False):
        # Two boxes in one chunk of the file would overwrite each other when written at once.
        if part.start % chunk or (part.stop % chunk and part.stop != size) or part.stop - part.start > chunk:
            raise ValueError(f"the box {box} does not fit the chunks {array.chunks} of {array.name}")
    array[box] = values


def _digest(digest, array: np.ndarray) -> None:
    text = array.dtype.kind in "OUT"
    digest.update("\n".join(array.ravel().tolist()).encode() if text else np.ascontiguousarray(array).tobytes())


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """A record, or the folder of the records: Zarr groups, so that other readers see a valid hierarchy."""
    folder.mkdir(exist_ok=True)
    new = folder / "zarr.json.new"
    with new.open("w", encoding="utf-8") as file:
        json.dump({"zarr_format": 3, "node_type": "group", "attributes": attributes}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / "zarr.json")


def records(path: Path) -> dict[str, dict[str, Any]]:
    """The records of all chunks that were saved, by name."""
    found = {}
    for file in sorted((path / "progress").glob("*/zarr.json")):
        try:
            found[file.parent.name] = dict(json.loads(file.read_text(encoding="utf-8"))["attributes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a record that cannot be read proves nothing: its chunk is computed again
    return found


def is_sound(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether the values of a chunk that can be read now are those that were saved."""
    try:
        group = zarr.open_group(path, mode="r")
        digest = hashlib.sha256()
        for box in record["boxes"]:
            for name in record["variables"]:
                _digest(digest, np.asarray(group[name][tuple(slice(start, stop) for start, stop in box)]))
        return bool(digest.hexdigest() == record["digest"])
    except Exception:  # whatever a damaged chunk or record makes the reader raise
        return False


def lists_records(path: Path) -> bool:
    """Whether the folder of the records is what other readers of the hierarchy expect."""
    try:
        zarr.open_group(path / "progress", mode="r")
    except Exception:  # absent, or whatever a damaged description makes the reader raise
        return False
    return True


def read_box(path: Path, names: Sequence[str], box: Box) -> xr.Dataset:
    """Some variables over a range of positions along their leading axes, in memory, without coordinates."""
    group = zarr.open_group(path, mode="r")
    found = {}
    for name in names:
        values = np.asarray(group[name][box])
        found[name] = (
            group[name].metadata.dimension_names,
            values.astype(object) if values.dtype.kind == "T" else values,
        )
    return xr.Dataset(found)


def add_variables(path: Path, variables: Variables, extents: Mapping[str, int]) -> None:
    """Make arrays for variables derived from the others, where they are missing."""
    _make_arrays(path, Template(variables, extents, xr.Dataset()))


def annotate(path: Path, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a store."""
    zarr.open_group(path, mode="r+").attrs.update(dict(attributes))
