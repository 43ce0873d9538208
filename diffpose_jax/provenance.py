"""What results say of how they were made: version, commit, device and time."""

from __future__ import annotations

import platform
import subprocess
import time
from pathlib import Path

import jax

import diffpose_jax


def describe_run() -> dict[str, str]:
    """Version and commit of the package, versions of JAX and Python, the devices, and the time in UTC."""
    devices = jax.devices()
    return {
        "version": diffpose_jax.__version__,
        "commit": find_commit(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def find_commit() -> str:
    """The commit of the checkout that the package is imported from, with '+' where it was changed; '' without one."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
