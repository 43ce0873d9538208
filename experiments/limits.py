"""Measures what must not grow: the memory of long predictions and of many hypotheses, and what verifying weights costs.

    python experiments/limits.py [--quick]

Makes a tiny lifter and archives of random clips in a temporary folder. `diffpose predict` lifts them with 100
hypotheses, `diffpose evaluate` with 10 and 1,000, and up to a million frames with 5, each in a process of its own whose
peak memory is printed. Then checkpoints are loaded, of the released sequence model and of 105 MB, and the digests of
their leaves are timed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from diffpose_jax.config import save_config
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.workdir.checkpoints import Checkpoints, template_of
from diffpose_jax.workdir.seals import digest_leaves
from diffpose_jax.workdir.trained import load_trained

flags.DEFINE_boolean("quick", False, "Few frames, and only once.")


def make_lifter(path: Path) -> Path:
    """A work directory of the smallest lifter with hypotheses, with random variables."""
    config = config_for("mixture_density")
    config.lifter.update(width=32, num_layers=1)
    path.mkdir()
    save_config(config, path / "config.json")
    lifter = build_lifter(config)
    best = Checkpoints(path / "best", 1, config)
    best.save(1, jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter)))
    best.close()
    return path


def make_archive(path: Path, frames: int) -> Path:
    """An archive of clips of 1,000 random frames."""
    rng, clips = np.random.default_rng(0), []
    for first in range(0, frames, 1000):
        shape = (min(1000, frames - first), 17)
        poses = 0.3 * rng.standard_normal((*shape, 3)).astype(np.float32)
        poses -= poses[:, :1]
        keypoints = rng.uniform(-0.5, 0.5, (*shape, 2)).astype(np.float32)
        clips.append(Clip(keypoints, poses, None, f"S{first // 1000}", "walk"))
    save_archive(path, {"test": ClipSet.build(clips, H36M_17)})
    return path


def run(*arguments: object) -> str:
    """Runs a program of the package; processor time, time and peak memory in words."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "diffpose_jax", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    unit = 1 if sys.platform == "darwin" else 1024
    processor = used.ru_utime + used.ru_stime
    return (
        f"{processor:.0f} s of processor time, {time.monotonic() - begin:.0f} s, {unit * used.ru_maxrss / 1e9:.2f} GB"
    )


def time_digests(folder: Path, variables: Any, repeats: int) -> str:
    """How long a checkpoint takes to be restored and verified, and what of that the digests take; medians."""
    saved = Checkpoints(folder, 1)
    saved.save(1, variables)
    saved.close()
    rows = []
    for _ in range(repeats):
        reader, begin = Checkpoints(folder, 1), np.array([time.perf_counter(), time.process_time()])
        restored = reader.restore_newest(template_of(lambda: variables), set_aside=False)
        middle = np.array([time.perf_counter(), time.process_time()])
        assert restored is not None
        digest_leaves(restored[1])
        rows.append([*(middle - begin), *(np.array([time.perf_counter(), time.process_time()]) - middle)])
        reader.close()
    load, load_cpu, digests, digests_cpu = (1000 * statistics.median(column) for column in zip(*rows, strict=True))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables)) / 1e6
    return (
        f"{size:.0f} MB: restored and verified in {load:.0f} ms ({load_cpu:.0f} of processor time), "
        f"of which digests {digests:.0f} ms ({digests_cpu:.0f})"
    )


def measure(folder: Path, quick: bool) -> Iterator[str]:
    """All measurements, a line each."""
    lifter = make_lifter(folder / "run")
    for frames in (500,) if quick else (5_000, 20_000, 100_000):
        archive = make_archive(folder / "clips.npz", frames)
        found = run("predict", "--workdir", lifter, "--input", archive, "--output", folder / "out", "--hypotheses=100")
        yield f"predict, {frames} frames with 100 hypotheses: {found}"
    archive = make_archive(folder / "clips.npz", 100 if quick else 1000)
    for hypotheses in (10, 50 if quick else 1000):
        found = run("evaluate", "--workdir", lifter, "--data", archive, "--output", folder / "out",
                    f"--hypotheses={hypotheses}", "--nofigure")  # fmt: skip
        yield f"evaluate, {100 if quick else 1000} frames with {hypotheses} hypotheses: {found}"
    for frames in (100, 200) if quick else (10_000, 100_000, 1_000_000):
        archive = make_archive(folder / "clips.npz", frames)
        found = run("evaluate", "--workdir", lifter, "--data", archive, "--output", folder / "out",
                    "--hypotheses=5", "--stride=1", "--nofigure")  # fmt: skip
        yield f"evaluate, {frames} frames with 5 hypotheses: {found}"
    released = jax.device_get(load_trained("pretrained:sequence").variables)
    rng = np.random.default_rng(0)
    large = {f"layer_{place}": rng.standard_normal((512, 1026), np.float32) for place in range(50)}
    for place, variables in enumerate((released,) if quick else (released, large)):
        yield time_digests(folder / f"checkpoint_{place}", variables, 1 if quick else 7)


def main(argv: list[str]) -> None:
    """Prints the measurements."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(Path(folder), flags.FLAGS.quick):
            print(line, flush=True)


if __name__ == "__main__":
    app.run(main)
