"""Human3.6M from the files everyone uses: VideoPose3D's `data_3d_h36m.npz` and `data_2d_h36m_{detections}.npz`.

The 3D file holds, per subject and action, 32 mocap joints in the world (m); the 2D files hold, per subject, action and
camera, the pixels of a detector or of the projected mocap (`gt`). 50 Hz, no down-sampling. Test subjects are S9 and
S11; valid is carved out of the training subjects S1, S5, S6, S7, S8 by `valid_subjects` (published runs train on all
five and select on the test split, which this loader does not offer). S11's `Directions` is left out: its mocap is
corrupt.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffpose_jax import geometry
from diffpose_jax.data.cameras import H36M_SUBJECTS, h36m_cameras
from diffpose_jax.data.clips import SPLITS, Clip, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import COCO_17, H36M_16, H36M_17, Skeleton, convert_layout, get_skeleton

TRAIN_SUBJECTS = ("S1", "S5", "S6", "S7", "S8")
TEST_SUBJECTS = ("S9", "S11")
CORRUPT = {("S11", "Directions")}
FPS = 50.0

# The rows of the 32 mocap joints that make `H36M_17`.
JOINTS_17_OF_32 = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)

ALIASES = {"cpn": "cpn_ft_h36m_dbb"}

_to_camera = jax.jit(geometry.world_to_camera)


def load_human36m(
    folder: str | os.PathLike,
    *,
    detections: str = "gt",
    layout: str | None = None,
    valid_subjects: Collection[str] = ("S8",),
) -> dict[str, ClipSet]:
    """Reads Human3.6M as 2D-3D pairs `{split: ClipSet}`, one clip per subject, action and camera.

    `detections` names the 2D file (`gt`, `cpn` for `cpn_ft_h36m_dbb`, `hr`, ...). `layout` is `h36m17` or `h36m16`;
    None takes the 16-joint layout for files of 16 joints (HRNet, SemGCN's `gt`) and the 17-joint one for all others.
    2D of another layout is converted by `skeleton.layout_matrix` (17 to 16 drops joint 9). Clips are named by their
    action without its number; `cameras` holds the four cameras of all seven subjects. Raises UserError.
    """
    folder = Path(folder)
    path_3d, path_2d = _files(folder, ALIASES.get(detections, detections))
    if not set(valid_subjects) < set(TRAIN_SUBJECTS) or not valid_subjects:
        found = ", ".join(valid_subjects) or "none"
        raise UserError(f"valid_subjects: expected some, not all, of {', '.join(TRAIN_SUBJECTS)}, found {found}")
    world = _subjects(path_3d, read_npz(path_3d, ["positions_3d"])["positions_3d"])
    members = read_npz(path_2d, ["positions_2d"], optional=["metadata"])
    pixels = _subjects(path_2d, members["positions_2d"])
    source = _detected_layout(path_2d, pixels, members.get("metadata"))
    target = get_skeleton(layout) if layout else (H36M_16 if source == H36M_16 else H36M_17)
    if target not in (H36M_16, H36M_17):
        raise UserError(f"layout: expected h36m17 or h36m16 for Human3.6M, found {target.name}")

    cameras = [h36m_cameras(subject) for subject in H36M_SUBJECTS]
    clips: dict[str, list[Clip]] = {split: [] for split in SPLITS}
    for index, subject in enumerate(H36M_SUBJECTS):
        split = "test" if subject in TEST_SUBJECTS else "valid" if subject in valid_subjects else "train"
        for name, positions in world[subject].items():
            if (subject, name) in CORRUPT:
                continue
            views = _views(path_2d, pixels, subject, name)
            for number, view in enumerate(views):
                camera = Camera(*(field[number] for field in cameras[index]))
                where = (f"{path_3d}: {subject}/{name}", f"{path_2d}: {subject}/{name}, camera {number}")
                labels = (subject, re.sub(r" \d+$", "", name), 4 * index + number, FPS)
                clips[split].append(_clip(where, positions, view, camera, source, target, labels))
    stacked = Camera(*(np.concatenate(fields) for fields in zip(*cameras, strict=True)))
    return {split: ClipSet.build(part, target, stacked) for split, part in clips.items()}


def camera_pairs(world_32: np.ndarray, pixels: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes 2D-3D pairs of one camera from mocap `[T, 32, 3]` (world, m) and pixels `[T', J, 2]`, T' >= T.

    Returns keypoints `[T, J, 2]` in normalised image units, root-relative poses `[T, 17, 3]` and the root's path
    `[T, 3]` in the camera frame (m), numpy float32. Frames detected after the mocap ended are cut off.
    """
    frames = len(world_32)
    positions = np.asarray(world_32, np.float32)[:, JOINTS_17_OF_32]
    # Clips have many lengths; powers of two keep the number of compiled versions small.
    padding = (1 << (frames - 1).bit_length()) - frames
    padded = np.pad(positions, ((0, padding), (0, 0), (0, 0)), mode="edge")
    points = np.asarray(_to_camera(padded, camera))[:frames]
    keypoints = geometry.normalise_screen(np.asarray(pixels[:frames], np.float32), camera.size)
    return keypoints, points - points[:, :1], points[:, 0]


def _files(folder: Path, detections: str) -> tuple[Path, Path]:
    path_3d, path_2d = folder / "data_3d_h36m.npz", folder / f"data_2d_h36m_{detections}.npz"
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with data_3d_h36m.npz, found no such folder")
    if not path_3d.is_file():
        raise UserError(f"{path_3d}: expected VideoPose3D's 3D file, found no such file")
    if not path_2d.is_file():
        found = sorted(p.stem.removeprefix("data_2d_h36m_") for p in folder.glob("data_2d_h36m_*.npz"))
        raise UserError(f"{path_2d}: expected VideoPose3D's 2D file, found detections {', '.join(found) or 'none'}")
    return path_3d, path_2d


def _subjects(path: Path, content: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(content, dict) or not all(isinstance(actions, dict) for actions in content.values()):
        raise UserError(f"{path}: expected a dictionary of subjects and actions, found {type(content).__name__}")
    if missing := [subject for subject in H36M_SUBJECTS if subject not in content]:
        raise UserError(f"{path}: expected subjects {', '.join(H36M_SUBJECTS)}, found no {', '.join(missing)}")
    return content


def _views(path: Path, pixels: Mapping[str, Mapping[str, Any]], subject: str, name: str) -> list[np.ndarray]:
    if name not in pixels[subject]:
        raise UserError(f"{path}: expected keypoints of {subject}/{name}, found none")
    views = list(pixels[subject][name])
    if len(views) != 4:
        raise UserError(f"{path}: {subject}/{name}: expected 4 cameras, found {len(views)}")
    return views


def _detected_layout(path: Path, pixels: Mapping[str, Mapping[str, Any]], metadata: Any) -> Skeleton:
    """Tells the layout of a 2D file by its number of joints and, where it says so, by its left and right joints."""
    first = next((view for actions in pixels.values() for views in actions.values() for view in views), None)
    joints = first.shape[1] if isinstance(first, np.ndarray) and first.ndim == 3 else 0
    metadata = metadata if isinstance(metadata, dict) else {}
    sides = metadata.get("keypoints_symmetry")
    for skeleton in (H36M_17, H36M_16, COCO_17):
        known = [list(skeleton.left), list(skeleton.right)]
        if skeleton.num_joints == joints and (sides is None or [sorted(map(int, side)) for side in sides] == known):
            return skeleton
    expected = "16 or 17 joints of Human3.6M or 17 of COCO"
    raise UserError(f"{path}: expected {expected}, found {joints} joints with left and right {sides}")


def _clip(
    where: tuple[str, str],
    positions: Any,
    view: Any,
    camera: Camera,
    source: Skeleton,
    target: Skeleton,
    labels: tuple[str, str, int, float],
) -> Clip:
    where_3d, where_2d = where
    _check(where_3d, positions, 32, (3,))
    _check(where_2d, view, source.num_joints, (2, 3))
    if len(view) < len(positions):
        raise UserError(f"{where_2d}: expected at least {len(positions)} frames as in the 3D file, found {len(view)}")
    keypoints, poses, root = camera_pairs(positions, view[..., :2], camera)
    scores = np.asarray(view[: len(positions), :, 2:], np.float32) if view.shape[-1] == 3 else None
    return Clip(
        convert_layout(keypoints, source, target),
        convert_layout(poses, H36M_17, target),
        root,
        *labels,
        scores=None if scores is None else convert_layout(scores, source, target)[..., 0],
    )


def _check(where: str, array: Any, joints: int, channels: tuple[int, ...]) -> None:
    shape = getattr(array, "shape", ())
    if len(shape) != 3 or shape[1] != joints or shape[2] not in channels or not len(array):
        raise UserError(f"{where}: expected shape (frames, {joints}, {channels[0]}), found {shape}")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise UserError(f"{where}: expected finite numbers, found NaN, infinity or {array.dtype}")
