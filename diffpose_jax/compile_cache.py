"""Compiled programs kept on disk, so that the second start of a program compiles nothing.

They lie in `~/.cache/diffpose_jax/compiled` (or below XDG_CACHE_HOME); the environment variable DIFFPOSE_JAX_CACHE
names another folder, and `off` keeps nothing. A JAX_COMPILATION_CACHE_DIR of the user's goes before.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax

VARIABLE = "DIFFPOSE_JAX_CACHE"
# When a program starts, the files not used for longest go until the rest is no larger than this, in bytes.
LIMIT = 1 << 30


def keep_compiled_programs() -> Path | None:
    """Makes JAX keep what it compiles, and find what was kept; returns the folder, None where nothing is kept."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off" or jax.config.values["jax_compilation_cache_dir"] is not None:
        return None
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffpose_jax" / "compiled"
    folder = (Path(chosen) if chosen else default) / _name_machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_oldest(folder.parent, LIMIT)
    except OSError:  # A home that is not writable is no reason not to work.
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Without these only programs that take a second are kept; most of ours take tenths, and there are dozens.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def remove_oldest(folder: Path, limit: int) -> None:
    """Removes the files in a folder and below that were not used for longest until the others have `limit` bytes."""
    found = [(max(stat.st_atime, stat.st_mtime), stat.st_size, path) for path, stat in _list_files(folder)]
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size


def _list_files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    files = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                files.append((path, path.stat()))
        except OSError:  # another process removed it
            continue
    return files


def _name_machine() -> str:
    """A name for programs that run on this machine: home folders are shared by machines with other processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    digest = hashlib.sha256(" ".join([platform.machine(), features]).encode()).hexdigest()[:12]
    return f"jax-{jax.__version__}-{digest}"
