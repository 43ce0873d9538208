"""The lock of a work directory: one program writes to it at a time, and says who it is.

The file `lock` is locked with `flock`, which ends with the process, however it ends. Where the file system has no such
locks the file `lock.lease` stands for them: its holder touches it every few seconds, and a lease that nobody has
touched for a minute, or whose process is gone from this machine, is taken over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffpose_jax.errors import UserError
from diffpose_jax.processes import describe_process, is_gone

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LOCK, LEASE = "lock", "lock.lease"
# Seconds between two touches of a lease, and after how many without one it is stale.
_TOUCH, _STALE = 10.0, 60.0
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(workdir: Path, purpose: str) -> Iterator[None]:
    """Holds the lock of a work directory while the block runs.

    Args:
        workdir: The work directory, which exists.
        purpose: What its holder does, for the message to others: 'train'.

    Raises:
        UserError: Another process, which is named, holds it.
    """
    holder = {"purpose": purpose, **describe_process(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    release = _flock(workdir / LOCK, holder) or _lease(workdir / LEASE, holder)
    try:
        yield
    finally:
        release()


def _flock(path: Path, holder: dict[str, Any]) -> Any:
    """Locks a file, names the holder in it, and returns how it is released; None where there are no such locks."""
    if fcntl is None:
        return None
    opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(opened)
        if error.errno in _NO_FLOCK:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _refuse(path) from None
        raise
    # On a full disk the lock holds all the same, and only the name of its holder is missing.
    with contextlib.suppress(OSError):
        os.ftruncate(opened, 0)
        os.write(opened, (json.dumps(holder) + "\n").encode())
    # The file stays: between a removal and a new file two processes could both hold a lock.
    return lambda: os.close(opened)


def _lease(path: Path, holder: dict[str, Any]) -> Any:
    """Creates a lease, keeps it touched, and returns how it is released."""
    for _ in range(2):
        try:
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            break
        except FileExistsError:
            if not _is_stale(path):
                raise _refuse(path) from None
            # Whoever renames it first has taken it away; the others find nothing to rename.
            with contextlib.suppress(FileNotFoundError):
                taken = path.with_name(f"{path.name}.{os.getpid()}")
                os.rename(path, taken)
                taken.unlink()
    else:
        raise _refuse(path)
    with os.fdopen(opened, "w") as file:
        file.write(json.dumps(holder) + "\n")
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(_TOUCH):
            with contextlib.suppress(OSError):
                os.utime(path)

    threading.Thread(target=touch, daemon=True).start()

    def release() -> None:
        ended.set()
        path.unlink(missing_ok=True)

    return release


def _is_stale(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_mtime > _STALE:
            return True
    except FileNotFoundError:
        return True
    return is_gone(_read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")[:4096])
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse(path: Path) -> UserError:
    holder = _read(path)
    who = ", ".join(f"{name} {holder[name]}" for name in ("pid", "host", "since") if name in holder) or "not named"
    return UserError(f"{path.parent}: expected a work directory that no other program writes to, found that it is "
                     f"in use by {holder.get('purpose', 'another process')} ({who})")  # fmt: skip
