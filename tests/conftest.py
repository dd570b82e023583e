"""Test settings: strict promotion of dtypes and ranks, and two virtual devices, before JAX starts."""

import gc

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

import pytest  # noqa: E402


@pytest.fixture
def float64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module():
    """Forget compiled programs with the module whose tests they were compiled for.

    Every program on a CPU is mapped into memory in several pieces.  Linux allows a process 65,530 of them by default;
    the compiler crashes at the next, which a worker would reach after some thousand tests.
    """
    yield
    jax.clear_caches()
    gc.collect()
