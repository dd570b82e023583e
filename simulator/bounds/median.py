"""Medians by counting: on processors a sort is the slowest part of an estimate, and counting needs none."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def median(values: Float[Array, "p h"]) -> Float[Array, " h"]:
    """The medians of the columns of numbers >= 0: `jnp.median(values, axis=0)`, found without sorting.

    Of an even number of values it is the mean of the two in the middle; a NaN in a column makes its median NaN.
    The derivative is that of the values in the middle; among equal ones it is shared equally, where a sort would give
    it all to one of them: both are members of the generalised gradient.

    The bits of floats >= 0 are ordered as the floats are.  The value of rank r is the largest number v with at most r
    values below v, whose bits are found from the highest to the lowest, each by counting once.
    """
    low, high = _middle(values)
    return _mean(low, high)


@median.defjvp
def _median_jvp(primals, tangents):
    (values,), (moves,) = primals, tangents
    low, high = _middle(values)
    return _mean(low, high), _mean(_move_of(low, values, moves), _move_of(high, values, moves))


def _mean(low: Float[Array, " h"], high: Float[Array, " h"]) -> Float[Array, " h"]:
    # Halved first: the sum of two large numbers overflows.
    return low / 2 + high / 2


def _move_of(value: Float[Array, " h"], values: Float[Array, "p h"], moves: Float[Array, "p h"]) -> Float[Array, " h"]:
    """The mean of the moves of the entries that have this value."""
    equal = values == value[None]
    return jnp.sum(jnp.where(equal, moves, 0), axis=0) / jnp.sum(equal, axis=0, dtype=values.dtype)


def _middle(values: Float[Array, "p h"]) -> tuple[Float[Array, " h"], Float[Array, " h"]]:
    """The values of ranks (p - 1) // 2 and p // 2 of every column, counted from 0."""
    # A zero with a sign has bits above all others.
    values = jnp.abs(values)
    count, dtype = values.shape[0], values.dtype
    width = dtype.itemsize * 8
    unsigned = jnp.dtype(f"uint{width}")
    bits = jax.lax.bitcast_convert_type(values, unsigned)
    rank = (count - 1) // 2

    def with_bit(place, found):
        raised = found | jnp.left_shift(jnp.ones((), unsigned), (width - 2 - place).astype(unsigned))
        return jnp.where(jnp.sum(bits < raised[None], axis=0, dtype=jnp.int32) <= rank, raised, found)

    # Bit width - 1 is the sign: 0.
    found = jax.lax.fori_loop(0, width - 1, with_bit, jnp.zeros(values.shape[1:], unsigned))
    # The next rank holds the same value if enough are not above it, else the least above it.
    repeated = jnp.sum(bits <= found[None], axis=0, dtype=jnp.int32) > count // 2
    above = jnp.min(jnp.where(bits > found[None], bits, ~jnp.zeros((), unsigned)), axis=0)
    low, high = (jax.lax.bitcast_convert_type(b, dtype) for b in (found, jnp.where(repeated, found, above)))
    broken = jnp.any(jnp.isnan(values), axis=0)
    return jnp.where(broken, jnp.nan, low), jnp.where(broken, jnp.nan, high)
