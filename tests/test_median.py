"""Medians by counting, against NumPy's and JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulator.bounds.median import median


def columns(count, dtype):
    """Columns with ties, zeros, infinities, numbers below and at the ends of the normal range."""
    draw = np.random.default_rng(count)
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    kinds = [
        draw.random((count, 40)),
        draw.integers(0, 3, (count, 40)),
        np.abs(draw.standard_cauchy((count, 40))),
        np.where(draw.random((count, 20)) < 0.5, np.inf, draw.random((count, 20))),
        draw.choice([0, -0.0, tiny, huge, 1, np.inf], (count, 60)),
        np.zeros((count, 1)),
        np.full((count, 1), np.inf),
    ]
    return np.concatenate(kinds, axis=1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 50, 51])
def test_it_is_the_median(count, dtype, float64):
    values = columns(count, dtype)
    ordered = np.sort(values, axis=0)
    # Halved before the sum, so that the mean of two largest numbers is finite.
    wanted = ordered[(count - 1) // 2] / 2 + ordered[count // 2] / 2
    found = jax.jit(median)(values)
    assert found.dtype == dtype
    # XLA may take numbers below the normal range for 0.
    normal = np.finfo(dtype).tiny
    np.testing.assert_array_equal(np.where(found < normal, 0, found), np.where(wanted < normal, 0, wanted))
    finite = np.isfinite(values).all(0) & (values.max(0) < 1e30)
    np.testing.assert_array_equal(found[finite], jnp.median(values, axis=0)[finite])


def test_what_is_no_number_makes_none():
    values = jnp.array([[1.0, 1], [jnp.nan, 2], [3, 3]])
    np.testing.assert_array_equal(median(values), [np.nan, 2])


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_gradient_is_that_of_a_sort_without_ties(count, float64):
    values = jnp.asarray(np.random.default_rng(0).random((count, 9)))

    def slope(function):
        return jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(function(v)))))(values)

    np.testing.assert_allclose(slope(median), slope(lambda v: jnp.median(v, axis=0)), rtol=1e-15)


def test_equal_values_share_the_gradient(float64):
    values = jnp.array([[1.0, 2, 0], [1, 2, 1], [1, 5, 1], [4, 1, 3]])
    slope = jax.grad(lambda v: jnp.sum(median(v)))(values)
    # (1, 1): thirds; (2, 2): halves; (1, 1) again.
    np.testing.assert_allclose(slope.T, [[1 / 3, 1 / 3, 1 / 3, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]], rtol=1e-15)


def test_a_batch_is_each_example_alone():
    values = jnp.asarray(np.random.default_rng(1).random((3, 6, 5)), jnp.float32)
    np.testing.assert_array_equal(jax.vmap(median)(values), jnp.median(values, axis=1))
