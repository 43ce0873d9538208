"""Who holds a lock or a claim: a process, named so that others can tell whether it still runs."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from typing import Any


def describe_process() -> dict[str, Any]:
    """This process: its machine, the table that its number is of, and its number."""
    return {"host": _host(), "space": _process_space(), "pid": os.getpid()}


def is_gone(holder: Mapping[str, Any]) -> bool:
    """Whether a process that `describe_process` described ran on this machine and does not any more."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    if (holder.get("host"), holder.get("space")) != (_host(), _process_space()):
        return False
    return _has_ended(pid)


def name_process() -> str:
    """A short name of this process for names of files: a digest of its machine, and its number."""
    return f"{_digest_machine()}-{os.getpid()}"


def is_name_of_gone(name: str) -> bool:
    """Whether a name that `name_process` gave is of a process that ran on this machine and does not any more."""
    machine, _, pid = name.partition("-")
    return machine == _digest_machine() and pid.isdecimal() and 0 < int(pid) < 1 << 31 and _has_ended(int(pid))


def _digest_machine() -> str:
    return hashlib.sha256(f"{_host()} {_process_space()}".encode()).hexdigest()[:8]


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _host() -> str:
    return socket.gethostname()[:200]


def _process_space() -> str:
    """Which table of processes a process id is of: containers on one machine have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
