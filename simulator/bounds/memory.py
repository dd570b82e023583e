"""What a batch of bounds needs in memory, before it is run."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simulator.bounds.bound import lower
from simulator.networks import Network, contrast, others
from simulator.threats import Threat


def peak_bytes(network: Network, threat: Threat, x: Float[Array, "n d"], method: str) -> int:
    """Bytes that bounding the margins of n examples at once takes, by the compiler's analysis: nothing is run.

    A backward bound holds at most `simulator.bounds.head.AT_ONCE` bytes of rows for every example, whatever the widths;
    for more examples than fit, walk over them with `jax.lax.map(..., batch_size=...)`.
    """

    def all_of(network, threat, x):
        zero = jnp.zeros((), jnp.int32)
        rows = contrast(network, zero, others(network, zero))
        return jax.vmap(lambda x: lower(network, threat.at(x), x, rows, method))(x)

    compiled = jax.jit(all_of).lower(network, threat, x).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise RuntimeError("this backend does not say how much memory a program needs")
    return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes + analysis.argument_size_in_bytes)
