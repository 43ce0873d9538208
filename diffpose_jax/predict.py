"""Lift your own keypoints: `python -m diffpose_jax.predict --workdir runs/quickstart --input points.json --output out`.

The input is a keypoint file (`diffpose_jax.data.sets.keypoints` says how it looks) or an archive of `prepare`. Writes
`predictions.npz`, `predictions.json` and `prediction.png`. The `.npz` holds, for M frames, H hypotheses and J joints:

    hypotheses   [M, H, J, 3] metres      poses    [M, J, 3] metres, the aggregate of the hypotheses
    spread_mm    [M, J] millimetres, the standard deviation of each joint over the hypotheses
    keypoints    [M, J, 2] the input in the lifter's layout, normalised image units (x/w*2-1, y/w*2-h/w)
    clip_start, clip_length [C]; subject, action, fps [C]; joints [J] names; parents [J]; meta, a JSON text
    root         [M, 3] metres, only with a known camera: where the root is, by least squares on the keypoints

Poses are root-relative, in the camera frame: x right, y down, z away from the camera. The JSON file holds the same,
clip by clip and frame by frame, rounded to 0.1 mm.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from diffpose_jax import cli
from diffpose_jax.data.archives import load_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.sets.keypoints import read_keypoints
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation import report
from diffpose_jax.evaluation.jobs import ALL, CHOICES, check_aggregations, knows_cameras, strided_frames
from diffpose_jax.evaluation.measure import Setting, lift
from diffpose_jax.evaluation.metrics import spread
from diffpose_jax.geometry import Camera, solve_root
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.viz.poses import hypotheses_figure, save_figure
from diffpose_jax.workdir.checkpoints import restore_workdir

FORMAT = "diffpose_jax predictions 1"


class Prediction(NamedTuple):
    """Lifted frames: hypotheses `[M, H, J, 3]`, poses `[M, J, 3]`, root `[M, 3]` or None (m), spread `[M, J]` (mm)."""

    clips: ClipSet
    hypotheses: np.ndarray
    poses: np.ndarray
    spread: np.ndarray
    root: np.ndarray | None
    meta: dict[str, Any]


def predict(
    workdir: str | os.PathLike,
    source: str | os.PathLike,
    *,
    hypotheses: int = 20,
    aggregation: str = "mean",
    layout: str | None = None,
    split: str = "test",
    focal: float | None = None,
    flip: bool | None = None,
    batch_size: int | None = None,
) -> Prediction:
    """Lifts all frames of a keypoint file or archive with the best checkpoint of a work directory.

    `layout` names the joint order where the file does not; `split` is the one taken from an archive; `focal` is the
    focal length in halves of the image's width, which gives the root. Raises UserError for what a user can mend.
    """
    _check(hypotheses, aggregation)
    trained = restore_workdir(workdir)
    clips = read_input(source, trained.lifter.skeleton, layout, split)
    if focal is not None:
        clips = with_pinhole(clips, focal)
    if CHOICES[aggregation].needs_camera and not knows_cameras(clips):
        raise UserError(f"--aggregation {aggregation}: expected a known camera (--focal), found none")
    evaluation = trained.config.evaluation
    setting = Setting(
        hypotheses if trained.lifter.stochastic else 1,
        evaluation.flip if flip is None else flip,
        batch_size or evaluation.batch_size,
        trained.config.seed,
    )
    numbers = strided_frames(clips, 1)
    found = lift(Path(source).name, trained.lifter, trained.variables, clips, numbers, setting, (ALL, aggregation))
    meta = {
        "format": FORMAT,
        "workdir": str(workdir),
        "step": trained.step,
        "lifter": trained.config.lifter.name,
        "input": str(source),
        "hypotheses": setting.hypotheses,
        "aggregation": aggregation,
        "flip": setting.flip,
        "temperature": trained.temperature,
        "units": {"poses": "metres", "hypotheses": "metres", "root": "metres", "spread_mm": "millimetres"},
        "coordinate_frame": "camera: x right, y down, z away from the camera; poses are relative to the root joint",
        "skeleton": clips.skeleton.name,
    }
    deviation = 1000 * np.asarray(spread(np.moveaxis(found[ALL], 1, 0)))
    return Prediction(clips, found[ALL], found[aggregation], deviation, _roots(clips, found[aggregation]), meta)


def _check(hypotheses: int, aggregation: str) -> None:
    if hypotheses < 1:
        raise UserError(f"--hypotheses: expected at least 1, found {hypotheses}")
    check_aggregations([aggregation])
    if CHOICES[aggregation].oracle:
        raise UserError(f"--aggregation: expected one that needs no ground truth, found {aggregation!r}")


def read_input(path: str | os.PathLike, skeleton: Skeleton, layout: str | None, split: str) -> ClipSet:
    """The clips of a keypoint file, or of one split of a project archive, in the layout `skeleton`."""
    path = Path(path)
    if path.suffix == ".npz" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            ours = "meta.npy" in archive.namelist()
        if ours:
            return load_archive(path, [split])[split].to_layout(skeleton)
    return read_keypoints(path, layout=layout, target=skeleton)


def with_pinhole(clips: ClipSet, focal: float) -> ClipSet:
    """The same clips, seen by a centred pinhole camera of `focal` normalised image units."""
    if not focal > 0:
        raise UserError(f"--focal: expected a positive number, found {focal}")
    lens = ([focal] * 2, [0, 0], [0] * 3, [0] * 2, [1, 0, 0, 0], [0] * 3, [2, 2])
    camera = Camera(*(np.array([values], np.float32) for values in lens))
    return dataclasses.replace(clips, cameras=camera, camera=np.zeros(clips.num_clips, np.int32))


def _roots(clips: ClipSet, poses: np.ndarray) -> np.ndarray | None:
    camera = clips.frame_camera()
    return None if camera is None else np.asarray(solve_root(poses, clips.keypoints, camera, clips.scores))


def save_prediction(prediction: Prediction, directory: str | os.PathLike, json_too: bool = True) -> list[Path]:
    """Writes the files the module's docstring describes; returns their paths. Raises UserError where it cannot."""
    directory = report.writable_directory(directory)
    paths = [directory / name for name in ("predictions.npz", "predictions.json", "prediction.png")]
    np.savez(paths[0], **_arrays(prediction))
    if json_too:
        paths[1].write_text(json.dumps(_document(prediction), separators=(",", ":")) + "\n")
    else:
        del paths[1]
    save_figure(_figure(prediction), paths[-1])
    return paths


def _arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    clips = prediction.clips
    arrays = {
        "hypotheses": prediction.hypotheses,
        "poses": prediction.poses,
        "spread_mm": prediction.spread,
        "keypoints": clips.keypoints,
        "clip_start": clips.clip_start,
        "clip_length": clips.clip_length,
        "subject": np.array(clips.subject),
        "action": np.array(clips.action),
        "fps": clips.fps,
        "joints": np.array(clips.skeleton.joints),
        "parents": np.array(clips.skeleton.parents),
        "meta": np.array(json.dumps(prediction.meta)),
    }
    return arrays if prediction.root is None else {**arrays, "root": prediction.root}


def _document(prediction: Prediction) -> dict[str, Any]:
    clips, skeleton = prediction.clips, prediction.clips.skeleton
    columns = {
        "pose": _rounded(prediction.poses, 4),
        "spread_mm": _rounded(prediction.spread, 1),
        "keypoints": _rounded(clips.keypoints, 5),
        "hypotheses": _rounded(prediction.hypotheses, 4),
    }
    if prediction.root is not None:
        columns["root"] = _rounded(prediction.root, 4)
    frames = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {
        **prediction.meta,
        "joints": list(skeleton.joints),
        "parents": list(skeleton.parents),
        "clips": [
            {"subject": subject, "action": action, "fps": float(fps), "frames": frames[start : start + length]}
            for subject, action, fps, start, length in zip(
                clips.subject, clips.action, clips.fps, clips.clip_start, clips.clip_length, strict=True
            )
        ],
    }


def _rounded(array: np.ndarray, decimals: int) -> list[Any]:
    return np.round(np.asarray(array, np.float64), decimals).tolist()


def _figure(prediction: Prediction) -> Any:
    clips = prediction.clips
    middle = int(clips.clip_length[0]) // 2
    return hypotheses_figure(
        clips.keypoints[middle],
        prediction.hypotheses[middle],
        prediction.poses[middle],
        prediction.spread[middle],
        clips.skeleton,
        truth=None if clips.poses is None else clips.poses[middle],
        aggregation=prediction.meta["aggregation"],
        title=f"{clips.subject[0]}, {clips.action[0]}, frame {middle} of {clips.clip_length[0]}",
    )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    flags.DEFINE_string("workdir", None, "Work directory of the trained lifter.", flag_values=values)
    flags.DEFINE_string(
        "input", None, "Keypoints (.npz or .json) or an archive made by prepare (.npz).", flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "Directory for predictions.npz, predictions.json and prediction.png.", flag_values=values
    )
    flags.DEFINE_integer("hypotheses", 20, "Hypotheses per frame.", flag_values=values)
    flags.DEFINE_string(
        "aggregation",
        "mean",
        f"One of {', '.join(name for name, choice in CHOICES.items() if not choice.oracle)}.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "layout", None, "Joint layout of the keypoints where the file does not name it.", flag_values=values
    )
    flags.DEFINE_string("split", "test", "Split to lift when the input is an archive.", flag_values=values)
    flags.DEFINE_float(
        "focal",
        None,
        "Focal length in halves of the image's width (Human3.6M: 2.29); gives the root.",
        flag_values=values,
    )
    flags.DEFINE_boolean("flip", None, "Average every hypothesis with one of the mirrored input.", flag_values=values)
    flags.DEFINE_integer("batch_size", None, "Windows per device and compiled call.", flag_values=values)
    flags.DEFINE_boolean("json", True, "Write predictions.json too; it is large for long inputs.", flag_values=values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, predicts, and says what was written where."""
    cli.require(argv, given, "workdir", "input", "output")
    report.writable_directory(given.output)
    prediction = predict(
        given.workdir,
        given.input,
        hypotheses=given.hypotheses,
        aggregation=given.aggregation,
        layout=given.layout,
        split=given.split,
        focal=given.focal,
        flip=given.flip,
        batch_size=given.batch_size,
    )
    paths = save_prediction(prediction, given.output, given.json)
    frames, count, joints = prediction.hypotheses.shape[:3]
    print(f"{frames} frames, {count} hypotheses each, {joints} joints ({prediction.clips.skeleton.name}); "
          f"mean spread {prediction.spread.mean():.1f} mm")  # fmt: skip
    print("poses are root-relative, metres, camera frame (x right, y down, z away from the camera); " + (
        "the root position, which the network does not predict, is solved from the keypoints"
        if prediction.root is not None else "for the root position give the camera: --focal"
    ))  # fmt: skip
    print("results: " + ", ".join(str(path) for path in paths))
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
