"""Processes that work together end together, with one line for the user."""

from __future__ import annotations

import subprocess
import sys

import pytest

from diffpose_jax import cluster, quiet_stderr
from diffpose_jax.quiet_stderr import filter_lines

NATIVE = [
    b"E1122 02:38:32.393734    6471 coordination_service_agent.cc:289] Polled an error from coordination service.\n",
    b"F1122 02:38:32.393764    6471 client.h:80] Terminating process because the JAX distributed service failed.\n",
    b"*** Check failure stack trace: ***\n",
    b"    @     0x7fcefc940634  absl::lts_20260107::log_internal::LogMessage::SendToLog()\n",
]
LOST = b"error: " + quiet_stderr.LOST.encode() + b"\n"


def test_what_jax_says_of_a_lost_process_becomes_one_line():
    assert list(filter_lines([b"step 10\n", *NATIVE])) == [b"step 10\n", LOST]
    ours = b"error: /runs/a: cannot be written: No space left on device\n"
    assert list(filter_lines([ours, *NATIVE])) == [ours]
    assert list(filter_lines([*NATIVE[:1], ours, *NATIVE[1:]])) == [ours]


def test_all_else_passes():
    lines = [
        b"W1122 02:38:32.393734    6471 cpu.cc:12] slow\n",
        b"Traceback\n",
        b"error: one\n",
        b"error: two\n",
        b"end",
    ]
    assert list(filter_lines(lines)) == lines


def test_the_filter_outlives_who_is_aborted():
    program = (
        "import os; from diffpose_jax.cluster import _replace_stderr; _replace_stderr();"
        f"os.write(2, {b''.join(NATIVE)!r}); os.abort()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ended.returncode == -6
    assert ended.stderr == LOST


class Left(Exception):
    """A process that ended at once, with its code."""


def leave(code: int) -> None:
    raise Left(code)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer"), cluster.LOST_PROCESS),
        (RuntimeError("UNAVAILABLE: Socket closed"), cluster.LOST_PROCESS),
        (ZeroDivisionError("division by zero"), 1),
        (SystemExit(2), 2),
    ],
)
def test_a_process_of_a_cluster_that_fails_does_not_wait_for_the_others(monkeypatch, capsys, error, code):
    monkeypatch.setattr(cluster, "in_cluster", lambda: True)
    with pytest.raises(Left) as left, cluster.ending_together(leave):
        raise error
    assert left.value.args == (code,)
    said = capsys.readouterr().err
    assert (said == LOST.decode()) == (code == cluster.LOST_PROCESS)
    assert ("Traceback" in said) == (code == 1)


def test_by_itself_a_process_ends_as_ever():
    assert not cluster.in_cluster()
    with pytest.raises(ZeroDivisionError), cluster.ending_together(leave):
        raise ZeroDivisionError
    with pytest.raises(SystemExit), cluster.ending_together(leave):
        sys.exit(2)
