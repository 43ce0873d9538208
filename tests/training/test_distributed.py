"""Several processes follow the trajectory of one, end together, and go on as fewer or more."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.training.loop import train
from diffpose_jax.workdir.trained import load_trained

CONFIG = """
import json
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads({text!r}))
"""
DEVICES = "--xla_force_host_platform_device_count={}"

pytestmark = [pytest.mark.slow, pytest.mark.repeats]  # of processes what `test_step` says of devices


def _write_config(config: ConfigDict, path: Path) -> Path:
    path.write_text(CONFIG.format(text=json.dumps(config.to_dict())))
    return path


def _start(config: ConfigDict, workdir: Path, processes: int = 2, devices: int = 2) -> list[subprocess.Popen]:
    """Starts a training as processes of one cluster."""
    with config.unlocked():
        config = config.copy_and_resolve_references()
        config.training.distributed = processes > 1
    file = _write_config(config, workdir.with_suffix(".py"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)} if processes > 1 else {}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "diffpose_jax.train", "--config", str(file), "--workdir", str(workdir)],
            env={**os.environ, "XLA_FLAGS": DEVICES.format(devices), **cluster, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]


def _wait(runs: list[subprocess.Popen]) -> list[str]:
    printed = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), printed
    return printed


def _check_equal(workdir: Path, other: Path) -> None:
    trained, expected = load_trained(workdir), load_trained(other)
    assert trained.step == expected.step
    for mine, theirs in zip(jax.tree.leaves(trained.variables), jax.tree.leaves(expected.variables), strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=1e-4)


def test_two_processes_train_what_one_trains(tiny_config, tmp_path):
    tiny_config.training.learning_rate = 4e-5
    train(tiny_config, tmp_path / "one")
    _wait(_start(tiny_config, tmp_path / "two"))
    _check_equal(tmp_path / "two", tmp_path / "one")
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.parametrize("killed", [0, 1])
def test_where_a_process_is_killed_the_other_ends_with_one_line_and_fewer_or_more_go_on(tiny_config, tmp_path, killed):
    workdir = tmp_path / "run"
    tiny_config.training.update(learning_rate=4e-5, steps=100_000)
    runs = _start(tiny_config, workdir, devices=1)
    while not (workdir / "checkpoints" / "20").is_dir() and all(run.poll() is None for run in runs):
        time.sleep(0.1)
    runs[killed].kill()
    since = time.monotonic()
    printed = runs[1 - killed].communicate(timeout=60)[0]
    assert time.monotonic() - since < 60
    assert runs[1 - killed].returncode in (75, -6), printed  # -6: a thread of JAX was faster than the step
    assert re.findall("(?m)^error: .*$", printed) == printed.splitlines()[-1:], printed
    assert "another process of the cluster ended" in printed
    assert "Traceback" not in printed
    runs[killed].communicate()
    reached = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    tiny_config.training.update(steps=reached + 20)
    assert train(tiny_config, workdir).step == reached + 20  # as one process
    if killed:
        tiny_config.training.update(steps=reached + 40)
        assert f"continuing from step {reached + 20}" in _wait(_start(tiny_config, workdir))[0]


def test_eight_devices_then_one_then_eight_train_what_eight_train(tiny_config, tmp_path):
    tiny_config.training.learning_rate = 4e-5
    tiny_config.training.update(steps=60)
    train(tiny_config, tmp_path / "whole")
    for steps, devices in ((20, 8), (40, 1), (60, 8)):
        tiny_config.training.steps = steps
        if devices == 8:
            train(tiny_config, tmp_path / "parts")
        else:
            _wait(_start(tiny_config, tmp_path / "parts", processes=1, devices=1))
    _check_equal(tmp_path / "parts", tmp_path / "whole")
