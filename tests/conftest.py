"""Tests run on eight virtual CPU devices and refuse implicit broadcasting and dtype promotion."""

from __future__ import annotations

import os
import tempfile

# Both must be set before jax is imported. NPROC sizes XLA's thread pool: with fewer threads than twice the devices a
# collective can wait for a participant that never gets a thread.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiling is most of the time here: what one test or run has compiled, the next one reuses, subprocesses too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "diffpose_jax_tests_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
