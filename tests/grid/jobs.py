"""A job that tests measure: two tiny lifters with random variables, on a tiny archive of three subjects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.grid.store import Store
from diffpose_jax.records import read_record
from diffpose_jax.registry import config_for
from diffpose_jax.skeleton import H36M_17


def make_clips(lengths: tuple[int, ...] = (9, 4, 6), seed: int = 0) -> ClipSet:
    """Clips of random poses, each of a subject of its own."""
    rng = np.random.default_rng(seed)
    clips = []
    for number, length in enumerate(lengths):
        poses = 0.3 * rng.standard_normal((length, 17, 3)).astype(np.float32)
        poses -= poses[:, :1]
        clips.append(Clip(poses[..., :2] / 4, poses, np.full((length, 3), 4, np.float32), f"S{number}", "walk"))
    return ClipSet.build(clips, H36M_17)


def tiny_config(archive: Path, name: str, **options: object) -> ConfigDict:
    """The config of a tiny lifter."""
    config = config_for(name)
    config.data.source = str(archive)
    config.lifter.update({"width": 32, **options})
    config.diffusion.steps = 3
    config.evaluation.update({"hypotheses": 2, "batch_size": 4, "flip": "none"})
    return config


def make_lifters(folder: Path, untrained: Callable[[Path, ConfigDict], Path]) -> dict[str, Path]:
    """An archive and two work directories: `{'archive', 'diffusion', 'supervised'}`."""
    archive = folder / "tiny.npz"
    save_archive(archive, {"train": make_clips(seed=1), "test": make_clips()})
    return {
        "archive": archive,
        "diffusion": untrained(folder / "diffusion", tiny_config(archive, "diffupose", variant="mlp")),
        "supervised": untrained(folder / "supervised", tiny_config(archive, "residual_mlp")),
    }


def job_text(lifters: dict[str, Path], **fields: object) -> str:
    """A YAML job of three units: a lifter with two hypotheses and two seeds, and a supervised one."""
    job = {
        "workdirs": [str(lifters["diffusion"]), str(lifters["supervised"])],
        "hypotheses": [2],
        "seeds": [0, 1],
        "aggregations": ["first", "mean"],
        "chunk_frames": 8,
        "comparisons": [
            {
                "first": {"workdir": str(lifters["diffusion"]), "aggregation": "mean"},
                "second": {"workdir": str(lifters["supervised"])},
            }
        ],
    }
    return json.dumps({**job, **fields})  # JSON is YAML


def read_numbers(folder: Path) -> dict[str, object]:
    """All numbers of a job's output, to the bit: rows and values of frames of every unit, and the summary."""
    store, found = Store(folder), {}
    for path in sorted((folder / "units").glob("*.json")):
        record = read_record(path, "unit")
        found[path.stem] = {key: record[key] for key in ("rows", "distributions", "coverage", "frames")}
        found[f"{path.stem}.npz"] = {name: one.tobytes() for name, one in store.read_values(path.stem).items()}
    summary = read_record(folder / "summary.json", "job summary")
    return found | {"summary": {key: summary[key] for key in ("rows", "comparisons", "failed")}}
