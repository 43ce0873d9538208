"""Several processes, and processes that are killed, find what one finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from .jobs import read_numbers

LOCAL = Path(__file__).resolve().parents[2] / "experiments" / "launch" / "local.sh"

pytestmark = pytest.mark.slow


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
