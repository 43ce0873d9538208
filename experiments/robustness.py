"""Counts what the library does when bits flip and trainings are killed.

    python experiments/robustness.py --output /tmp/robustness [--quick]

Trains a tiny method on made-up clips, and then: flips single bits in `best/` and in the newest checkpoint and loads
them; kills the training at random moments and lets it end. Prints counts and writes `robustness.json`. Nothing may be
silent, and every killed run must end bit for bit like the one that was not killed. Beside it, `job_robustness.py` kills
the workers of jobs, and `full_disks.py` fills disks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict
from tiny_runs import digest_run, newest_step, prepare_run

from diffpose_jax.config import load_config, read_options
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter
from diffpose_jax.sections import TrainingOptions
from diffpose_jax.training.state import create_state, make_optimizer
from diffpose_jax.whole_files import write_text
from diffpose_jax.workdir.checkpoints import Checkpoints, template_of
from diffpose_jax.workdir.trained import load_trained

flags.DEFINE_string("output", None, "A folder for everything that this makes.", required=True)
flags.DEFINE_boolean("quick", False, "A few of each instead of the numbers of the acceptance.")
flags.DEFINE_integer("flips", 200, "Bits to flip in each place.", lower_bound=1)
flags.DEFINE_integer("kills", 50, "Trainings to kill.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Seed of the bits and moments.")


def start(*arguments: object) -> subprocess.Popen:
    """Starts a program of the package."""
    command = [sys.executable, "-m", "diffpose_jax", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _equal(one: object, other: object) -> bool:
    same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), one, other)
    return all(jax.tree.leaves(same))


def flip_bits(workdir: Path, count: int, rng: np.random.Generator) -> dict[str, dict[str, int]]:
    """What becomes of single flipped bits in the best and in the newest checkpoint."""
    config, best = load_config(workdir / "config.json"), load_trained(workdir)
    newest = newest_step(workdir / "checkpoints")
    template = _state_template(config)

    def restore() -> tuple[int, object]:
        reader = Checkpoints(workdir / "checkpoints", 3, config)
        try:
            found = reader.restore_newest(template, set_aside=False)
        finally:
            reader.close()
        assert found is not None
        return found[:2]

    state = restore()[1]

    def read_best() -> bool:
        found = load_trained(workdir)
        return found.step == best.step and _equal(found.variables, best.variables)

    def read_newest() -> bool:
        step, found = restore()
        if step != int(newest.name):
            raise UserError("the one before it")
        return _equal(found, state)

    return {
        "best": _flip(workdir / "best", read_best, count, rng),
        "newest checkpoint": _flip(newest, read_newest, count, rng),
    }


def _state_template(config: ConfigDict) -> object:
    lifter, training = build_lifter(config), read_options(TrainingOptions, config.training, "training")
    batch = example_batch(lifter)
    return template_of(lambda: create_state(lifter, make_optimizer(training), jax.random.key(0), batch))


def _flip(folder: Path, read, count: int, rng: np.random.Generator) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = np.array([path.stat().st_size for path in files], float)
    counts: Counter[str] = Counter()
    for number in range(count):
        # Every second flip in any file, the others where the bytes are.
        weights = sizes / sizes.sum() if number % 2 else np.full(len(files), 1 / len(files))
        path = files[rng.choice(len(files), p=weights)]
        before = path.read_bytes()
        content = bytearray(before)
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            counts["the same numbers" if read() else "SILENT"] += 1
        except UserError:
            counts["named"] += 1
        except Exception as error:  # a traceback, which is what is counted
            counts[f"TRACEBACK {type(error).__name__}"] += 1
        path.write_bytes(before)
    return dict(counts)


def kill_trainings(config: Path, folder: Path, wanted: str, count: int, rng: np.random.Generator) -> dict[str, int]:
    """How killed trainings end: each is killed once at a random moment and then runs to its end."""
    counts: Counter[str] = Counter()
    for number in range(count):
        workdir = folder / f"killed-{number}"
        run = start("train", "--config", config, "--workdir", workdir)
        while not (workdir / "config.json").exists() and run.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 6))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        _, said = (again := start("train", "--config", config, "--workdir", workdir)).communicate()
        same = again.returncode == 0 and digest_run(workdir) == wanted
        counts["bit-identical" if same else f"DIFFERENT ({said.strip().splitlines()[-1][:100]})"] += 1
        shutil.rmtree(workdir)
    return dict(counts)


def main(_: list[str]) -> None:
    """Counts everything and prints it."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    flips, kills = (5, 1) if given.quick else (given.flips, given.kills)
    folder, rng = Path(given.output), np.random.default_rng(given.seed)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    config, whole = prepare_run(folder, 200), folder / "whole"
    if start("train", "--config", config, "--workdir", whole).communicate()[0] is None:
        raise UserError(f"{whole}: the first training failed")
    wanted = digest_run(whole)
    found: dict[str, object] = {}
    for name, count in (
        ("bit flips", lambda: flip_bits(whole, flips, rng)),
        ("killed trainings", lambda: kill_trainings(config, folder, wanted, kills, rng)),
    ):
        begin = time.monotonic()
        found[name] = count()
        print(f"{name}: {found[name]} ({time.monotonic() - begin:.0f} s)", flush=True)
        write_text(folder / "robustness.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
