"""Processes on one machine or many that work together, joined by `jax.distributed`, and how they end together.

Where one of them is lost the others end within a minute: at once where its connections break, and after
`HEARTBEAT_SECONDS` without a sign where its machine is gone. JAX then ends the process itself, from a thread of its
own, after dozens of lines; `quiet_stderr` says one instead.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from diffpose_jax import quiet_stderr
from diffpose_jax.errors import UserError

LOST_PROCESS = 75  # EX_TEMPFAIL: the same command may succeed
# After how long without a sign JAX takes a process for dead.
HEARTBEAT_SECONDS = 30
_LOST = re.compile(r"gloo|coordination service|heartbeat|connection (closed|reset|refused)|socket closed|"
                   r"UNAVAILABLE|DEADLINE_EXCEEDED|NCCL", re.IGNORECASE)  # fmt: skip


def join_cluster(option: str) -> None:
    """Joins the processes that JAX finds (TPU pod, SLURM, MPI, Kubernetes) or that the environment names by hand.

    By hand: JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID. This has to come before anything
    that touches a device.

    Args:
        option: The option that asks for it, for messages.

    Raises:
        UserError: There is no cluster to join.
    """
    import jax  # not for programs that join none

    if jax.distributed.is_initialized():
        return
    count, index = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    with contextlib.suppress(OSError):
        _replace_stderr()
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if index is None else int(index),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{option}: no cluster to join: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def ending_together(leave: Callable[[int], NoReturn]) -> Iterator[None]:
    """Ends a process of a cluster at once where the block fails; elsewhere it does nothing.

    The normal end of a process waits minutes for the others, which may be waiting for it in a step.

    Args:
        leave: Ends this process with an exit code, at once.
    """
    try:
        yield
    except SystemExit as end:
        if end.code and in_cluster():
            leave(end.code if isinstance(end.code, int) else 1)
        raise
    except Exception as error:
        if not in_cluster():
            raise
        if not is_lost_process(error):
            traceback.print_exc()
            leave(1)
        print(f"error: {quiet_stderr.LOST}", file=sys.stderr, flush=True)
        leave(LOST_PROCESS)


def is_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of this one's cluster cannot be reached any more."""
    return in_cluster() and isinstance(error, RuntimeError | ValueError) and _LOST.search(str(error)) is not None


def in_cluster() -> bool:
    """Whether this process works together with others."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def _replace_stderr() -> None:
    """Sends what this process writes to stderr, and JAX's threads do, through `quiet_stderr` from now on.

    A process of its own: where JAX aborts this one, nobody here could say anything any more.
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-I", "-S", quiet_stderr.__file__]
    subprocess.Popen(command, stdin=reader, stdout=2, start_new_session=True)
    os.close(reader)
    sys.stderr.flush()
    os.dup2(writer, 2)
    os.close(writer)
