"""What the view, wide cameras and other bodies are worth: `python experiments/views.py --data data/cmu.npz`.

The residual MLP is trained with each of them for the same number of steps and measured on the valid and the test
split (mean distance of joints, mm, exact keypoints): with the recorded cameras, with cameras drawn widely
(`data.augmentation`), and how far its poses move when the same person is panned to 0.9 of the picture's width, stands
three times as far away, or is filmed by a camera rolled by 20 degrees. `--workdirs a,b` measures trained models
instead. Each model is kept in OUTPUT/<name>-<seed>, its figures in views.json, so that a repeated command goes on where
it stopped; OUTPUT/views.md is the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from budget import train_whole

from diffpose_jax.command_line import parse
from diffpose_jax.data.augmentation import film_anew
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Batch, centred_windows, device_clips, gather
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.geometry import Camera, project
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.registry import load_dataset
from diffpose_jax.train import define_flags
from diffpose_jax.workdir.trained import Trained, load_trained

ROOT = Path(__file__).resolve().parents[1]
VARIANTS: dict[str, dict[str, Any]] = {
    "screen": {},
    "person": {"view": "person"},
    "screen, cameras": {"cameras": "random"},
    "person, cameras": {"view": "person", "cameras": "random"},
    "person, cameras, bodies 0.05": {"view": "person", "cameras": "random", "bodies": 0.05},
    "person, cameras, bodies 0.1": {"view": "person", "cameras": "random", "bodies": 0.1},
}
PAN, FARTHER, ROLL = 0.9, 3.0, 20.0


def main(arguments: list[str]) -> int:
    """Trains and measures what is not measured yet, then writes the table of all there is."""
    logging.set_verbosity(logging.WARNING)
    given = _parse(arguments)
    runs = [Path(name) for name in given.workdirs.split(",") if name] or [
        _train(given, name, seed) for name in VARIANTS if name in given.only for seed in range(given.seeds)
    ]
    rows = {str(path): _measured(path, given) for path in runs}
    table = _table(rows)
    (given.output / "views.md").write_text(table)
    print(table + f"\ntable: {given.output / 'views.md'}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="archive of projected motion, made by `prepare cmu` or `mocap`")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--stride", type=int, default=50, help="every n-th frame of a split is measured")
    parser.add_argument("--hypotheses", type=int, default=20, help="of which the mean is taken")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--workdirs", default="", help="trained models to measure instead, with commas")
    parser.add_argument("--output", type=Path, default=Path("runs/views"))
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    return given


def _train(given: argparse.Namespace, name: str, seed: int) -> Path:
    workdir = given.output / f"{name.replace(', ', '_').replace(' ', '')}-{seed}"
    values = flags.FlagValues()
    define_flags(values)
    parse(["views", "--config", f"{ROOT}/configs/residual_mlp.py:cmu,small", "--workdir", "unused"], values)
    config = values.config
    config.seed, config.data.source = seed, given.data
    config.data.update(VARIANTS[name])
    config.training.update(steps=given.steps)
    train_whole(config, workdir)
    return workdir


def _measured(workdir: Path, given: argparse.Namespace) -> dict[str, float]:
    kept = workdir / "views.json"
    if not kept.exists():
        trained = load_trained(workdir)
        trained.config.data.source = given.data
        clips = load_dataset(trained.config.data, ["valid", "test"])
        figures: dict[str, float] = {}
        for split, part in clips.items():
            frames = np.arange(given.stride // 2, part.num_frames, given.stride)
            batch = gather(device_clips(part, root=True), centred_windows(part, 1), jnp.asarray(frames, jnp.int32), 1)
            figures |= {f"{split} {name}": value for name, value in _errors(trained, batch, part, given).items()}
        figures |= _moves(trained, batch, part, given)
        kept.write_text(json.dumps(figures, indent=1))
    found: dict[str, float] = json.loads(kept.read_text())
    return found


def _errors(trained: Trained, batch: Batch, like: ClipSet, given: argparse.Namespace) -> dict[str, float]:
    """The error with the recorded cameras and with wide ones, mm."""
    wide = film_anew(example_keys(jax.random.key(1), batch.index), batch)
    return {
        name: 1000 * _distance(_lift(trained, part, like, given), np.asarray(part.poses))
        for name, part in (("recorded", batch), ("wide", wide))
    }


def _moves(trained: Trained, batch: Batch, like: ClipSet, given: argparse.Namespace) -> dict[str, float]:
    """How far poses move, mm, compared in the frame of the camera before, with known cameras and with none."""
    before = {known: _lift(trained, batch, like, given, known) for known in (True, False)}
    found = {}
    for name, (moved, turn) in _changes(batch).items():
        for known in (True, False):
            back = _lift(trained, moved, like, given, known) @ turn
            found[f"{name}{'' if known else ', camera unknown'}"] = 1000 * _distance(back, before[known])
    return found


def _changes(batch: Batch) -> Mapping[str, tuple[Batch, np.ndarray]]:
    """The same people panned, farther away and rolled, each with the rotation of its poses."""
    assert batch.root is not None
    assert batch.camera is not None
    middle, camera = np.asarray(batch.root)[:, 0], batch.camera
    # The root is seen at 0.9 after a pan by the difference of the two angles.
    wanted = np.arctan((PAN - np.asarray(camera.centre)[:, 0]) / np.asarray(camera.focal)[:, 0])
    pan = wanted - np.arctan2(middle[:, 0], middle[:, 2])
    still = np.zeros_like(pan)
    cases = {
        f"panned to {PAN}": (_rotation(pan, 1), 1.0),
        f"{FARTHER:.0f} times as far": (_rotation(still, 1), FARTHER),
        f"rolled by {ROLL:.0f} degrees": (_rotation(still + np.deg2rad(ROLL), 2), 1.0),
    }
    return {name: (_move(batch, turn, camera, far), turn[:, None]) for name, (turn, far) in cases.items()}


def _move(batch: Batch, turn: np.ndarray, camera: Camera, farther: float) -> Batch:
    assert batch.root is not None
    poses = np.asarray(batch.poses) @ np.swapaxes(turn, -1, -2)[:, None]
    root = farther * (np.asarray(batch.root) @ np.swapaxes(turn, -1, -2))
    keypoints = project(poses + root[..., None, :], camera)
    return batch._replace(keypoints=keypoints, poses=jnp.asarray(poses), root=jnp.asarray(root))


def _rotation(angle: np.ndarray, axis: int) -> np.ndarray:
    """Rotations `[N, 3, 3]` by angles `[N]` about the camera's y axis (1) or z axis (2)."""
    cos, sin, zero, one = np.cos(angle), np.sin(angle), 0 * angle, 1 + 0 * angle
    rows = [[cos, zero, sin], [zero, one, zero], [-sin, zero, cos]]
    if axis == 2:
        rows = [[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]]
    return np.moveaxis(np.array(rows, np.float32), -1, 0)


def _lift(trained: Trained, batch: Batch, like: ClipSet, given: argparse.Namespace, known: bool = True) -> np.ndarray:
    """The mean of the hypotheses, `[N, 1, J, 3]`, of single frames, every one a clip of its own with its own camera.

    A method of windows sees the frame repeated.
    """
    keypoints, poses = (np.asarray(part)[:, 0] for part in (batch.keypoints, batch.poses))
    clips = ClipSet.build(
        [Clip(keypoints[i : i + 1], poses[i : i + 1], None, "S", "a", i) for i in range(len(poses))], like.skeleton
    )
    cameras = jax.tree.map(np.asarray, batch.camera)
    clips = dataclasses.replace(clips, cameras=cameras if known else None)
    if not known:
        clips = dataclasses.replace(clips, camera=np.full(clips.num_clips, -1, np.int32))
    count = given.hypotheses if trained.lifter.stochastic else 1
    job = Job(Sampling(count), ("mean",), 256)
    poses = predict_frames("lift", trained.lifter, trained.variables, clips, np.arange(len(poses)), job)["mean"]
    return poses[:, None]


def _distance(poses: np.ndarray, target: np.ndarray) -> float:
    return float(np.linalg.norm(poses - target, axis=-1).mean())


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = ["| mm | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [
        f"| {Path(name).name} | " + " | ".join(f"{row[c]:.1f}" for c in columns) + " |" for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
