"""Who holds a lock or a claim: a process, named so that others can tell whether it still runs."""

from __future__ import annotations

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
