"""The main job from end to end on embedded motion. `python experiments/quickstart.py`.

Trains, calibrates, evaluates and predicts as a user would, one program after the other, and prints each command.
Arguments go to `train`, for instance `--config.training.steps=400` for a quicker, worse run.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKDIR = "runs/quickstart"


def main(arguments: list[str]) -> int:
    """Runs the programs in turn; the first that fails ends the run with its exit code."""
    python = [sys.executable, "-m"]
    commands = (
        [*python, "diffpose_jax.train", "--config", "configs/quickstart.py", "--workdir", WORKDIR, *arguments],
        [*python, "diffpose_jax.calibrate", "--workdir", WORKDIR, "--frames", "128", "--hypotheses", "10"],
        [*python, "diffpose_jax.evaluate", "--workdir", WORKDIR],
        [*python, "diffpose_jax.predict", "--workdir", WORKDIR, "--input", "experiments/data/wave.json",
         "--output", f"{WORKDIR}/prediction", "--hypotheses", "20"],
    )  # fmt: skip
    for command in commands:
        print("\n$ " + shlex.join(["python", *command[1:]]), flush=True)
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
