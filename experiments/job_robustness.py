"""Counts what becomes of a job whose workers are killed.

    python experiments/job_robustness.py --output /tmp/job_robustness [--kills 20] [--workers 2]

Makes two tiny lifters with random weights and a job of 25 units of them, and runs it once undisturbed. Then runs it
again and again in new folders, each time with several workers of which one is killed (SIGKILL) at a random moment and
started anew, until so many were killed. Prints how many of these jobs found the same numbers to the bit, and writes
`job_robustness.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from absl import app, flags
from tiny_runs import digest_results, make_job

from diffpose_jax.compile_cache import keep_compiled_programs
from diffpose_jax.whole_files import write_text

flags.DEFINE_string("output", None, "A new folder for everything that this makes.", required=True)
flags.DEFINE_integer("kills", 20, "How many workers to kill.", lower_bound=1)
flags.DEFINE_integer("workers", 2, "Workers that run side by side.", lower_bound=1)
flags.DEFINE_float("seconds", 12.0, "A worker is killed at most so long after its job began.")
flags.DEFINE_integer("seed", 0, "Seed of the moments.")


def start(job: Path, output: Path) -> subprocess.Popen:
    """Starts a worker."""
    command = [sys.executable, "-m", "diffpose_jax", "evaluate", "--job", str(job), "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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
