"""HumanEva-I from VideoPose3D's `data_3d_humaneva15.npz` and `data_2d_humaneva15_{detections}.npz`.

The 3D file holds, per subject ('Train/S1', 'Validate/S1', ...) and recording, 15 joints in the world (m). Recordings
are cut where the motion capture failed and named after the pieces that are left: 'Walking 1 chunk0', 'Walking 1
chunk2'. The 2D files hold the pixels of three cameras of 640x480; their entries 'Unlabeled/...' have no 3D and are not
read. The lenses are not known: keypoints are normalised by the resolution alone, and the sets have no cameras.

Everybody trains on the Train part of S1, S2 and S3 and tests on the Validate part of the same people. Valid is the end
of every training piece, so that the test part is neither trained on nor selected on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffpose_jax import geometry
from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import COCO_17, HUMANEVA_15, Skeleton, convert_layout

SUBJECTS = ("S1", "S2", "S3")
FPS = 60.0
SIZE = (640, 480)

# Per subject and camera: quaternion from camera to world axes, position in the world in millimetres. S1 and S3 were
# recorded with one placement of the cameras.
_PLACED = (
    ((0.424207, -0.4983646, -0.5802981, 0.4847012), (4062.227, 663.2477, 1528.397)),
    ((0.6503354, -0.7481602, -0.0919284, 0.0941766), (844.8131, -3805.2092, 1504.9929)),
    ((0.0664734, -0.0690535, 0.7416416, -0.6639132), (-797.67377, 3916.3174, 1433.6602)),
)
EXTRINSICS = {
    "S1": _PLACED,
    "S2": (
        ((0.4214752, -0.4961493, -0.5838273, 0.4851187), (4112.9121, 626.4929, 1545.2988)),
        ((0.6501393, -0.7476588, -0.0954617, 0.0959808), (923.5740, -3877.9243, 1504.5518)),
        ((0.0699353, -0.0712403, 0.7421637, -0.662742), (-781.4915, 3838.8853, 1444.9929)),
    ),
    "S3": _PLACED,
}

_to_camera = jax.jit(geometry.world_to_camera)


def load_humaneva(folder: str | os.PathLike, *, detections: str = "gt", valid_share: float = 0.1) -> dict[str, ClipSet]:
    """Reads HumanEva-I as 2D-3D pairs `{split: ClipSet}`, layout `humaneva15`, one clip per piece and camera.

    `detections` names the 2D file (`gt`, `detectron_pt_coco`, ...); 2D of COCO's joints is converted. The last
    `valid_share` of the frames of every training piece are the valid split; pieces of fewer than two frames train.
    Clips are named by their action alone ('Walking'). Raises UserError.
    """
    folder = Path(folder)
    path_3d, path_2d = _files(folder, detections)
    if not 0 < valid_share < 1:
        raise UserError(f"valid_share: expected a share between 0 and 1, found {valid_share}")
    world = _subjects(path_3d, read_npz(path_3d, ["positions_3d"])["positions_3d"])
    members = read_npz(path_2d, ["positions_2d"], optional=["metadata"])
    pixels = _subjects(path_2d, members["positions_2d"])
    source = _detected_layout(path_2d, pixels, members.get("metadata"))
    clips: dict[str, list[Clip]] = {"train": [], "valid": [], "test": []}
    for subject in SUBJECTS:
        for part in ("Train", "Validate"):
            for name, positions in world[f"{part}/{subject}"].items():
                where = f"{path_3d}: {part}/{subject}/{name}", f"{path_2d}: {part}/{subject}/{name}"
                views = pixels[f"{part}/{subject}"].get(name)
                if not isinstance(views, (list, tuple, np.ndarray)) or len(views) != 3:
                    raise UserError(f"{where[1]}: expected keypoints of 3 cameras, found {_found(views)}")
                for number, view in enumerate(views):
                    clip = _clip(where, positions, view, subject, number, source)
                    clip = clip._replace(action=re.sub(r"( \d+)?( chunk\d+)?$", "", str(name)))
                    _share_out(clips, part, clip, valid_share)
    return {split: ClipSet.build(part, HUMANEVA_15) for split, part in clips.items()}


def humaneva_cameras(subject: str) -> Camera:
    """The three cameras of a subject, leading axis `[3]`, numpy float32: where they stand (m) and their resolution.

    Their lenses are NOT known: the focal length is zero, so that nothing can be projected by mistake.
    """
    rotation, millimetres = (np.array(column, np.float32) for column in zip(*EXTRINSICS[subject], strict=True))
    nothing = {"focal": 2, "centre": 2, "radial": 3, "tangential": 2}
    return Camera(
        **{name: np.zeros((3, width), np.float32) for name, width in nothing.items()},
        rotation=rotation,
        translation=millimetres / 1000,
        size=np.tile(np.array(SIZE, np.float32), (3, 1)),
    )


def _share_out(clips: dict[str, list[Clip]], part: str, clip: Clip, valid_share: float) -> None:
    frames = len(clip.keypoints)
    valid = round(frames * valid_share) if frames > 1 else 0
    pieces = {"test": (0, frames)} if part == "Validate" else {"train": (0, frames - valid)}
    if part == "Train" and valid:
        pieces["valid"] = frames - valid, frames
    for split, (first, last) in pieces.items():
        cut = {name: getattr(clip, name) for name in ("keypoints", "poses", "root", "scores")}
        cut = {name: None if array is None else array[first:last] for name, array in cut.items()}
        if last > first:
            clips[split].append(clip._replace(**cut))


def _files(folder: Path, detections: str) -> tuple[Path, Path]:
    path_3d, path_2d = folder / "data_3d_humaneva15.npz", folder / f"data_2d_humaneva15_{detections}.npz"
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with {path_3d.name}, found no such folder")
    if not path_3d.is_file():
        raise UserError(f"{path_3d}: expected VideoPose3D's 3D file, found no such file")
    if not path_2d.is_file():
        found = sorted(p.stem.removeprefix("data_2d_humaneva15_") for p in folder.glob("data_2d_humaneva15_*.npz"))
        raise UserError(f"{path_2d}: expected VideoPose3D's 2D file, found detections {', '.join(found) or 'none'}")
    return path_3d, path_2d


def _subjects(path: Path, content: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(content, dict) or not all(isinstance(actions, dict) for actions in content.values()):
        raise UserError(f"{path}: expected a dictionary of subjects and actions, found {type(content).__name__}")
    expected = [f"{part}/{subject}" for part in ("Train", "Validate") for subject in SUBJECTS]
    if missing := [name for name in expected if name not in content]:
        raise UserError(f"{path}: expected subjects {', '.join(expected)}, found no {', '.join(missing)}")
    return content


def _detected_layout(path: Path, pixels: Mapping[str, Mapping[str, Any]], metadata: Any) -> Skeleton:
    labelled = [actions for subject, actions in pixels.items() if not subject.startswith("Unlabeled")]
    first = next((view for actions in labelled for views in actions.values() for view in views), None)
    joints = first.shape[1] if isinstance(first, np.ndarray) and first.ndim == 3 else 0
    sides = metadata.get("keypoints_symmetry") if isinstance(metadata, dict) else None
    for skeleton in (HUMANEVA_15, COCO_17):
        known = [list(skeleton.left), list(skeleton.right)]
        if skeleton.num_joints == joints and (sides is None or [sorted(map(int, side)) for side in sides] == known):
            return skeleton
    expected = "15 joints of HumanEva or 17 of COCO"
    raise UserError(f"{path}: expected {expected}, found {joints} joints with left and right {sides}")


def _clip(where: tuple[str, str], positions: Any, view: Any, subject: str, number: int, source: Skeleton) -> Clip:
    where_3d, where_2d = where[0], f"{where[1]}, camera {number}"
    _check(where_3d, positions, HUMANEVA_15.num_joints, (3,))
    _check(where_2d, view, source.num_joints, (2, 3))
    frames = len(positions)
    if len(view) < frames:
        raise UserError(f"{where_2d}: expected at least {frames} frames as in the 3D file, found {len(view)}")
    camera = Camera(*(field[number] for field in humaneva_cameras(subject)))
    # Pieces have many lengths; powers of two keep the number of compiled versions small.
    padding = (1 << (frames - 1).bit_length()) - frames
    padded = np.pad(np.asarray(positions, np.float32), ((0, padding), (0, 0), (0, 0)), mode="edge")
    points = np.asarray(_to_camera(padded, camera))[:frames]
    keypoints = geometry.normalise_screen(np.asarray(view[:frames, :, :2], np.float32), SIZE)
    scores = np.asarray(view[:frames, :, 2:], np.float32) if view.shape[-1] == 3 else None
    return Clip(
        convert_layout(keypoints, source, HUMANEVA_15),
        points - points[:, :1],
        points[:, 0],
        subject=subject,
        action="",
        fps=FPS,
        scores=None if scores is None else convert_layout(scores, source, HUMANEVA_15)[..., 0],
    )


def _check(where: str, array: Any, joints: int, channels: tuple[int, ...]) -> None:
    shape = getattr(array, "shape", ())
    if len(shape) != 3 or shape[1] != joints or shape[2] not in channels or not len(array):
        raise UserError(f"{where}: expected shape (frames, {joints}, {channels[0]}), found {_found(array)}")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise UserError(f"{where}: expected finite numbers, found NaN, infinity or {array.dtype}")


def _found(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{len(value)}"
    return f"{value.shape}" if isinstance(value, np.ndarray) else "none" if value is None else type(value).__name__
