"""Several processes, and processes that are killed, find what one finds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from diffpose_jax.formats.npz import read_npz

from .jobs import read_numbers

LOCAL = Path(__file__).resolve().parents[2] / "experiments" / "launch" / "local.sh"

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHON": sys.executable}


def test_two_processes_find_what_one_finds(done, job, tmp_path):
    command = ["sh", str(LOCAL), "2", str(job), str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    logs = [path.read_text() for path in sorted((tmp_path / "out" / "logs").glob("*.log"))]
    assert ended.returncode == 0, logs
    assert len(logs) == 2
    assert "3 of 3 units are done" in ended.stdout
    assert sum(line.startswith("[") for log in logs for line in log.splitlines()) == 3  # each unit once
    assert read_numbers(tmp_path / "out") == read_numbers(done)


def test_the_worst_exit_code_of_the_workers_is_that_of_all(job, tmp_path):
    command = ["sh", str(LOCAL), "2", str(tmp_path / "nothing.yaml"), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, check=False, env=environment()).returncode == 2


@pytest.mark.repeats
def test_a_job_that_is_killed_at_random_moments_finds_what_an_undisturbed_one_finds(done, job, tmp_path):
    rng, out = np.random.default_rng(0), tmp_path / "out"
    command = [sys.executable, "-m", "diffpose_jax", "evaluate", "--job", str(job), "--output", str(out)]
    for _ in range(2):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (out / "units").exists() and running.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 4))
        running.send_signal(signal.SIGKILL)
        running.wait()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert read_numbers(out) == read_numbers(done)


@pytest.mark.repeats  # of processes what `tests/evaluation/test_jobs.py` says of devices
def test_two_processes_of_a_cluster_share_the_frames_of_every_unit(done, job, tmp_path):
    out, address = tmp_path / "out", f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "diffpose_jax", "evaluate", "--job", str(job), "--output", str(out)]
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    runs = [
        subprocess.Popen(
            [*command, "--distributed"],
            env={**os.environ, **cluster, **devices, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    printed = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert "3 of 3 units are done" in printed[0]
    assert all(line.startswith("[Gloo]") for line in printed[1].splitlines())  # only process 0 speaks
    found, expected = read_numbers(out), read_numbers(done)
    assert found.keys() == expected.keys()
    for path in sorted((done / "units").glob("*.npz")):
        mine, theirs = read_npz(out / "units" / path.name), read_npz(path)
        assert mine.keys() == theirs.keys()
        for name, values in theirs.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(mine[name], values, rtol=2e-4, atol=2e-6, err_msg=name)
            else:
                np.testing.assert_array_equal(mine[name], values)
