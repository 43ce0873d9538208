"""A tiny archive, a training and a job on it, and digests of their results: what other experiments here kill and fill.

Made up, of seconds, and the same in every process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from diffpose_jax.config import save_config
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.grid.store import Store
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.records import read_record
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.whole_files import write_text
from diffpose_jax.workdir.checkpoints import Checkpoints


def make_clips(rng: np.random.Generator, lengths: Sequence[int]) -> ClipSet:
    """Clips of random poses, of a subject each."""
    clips = []
    for number, frames in enumerate(lengths):
        poses = 0.3 * rng.standard_normal((frames, 17, 3)).astype(np.float32)
        poses -= poses[:, :1]
        clips.append(Clip(poses[..., :2] / 4, poses, np.full((frames, 3), 4, np.float32), f"S{number}", "walk"))
    return ClipSet.build(clips, H36M_17)


def prepare_run(folder: Path, steps: int) -> Path:
    """An archive and a config file for `diffpose train`; returns the config's path."""
    rng = np.random.default_rng(0)
    splits = {"train": make_clips(rng, [40] * 3), "valid": make_clips(rng, [20]), "test": make_clips(rng, [10] * 2)}
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


def make_job(folder: Path) -> Path:
    """An archive, two untrained lifters and a job file of 25 units; returns the path of the last."""
    clipset = make_clips(np.random.default_rng(0), (30, 20, 14))
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
