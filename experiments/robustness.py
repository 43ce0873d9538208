"""Counts what the library does when bits flip, processes are killed and disks are full.

    python experiments/robustness.py --output /tmp/robustness [--quick]

Trains a tiny method on made-up clips, and then: flips single bits in `best/` and in the newest checkpoint and loads
them; kills the training at random moments and lets it end; limits the size of files, as a full disk does, at random
moments of training, prediction and calibration's record. Prints a table of counts and writes `robustness.json`. Nothing
may be silent, and every killed run must end bit for bit like the one that was not killed.
"""

from __future__ import annotations

import hashlib
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

from diffpose_jax.config import load_config, read_options, save_config
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.sections import TrainingOptions
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.training.state import create_state, make_optimizer
from diffpose_jax.whole_files import write_text
from diffpose_jax.workdir.checkpoints import Checkpoints, template_of
from diffpose_jax.workdir.trained import load_trained

flags.DEFINE_string("output", None, "A folder for everything that this makes.", required=True)
flags.DEFINE_boolean("quick", False, "A few of each instead of the numbers of the acceptance.")
flags.DEFINE_integer("flips", 200, "Bits to flip in each place.", lower_bound=1)
flags.DEFINE_integer("kills", 50, "Trainings to kill.", lower_bound=0)
flags.DEFINE_integer("full", 20, "Times that the disk is full, for each program.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Seed of the bits and moments.")

# Limits the size of files to sys.argv[1] bytes, 0: none, and runs a program with the other arguments.
_LIMITED = """
import resource, sys
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
from diffpose_jax.__main__ import main
main(sys.argv[2:])
"""


def make_clips(rng: np.random.Generator, count: int, frames: int) -> ClipSet:
    """Clips of random poses, of a subject each."""
    clips = []
    for number in range(count):
        poses = 0.3 * rng.standard_normal((frames, 17, 3)).astype(np.float32)
        poses -= poses[:, :1]
        clips.append(Clip(poses[..., :2] / 4, poses, np.full((frames, 3), 4, np.float32), f"S{number}", "walk"))
    return ClipSet.build(clips, H36M_17)


def prepare_run(folder: Path, steps: int) -> Path:
    """An archive and a config file for `diffpose train`; returns the config's path."""
    rng = np.random.default_rng(0)
    splits = {"train": make_clips(rng, 3, 40), "valid": make_clips(rng, 1, 20), "test": make_clips(rng, 2, 10)}
    save_archive(folder / "tiny.npz", splits)
    config = config_for("residual_mlp")
    config.data.source = str(folder / "tiny.npz")
    config.lifter.update(width=48)
    config.training.update(steps=steps, batch_size=16, inner_steps=5, learning_rate=1e-3, log_every=50)
    config.training.update(validate_every=50, checkpoint_every=50, valid_frames=16)
    save_config(config, folder / "config.json")
    path = folder / "config.py"
    text = "from diffpose_jax.config import load_config\n\n\ndef get_config():\n"
    path.write_text(f"{text}    return load_config({str(folder / 'config.json')!r})\n")
    return path


def start(*arguments: object, limit: int = 0) -> subprocess.Popen:
    """Starts a program of the package, with files of at most `limit` bytes."""
    command = [sys.executable, "-c", _LIMITED, str(limit), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digest_run(workdir: Path) -> str:
    """One digest of everything in the newest checkpoint and the best of a run."""
    found = hashlib.sha256()
    for name in ("checkpoints", "best"):
        newest = newest_step(workdir / name)
        note = json.loads((newest / "note" / "metadata").read_text())
        found.update(f"{name} {newest.name} {json.dumps(note['digests'], sort_keys=True)}".encode())
    return found.hexdigest()


def newest_step(folder: Path) -> Path:
    """The newest checkpoint in a folder."""
    return max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


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


def fill_disk(
    config: Path, folder: Path, trained: Path, wanted: str, count: int, rng: np.random.Generator
) -> dict[str, dict[str, int]]:
    """What programs do where files cannot grow: one line, and the same command ends well when there is room again."""
    found = {}
    predict = ("predict", "--workdir", trained, "--input", folder / "tiny.npz", "--hypotheses", 2)
    for name in ("train", "predict"):
        counts: Counter[str] = Counter()
        for number in range(count):
            output = folder / f"full-{name}-{number}"
            command = ("train", "--config", config, "--workdir", output) if name == "train" else (
                *predict, "--output", output)  # fmt: skip
            if name == "predict":
                start(*command).communicate()
            before = {path.name: path.read_bytes() for path in output.glob("pred*")}
            limited = start(*command, limit=int(10 ** rng.uniform(2, 4.5)))
            _, said = limited.communicate()
            lines = [line for line in said.splitlines() if line.startswith("error:")]
            ended = limited.returncode == 2 and len(lines) == 1 and "Traceback" not in said
            kept = all((output / one).read_bytes() == content for one, content in before.items())
            again = start(*command)
            again.communicate()
            well = again.returncode == 0 and (name == "predict" or digest_run(output) == wanted)
            fitted = limited.returncode == 0
            counts["one line, recovers" if (ended or fitted) and kept and well else f"NOT: {said.strip()[-150:]}"] += 1
            shutil.rmtree(output, ignore_errors=True)
        found[name] = dict(counts)
    return found


def main(_: list[str]) -> None:
    """Counts everything and prints it."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    flips, kills, full = (5, 1, 1) if given.quick else (given.flips, given.kills, given.full)
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
        ("full disk", lambda: fill_disk(config, folder, whole, wanted, full, rng)),
    ):
        begin = time.monotonic()
        found[name] = count()
        print(f"{name}: {found[name]} ({time.monotonic() - begin:.0f} s)", flush=True)
        write_text(folder / "robustness.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
