"""One program at a time writes to a work directory, and a program that died does not stand in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.workdir import lock
from diffpose_jax.workdir.lock import LEASE, locked

_HOLD = """
import sys, time
from pathlib import Path
from diffpose_jax.workdir import lock
if sys.argv[2] == "lease":
    lock.fcntl = None
with lock.locked(Path(sys.argv[1]), "train"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["flock", "lease"])
def kind(request, monkeypatch):
    """Locks of the file system, and the file that stands for them where it has none."""
    if request.param == "lease":
        monkeypatch.setattr(lock, "fcntl", None)
    return request.param


def hold(workdir, kind) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(workdir), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_it_and_a_killed_holder_lets_go(tmp_path, kind):
    holder = hold(tmp_path, kind)
    try:
        with pytest.raises(UserError, match=rf"in use by train \(pid {holder.pid}, host .*, since 20"):
            locked(tmp_path, "train").__enter__()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locked(tmp_path, "train"):
        pass


def test_it_is_free_again_after_the_block_and_two_in_one_process_exclude_each_other(tmp_path, kind):
    for _ in range(2):
        with locked(tmp_path, "train"), pytest.raises(UserError, match="in use by train"), locked(tmp_path, "train"):
            pass


def test_a_lease_that_nobody_touches_any_more_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    (tmp_path / LEASE).write_text('{"pid": 1, "host": "elsewhere", "purpose": "train"}')
    with pytest.raises(UserError, match="host elsewhere"), locked(tmp_path, "train"):
        pass
    old = time.time() - 100
    os.utime(tmp_path / LEASE, (old, old))
    with locked(tmp_path, "train"):
        pass
    assert not (tmp_path / LEASE).exists()


def test_a_damaged_lock_names_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    (tmp_path / LEASE).write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match=r"in use by another process \(not named\)"), locked(tmp_path, "train"):
        pass
