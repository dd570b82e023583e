"""Compiled programs of the tests, where compiling is nearly all the cost.

What a test jits is one program: values that only differ in numbers are its arguments, and tests that read different
parts of the same computation share it through a cached function of their module.
"""

import jax


def quick_jit(function, **options):
    """jit that spends little on optimising: these programs run briefly, so that compiling them is all the cost."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)
