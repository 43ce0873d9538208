"""Counts what programs do when their disk is full: `python experiments/full_disks.py --disk FOLDER [--times 20]`.

FOLDER lies on a small file system of its own, so that nobody else's files are in danger; on Linux, without rights:

    unshare -Urm sh -c 'mount -t tmpfs -o size=24m tmpfs /mnt && python experiments/full_disks.py --disk /mnt'

Each program first writes old results, all but `train`. A file then takes all of the disk but a random part of what the
program needs, and the program runs with another seed. It has to end with one line and exit code 2 (or well, where its
files fitted), with the old results or the new ones, and nothing in between; with room again the same command has to end
with the results of a run that never met a full disk. Prints the counts and writes them to `--output`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags
from tiny_runs import digest_results, digest_run, make_job, prepare_run

from diffpose_jax.formats.npz import open_arrays
from diffpose_jax.whole_files import write_text

flags.DEFINE_string("disk", None, "A folder on a small file system.", required=True)
flags.DEFINE_integer("times", 20, "How often a program has to meet a full disk.", lower_bound=1)
flags.DEFINE_list("programs", [], "Which programs; all if not given.")
flags.DEFINE_string("output", None, "A JSON file for the counts.")

STEPS = 200  # of the training


class Program(NamedTuple):
    """A program, how it is called for a folder and a seed, and a digest of its results in the folder ('': none)."""

    name: str
    command: Callable[[Path, int], tuple[object, ...]]
    digest: Callable[[Path], str]
    overwrites: bool = True


def digest_json(path: Path, names: tuple[str, ...]) -> str:
    """A digest of some entries of a JSON file, '' without one."""
    if not path.exists():
        return ""
    content = json.loads(path.read_text())
    return hashlib.sha256(json.dumps([content[name] for name in names], sort_keys=True).encode()).hexdigest()


def digest_arrays(path: Path) -> str:
    """A digest of the arrays of an archive, '' without one."""
    if not path.exists():
        return ""
    found = hashlib.sha256()
    with open_arrays(path) as arrays:
        for name in sorted(arrays):
            found.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def list_programs(scratch: Path) -> list[Program]:
    """The six programs, on a tiny archive and a run trained in `scratch`."""
    config = prepare_run(scratch, STEPS)
    _run("train", "--config", config, "--workdir", scratch / "run")
    (scratch / "job").mkdir()
    job = make_job(scratch / "job")

    def trained(folder: Path) -> Path:
        if not (folder / "run").exists():
            shutil.copytree(scratch / "run", folder / "run")
        return folder / "run"

    def train(folder: Path) -> str:
        # On the way to its end a training has no results yet.
        ended = (folder / "run" / "checkpoints" / str(STEPS)).exists()
        return digest_run(folder / "run") if ended else ""

    def job_results(folder: Path) -> str:
        found = folder / "job-0"
        return digest_results(found) if (found / "summary.json").exists() else ""

    rows, fitted = ("rows",), ("scales", "regions")
    archive = scratch / "tiny.npz"
    return [
        Program("train", lambda at, seed: ("train", "--config", config, "--workdir", at / "run"), train, False),
        Program(
            "evaluate",
            lambda at, seed: ("evaluate", "--workdir", trained(at), "--stride", 1 + seed, "--output", at / "eval"),
            lambda at: digest_json(at / "eval" / "results.json", rows),
        ),
        Program(
            "predict",
            lambda at, seed: (
                "predict", "--workdir", scratch / "run", "--input", archive, "--split", ("test", "valid")[seed],
                "--output", at / "poses"),
            lambda at: digest_arrays(at / "poses" / "predictions.npz"),
        ),
        Program(
            "prepare",
            lambda at, seed: (
                "prepare", "synthetic", "--output", at / "people.npz", "--subjects", 4, "--takes", 1, "--frames", 40,
                "--seed", seed),
            lambda at: digest_arrays(at / "people.npz"),
        ),
        Program(
            "calibrate",
            lambda at, seed: ("calibrate", "--workdir", trained(at), "--frames", 16 + seed),
            lambda at: digest_json(at / "run" / "calibration.json", fitted),
        ),
        Program("job", lambda at, seed: ("evaluate", "--job", job, "--output", at / "job-0"), job_results, False),
    ]  # fmt: skip


def _run(*arguments: object) -> tuple[int, str]:
    """Runs a program of the package: its exit code and what it said."""
    command = [sys.executable, "-m", "diffpose_jax", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def count_ends(program: Program, disk: Path, times: int, rng: np.random.Generator) -> Counter[str]:
    """How a program ends on full disks."""
    here, counts = disk / program.name, Counter[str]()
    wanted, need = _measure_run(program, here, disk)
    stops = runs = 0
    while stops < times and runs < 3 * times:
        here.mkdir()
        if program.overwrites:
            _run(*program.command(here, 1))
        old = program.digest(here)
        _fill(disk, int(rng.uniform(0, need)))
        code, said = _run(*program.command(here, 0))
        (disk / "ballast").unlink()
        lines = [line for line in said.splitlines() if line.startswith("error:")]
        stopped = code == 2 and len(lines) == 1
        fine = (stopped or code == 0) and "Traceback" not in said
        kept = program.digest(here) in (old, wanted)
        again, later = _run(*program.command(here, 0))
        well = again == 0 and program.digest(here) == wanted
        counts[_describe(fine, kept, well, stopped, said, later)] += 1
        stops, runs = stops + (code != 0), runs + 1
        shutil.rmtree(here)
    return counts


def _measure_run(program: Program, here: Path, disk: Path) -> tuple[str, int]:
    """The digest of an undisturbed run's results, and how many bytes it needs."""
    here.mkdir()
    command = program.command(here, 0)  # which copies the run that it works on
    before = shutil.disk_usage(disk).used
    code, said = _run(*command)
    if code:
        raise SystemExit(f"{program.name}: {said}")
    # At least two blocks of a disk: a calibration is one.
    need = max(shutil.disk_usage(disk).used - before, 1 << 13)
    wanted = program.digest(here)
    shutil.rmtree(here)
    return wanted, need


def _fill(disk: Path, left: int) -> None:
    """Writes a file that leaves so many bytes of the disk."""
    size = shutil.disk_usage(disk).free - left
    with open(disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))


def _describe(fine: bool, kept: bool, well: bool, stopped: bool, said: str, later: str) -> str:
    if fine and kept and well:
        return "one line, nothing lost" if stopped else "fitted"
    if not fine:
        return f"NOT ONE LINE: {said.strip()[-3000:]}"
    return "OLD RESULTS LOST" if not kept else f"DOES NOT RECOVER: {later.strip()[-300:]}"


def main(argv: list[str]) -> None:
    """Counts the ends of all programs and prints them."""
    given, rng = flags.FLAGS, np.random.default_rng(0)
    disk, found = Path(given.disk).resolve(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for program in list_programs(Path(scratch)):
            if given.programs and program.name not in given.programs:
                continue
            found[program.name] = dict(count_ends(program, disk, given.times, rng))
            print(f"{program.name}: {found[program.name]}", flush=True)
    if given.output:
        write_text(Path(given.output), json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
