"""Stores: one Zarr directory per study, with everything needed to tell what made it.

A store is written block by block: the data of a block first, its `status` last, so that a block counts as finished only
when it is whole.  An interrupted store made by the same settings is continued; one made by anything else is refused
with the difference, never overwritten unless asked.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

IDENTITY = ("study", "settings", "seed", "numbers", "precision")
"""The attributes that decide whether two stores hold the same experiment."""

LIBRARIES = ("jax", "jaxlib", "numpy", "optax", "equinox", "xarray", "zarr")


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
    """The commit of the checkout the code runs from, or "unknown" outside one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def path_of(folder: Path, study: str) -> Path:
    """Where a study's store lies in a folder."""
    return folder / f"{study}.zarr"


def read(path: Path) -> xr.Dataset:
    """Load a store into memory.  Raises `StoreError` if there is none at `path` or it cannot be read."""
    if not path.exists():
        raise StoreError(f"there is no store at {path}: run the study first")
    try:
        result = xr.load_dataset(path, engine="zarr", consolidated=False)
    except Exception as error:  # whatever a damaged directory makes the reader raise
        raise StoreError(
            f"{path} is not a readable result store ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    missing = [name for name in IDENTITY if name not in result.attrs]
    if missing or "status" not in result:
        raise StoreError(f"{path} is not a result store of this program: it lacks {', '.join(missing) or 'status'}")
    text = [name for name, variable in result.variables.items() if variable.dtype.kind == "T"]
    return result.assign({n: result[n].astype(object) for n in text}).assign_attrs(result.attrs)


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
        _difference(key, attributes.get(key), wanted[key]) for key in IDENTITY if attributes.get(key) != wanted[key]
    ]
    if differences:
        raise StoreError(
            f"{path} holds another run ({'; '.join(differences)}): give another --out, or replace it by --overwrite"
        )
    return "complete" if attributes.get("complete") else "partial"


def _difference(key: str, there: Any, here: Any) -> str:
    try:
        old, new = dict(json.loads(there)), json.loads(here)
    except (TypeError, ValueError):  # not settings, or not ours
        return f"{key} is {there} there, {here} here"
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return "; ".join(f"{name} is {old.get(name)} there, {new.get(name)} here" for name in names)


def check_folder(folder: Path) -> None:
    """Raise `StoreError` if a folder cannot be made or written into; nothing is created."""
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not there.is_dir():
        raise StoreError(f"{there} is a file, not a folder: give another --out")
    if not os.access(there, os.W_OK):
        raise StoreError(f"the folder {there} is not writable: give another --out")


def create(
    path: Path, empty: xr.Dataset, attributes: Mapping[str, Any], static: tuple[str, ...], overwrite: bool
) -> None:
    """Write the empty grid, one chunk per combination of static axes.  Raises `StoreError` if `path` is taken."""
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists already: give another --out, or replace it by --overwrite")
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    encoding = {
        name: {"chunks": tuple(1 if dim in static else size for dim, size in variable.sizes.items())}
        for name, variable in empty.data_vars.items()
    }
    empty.assign_attrs(attributes).to_zarr(path, mode="w-", consolidated=False, zarr_format=3, encoding=encoding)


def write_block(path: Path, result: xr.Dataset, block: Mapping[str, Any]) -> None:
    """Write the cells of one block: the data first, `status` last."""
    region = {name: _position(result, name, value) for name, value in block.items()}
    part = result.isel(region).drop_vars(list(result.coords))
    filled = [name for name, variable in part.data_vars.items() if "trial" in variable.dims and name != "status"]
    for names in (filled, ["status"]):
        chosen = part[names]
        everywhere = {name: slice(0, size) for name, size in chosen.sizes.items()}
        chosen.to_zarr(path, region={**everywhere, **region}, consolidated=False)


def _position(result: xr.Dataset, name: str, value: Any) -> slice:
    index = int(np.flatnonzero(result[name].values == value)[0])
    return slice(index, index + 1)


def finish(path: Path, derived: xr.Dataset, attributes: Mapping[str, Any]) -> None:
    """Add the variables derived from the whole grid, then mark the store complete."""
    group = zarr.open_group(path, mode="r+")
    # Appending replaces the attributes of the group, so the appended variables carry them along.
    derived.drop_attrs().assign_attrs(dict(group.attrs)).to_zarr(path, mode="a", consolidated=False)
    zarr.open_group(path, mode="r+").attrs.update({**attributes, "complete": True})
