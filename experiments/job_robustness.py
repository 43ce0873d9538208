"""Counts what becomes of a job whose workers are killed.

    python experiments/job_robustness.py --output /tmp/job_robustness [--kills 20] [--workers 2]

Makes two tiny lifters with random weights and a job of 25 units of them, and runs it once undisturbed. Then runs it
again and again in new folders, each time with several workers of which one is killed (SIGKILL) at a random moment and
started anew, until so many were killed. Prints how many of these jobs found the same numbers to the bit, and writes
`job_robustness.json`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from diffpose_jax.compile_cache import keep_compiled_programs
from diffpose_jax.config import save_config
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.grid.store import Store
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.records import read_record
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.whole_files import write_text
from diffpose_jax.workdir.checkpoints import Checkpoints

flags.DEFINE_string("output", None, "A new folder for everything that this makes.", required=True)
flags.DEFINE_integer("kills", 20, "How many workers to kill.", lower_bound=1)
flags.DEFINE_integer("workers", 2, "Workers that run side by side.", lower_bound=1)
flags.DEFINE_float("seconds", 12.0, "A worker is killed at most so long after its job began.")
flags.DEFINE_integer("seed", 0, "Seed of the moments.")


def make_job(folder: Path) -> Path:
    """An archive, two untrained lifters and a job file of 25 units; returns the path of the last."""
    rng = np.random.default_rng(0)
    clips = []
    for number, frames in enumerate((30, 20, 14)):
        poses = 0.3 * rng.standard_normal((frames, 17, 3)).astype(np.float32)
        poses -= poses[:, :1]
        clips.append(Clip(poses[..., :2] / 4, poses, np.full((frames, 3), 4, np.float32), f"S{number}", "walk"))
    clipset = ClipSet.build(clips, H36M_17)
    save_archive(folder / "tiny.npz", {"train": clipset, "test": clipset})
    for name, options in (("diffupose", {"variant": "mlp"}), ("residual_mlp", {})):
        config = config_for(name)
        config.data.source = str(folder / "tiny.npz")
        config.lifter.update({"width": 32, **options})
        config.diffusion.steps = 3
        config.evaluation.update({"batch_size": 8, "flip": "none"})
        (folder / name).mkdir()
        save_config(config, folder / name / "config.json")
        lifter, best = build_lifter(config), Checkpoints(folder / name / "best", 1, config)
        best.save(7, jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter)))
        best.close()
    job = {
        "workdirs": [str(folder / "diffupose"), str(folder / "residual_mlp")],
        "occlusions": ["none", ["random", 0.2], "leg"],
        "hypotheses": [1, 3],
        "seeds": [0, 1, 2],
        "aggregations": ["first", "mean"],
        "chunk_frames": 16,
        "comparisons": [{"first": {"workdir": str(folder / "diffupose"), "aggregation": "mean"},
                         "second": {"workdir": str(folder / "residual_mlp")}}],
    }  # fmt: skip
    write_text(folder / "job.yaml", json.dumps(job))
    return folder / "job.yaml"


def start(job: Path, output: Path) -> subprocess.Popen:
    """Starts a worker."""
    command = [sys.executable, "-m", "diffpose_jax", "evaluate", "--job", str(job), "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def digest_results(output: Path) -> str:
    """One digest of all numbers that a job found, per unit, per frame and compared."""
    store, found = Store(output), hashlib.sha256()
    summary = read_record(output / "summary.json", "job summary")
    for row in summary["rows"]:
        found.update(json.dumps(row, sort_keys=True).encode())
    found.update(json.dumps([summary["comparisons"], summary["failed"]], sort_keys=True).encode())
    for name in sorted({row["unit"] for row in summary["rows"]}):
        record = read_record(store.units / f"{name}.json", "unit")
        found.update(json.dumps([record["rows"], record["distributions"]], sort_keys=True).encode())
        for key, values in sorted(store.read_values(name).items()):
            found.update(key.encode() + values.tobytes())
    return found.hexdigest()


def run_killed(job: Path, output: Path, workers: int, moment: float) -> tuple[int, bool, str]:
    """Runs a job of which one worker is killed and replaced: the worst exit code, whether one died, what was said."""
    running = [start(job, output) for _ in range(workers)]
    while not (output / "units").exists() and running[0].poll() is None:
        time.sleep(0.05)
    time.sleep(moment)
    died = running[0].poll() is None
    running[0].kill()
    said = running[0].communicate()[0]
    running[0] = start(job, output)
    said += "".join(one.communicate()[0] for one in running)
    return max(one.returncode for one in running), died, said


def main(argv: list[str]) -> None:
    """Makes the job, runs it undisturbed and then with workers that are killed, and prints the counts."""
    given = flags.FLAGS
    folder = Path(given.output).resolve()
    folder.mkdir(parents=True)
    keep_compiled_programs()
    job, rng = make_job(folder), np.random.default_rng(given.seed)
    said, _ = (alone := start(job, folder / "alone")).communicate()
    if alone.returncode:
        raise SystemExit(said)
    wanted, counts, kills, runs = digest_results(folder / "alone"), Counter(), 0, 0
    while kills < given.kills and runs < 3 * given.kills:
        output = folder / f"killed-{runs}"
        code, died, said = run_killed(job, output, given.workers, rng.uniform(0, given.seconds))
        same = code == 0 and digest_results(output) == wanted
        kills, runs = kills + died, runs + 1
        counts["identical" if same else "DIFFERENT"] += 1
        print(f"job {runs}: {'killed' if died else 'was over before'}, {'identical' if same else said}", flush=True)
    result = {"kills": kills, "jobs": runs, **counts}
    write_text(folder / "job_robustness.json", json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
