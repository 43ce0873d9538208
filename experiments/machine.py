"""What figures depend on: processor, versions, devices, threads and the environment that changes speed."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import numpy as np


def describe_machine() -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
    return {
        "processor": _processor(),
        "cores": count_cores(),
        "load before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (jax, jaxlib, flax, np)},
        "backend": jax.default_backend(),
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "XLA_", "GLIBC_", "OMP_"))},
    }


def count_cores() -> int:
    """The processor cores that this process may use: XLA and numpy take as many threads."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
