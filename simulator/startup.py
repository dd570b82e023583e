"""What every process that computes does before it starts, and between one study and the next: compiled programs."""

import os

import jax
import platformdirs

CACHE_BYTES = 2 * 10**9
"""What the compiled programs of past runs may take on disk; the least used are dropped."""


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs in the user's cache folder, unless the user has said where or cannot have one."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    folder = platformdirs.user_cache_path("simulator") / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)


def forget_compiled_programs() -> None:
    """Let go of the programs of a study that is complete: no other runs them.

    On a CPU each is mapped into memory in several pieces, of which Linux allows a process 65,530 by default.  The cache
    on disk stays.
    """
    jax.clear_caches()
