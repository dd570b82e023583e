"""What a training would need, from the compiled program, without running it."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from simulator.image_training.fit import MakeLoss, optimizer_of, stretch_of
from simulator.image_training.preset import Preset
from simulator.networks import Network, Shape
from simulator.threats import Threat


def compiled(
    network: Network,
    threat: Threat,
    make_loss: MakeLoss,
    preset: Preset,
    shape: Shape,
    examples: int,
    *,
    at_once: int = 0,
) -> Any:
    """The compiled steps of a training on `examples` images of bytes of the network's shape; nothing is run."""
    dtype = jnp.result_type(float)

    def described(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)), tree)

    network = described(network)
    memory = described(jax.eval_shape(optimizer_of(preset).init, network))
    key = jax.eval_shape(lambda: jr.key(0))
    images = jax.ShapeDtypeStruct((examples, *shape), jnp.uint8)
    labels, number = jax.ShapeDtypeStruct((examples,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    run: Any = stretch_of(preset, make_loss, shape, 255, at_once)
    total = jax.ShapeDtypeStruct((), dtype)
    return run.lower(key, network, memory, total, described(threat), images, labels, number, number).compile()


def needed_bytes(program: Any) -> int:
    """Memory of a device while a compiled program runs: arguments, results and what is in between."""
    found = program.memory_analysis()
    return int(found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes)
