"""Checkpoints of a training: whole or not there, whenever the process dies.  Needs the extra `simulator[images]`."""

import time
from pathlib import Path
from typing import Any

import jax


class Checkpoints:
    """The latest state of one training in a folder of its own; with `folder=None` nothing is kept.

    Raises `ModuleNotFoundError`, in one sentence, if there is a folder but not the extra.
    """

    def __init__(self, folder: Path | None, every_seconds: float):
        self.every_seconds = every_seconds
        self._manager = None if folder is None else _manager(folder)
        self._saved = time.monotonic()

    def restore(self, template: Any) -> Any | None:
        """The state that was saved last, in the structure and the places of `template`; None if there is none."""
        if self._manager is None or self._manager.latest_step() is None:
            return None
        import orbax.checkpoint as ocp

        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), template
        )
        return self._manager.restore(self._manager.latest_step(), args=ocp.args.StandardRestore(shapes))

    def due(self) -> bool:
        """Whether it is time to save again."""
        return self._manager is not None and time.monotonic() - self._saved >= self.every_seconds

    def save(self, step: int, state: Any) -> None:
        """Keep a state, and then let the one before go."""
        if self._manager is None:
            return
        import orbax.checkpoint as ocp

        self._manager.save(step, args=ocp.args.StandardSave(state))
        self._saved = time.monotonic()


def _manager(folder: Path):
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ModuleNotFoundError("checkpoints need the extra: pip install 'simulator[images]'") from error
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)
