"""Two processes follow the trajectory of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffpose_jax.training.loop import train
from diffpose_jax.workdir.trained import load_trained

CONFIG = """
import json
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads({text!r}))
"""


@pytest.mark.slow
@pytest.mark.repeats  # of processes what `test_step` says of devices
def test_two_processes_train_what_one_trains(tiny_config, tmp_path):
    tiny_config.training.learning_rate = 4e-5
    whole = train(tiny_config, tmp_path / "one")
    tiny_config.training.distributed = True
    file = tmp_path / "experiment.py"
    file.write_text(CONFIG.format(text=json.dumps(tiny_config.to_dict())))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "diffpose_jax.train", "--config", str(file), "--workdir", str(tmp_path / "two")],
            env={
                **os.environ,
                "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    printed = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    trained = load_trained(tmp_path / "two")
    assert trained.step == whole.best_step
    average = load_trained(tmp_path / "one").variables
    for mine, theirs in zip(jax.tree.leaves(trained.variables), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=1e-4)
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
