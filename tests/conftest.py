"""Tests run on eight virtual CPU devices and refuse implicit broadcasting and dtype promotion."""

from __future__ import annotations

import os

# Both must be set before jax is imported. NPROC sizes XLA's thread pool: with fewer threads than twice the devices a
# collective can wait for a participant that never gets a thread.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
