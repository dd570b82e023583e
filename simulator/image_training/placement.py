"""Where arrays lie: over all devices of the process, or the same on every one."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def _over_devices(spec: PartitionSpec) -> NamedSharding:
    """A placement over all devices of the process."""
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("examples",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, spec)


def spread(batch: Any, axis: int = 0) -> Any:
    """A batch with its axis of examples split over all devices, where they divide it."""
    devices = len(jax.devices())
    if devices == 1 or jax.tree.leaves(batch)[0].shape[axis] % devices:
        return batch
    return jax.lax.with_sharding_constraint(batch, _over_devices(PartitionSpec(*[None] * axis, "examples")))


def everywhere(tree: Any) -> Any:
    """The same on every device of the process."""
    return jax.device_put(tree, _over_devices(PartitionSpec()))
