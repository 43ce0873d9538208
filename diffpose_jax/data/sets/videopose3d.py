"""The files of VideoPose3D: `data_3d_{name}.npz`, mocap in the world, and `data_2d_{name}_{detections}.npz`, pixels.

Both hold dictionaries of subjects and actions; a 2D file has a list of cameras for each action and may say in its
metadata which joints are left and right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffpose_jax import geometry
from diffpose_jax.data.clip import Clip
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import Skeleton, convert_layout, convert_scores

_to_camera = jax.jit(geometry.world_to_camera)
# What the files hold the views of an action in.
_LISTS = (list, tuple, np.ndarray)


class Recordings(NamedTuple):
    """What a pair of files holds, by subject and action: mocap, and lists of views."""

    path_3d: Path
    path_2d: Path
    world: Mapping[str, Mapping[str, Any]]
    pixels: Mapping[str, Mapping[str, Any]]
    layout: Skeleton  # of the 2D


class Joints(NamedTuple):
    """The joints of a 3D file, of which `rows` make `skeleton`."""

    total: int
    rows: tuple[int, ...]
    skeleton: Skeleton


def read_recordings(
    folder: Path, name: str, detections: str, subjects: Sequence[str], layouts: Sequence[Skeleton]
) -> Recordings:
    """Read the 3D file and one 2D file of a data set.

    Args:
        folder: Where the files are.
        name: Of the data set in their names, 'h36m' or 'humaneva15'.
        detections: Of the 2D file, 'gt', 'cpn_ft_h36m_dbb', ...
        subjects: Those that both files must have.
        layouts: Those that the 2D may have.

    Raises:
        UserError: For files that are missing, damaged or of another form.
    """
    path_3d, path_2d = folder / f"data_3d_{name}.npz", folder / f"data_2d_{name}_{detections}.npz"
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with {path_3d.name}, found no such folder")
    if not path_3d.is_file():
        raise UserError(f"{path_3d}: expected VideoPose3D's 3D file, found no such file")
    if not path_2d.is_file():
        found = sorted(p.stem.removeprefix(f"data_2d_{name}_") for p in folder.glob(f"data_2d_{name}_*.npz"))
        raise UserError(f"{path_2d}: expected VideoPose3D's 2D file, found detections {', '.join(found) or 'none'}")
    world = _check_subjects(path_3d, read_npz(path_3d, ["positions_3d"])["positions_3d"], subjects)
    members = read_npz(path_2d, ["positions_2d"], optional=["metadata"])
    pixels = _check_subjects(path_2d, members["positions_2d"], subjects)
    return Recordings(path_3d, path_2d, world, pixels, _find_layout(path_2d, pixels, members.get("metadata"), layouts))


def pair_view(
    where: tuple[str, str], positions: Any, view: Any, camera: Camera, joints: tuple[Joints, Skeleton, Skeleton]
) -> Clip:
    """Make 2D-3D pairs of the mocap of one action and its pixels in one camera; the labels are the caller's.

    Args:
        where: What messages call the mocap and the pixels.
        positions: Mocap `[T, J, 3]`, metres, world frame.
        view: Pixels `[T', J, 2]`, or `[T', J, 3]` with scores, T' >= T; what was detected after the mocap ended is
            cut off.
        camera: The camera.
        joints: The joints of the mocap, of the pixels, and of the clip.

    Raises:
        UserError: For arrays of another shape, NaN or infinity, and too few frames of pixels.
    """
    world, source, target = joints
    _check_array(where[0], positions, world.total, (3,))
    _check_array(where[1], view, source.num_joints, (2, 3))
    frames = len(positions)
    if len(view) < frames:
        raise UserError(f"{where[1]}: expected at least {frames} frames as in the 3D file, found {len(view)}")
    keypoints, poses, root = camera_pairs(np.asarray(positions)[:, world.rows], view[..., :2], camera)
    scores = np.asarray(view[:frames, :, 2], np.float32) if view.shape[-1] == 3 else None
    return Clip(
        convert_layout(keypoints, source, target),
        convert_layout(poses, world.skeleton, target),
        root,
        subject="",
        action="",
        scores=None if scores is None else convert_scores(scores, source, target),
        detected=source.marked_in_pictures,
    )


def camera_pairs(world: np.ndarray, pixels: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make 2D-3D pairs of one camera from mocap `[T, J, 3]` (world, m) and pixels `[T', J', 2]`, T' >= T.

    Returns keypoints `[T, J', 2]` in normalised image units, root-relative poses `[T, J, 3]` and the root's path
    `[T, 3]` in the camera frame (m), numpy float32. Frames detected after the mocap ended are cut off.
    """
    frames = len(world)
    # Clips have many lengths; powers of two keep the number of compiled versions small.
    padding = (1 << (frames - 1).bit_length()) - frames
    padded = np.pad(np.asarray(world, np.float32), ((0, padding), (0, 0), (0, 0)), mode="edge")
    points = np.asarray(_to_camera(padded, camera))[:frames]
    keypoints = geometry.normalise_screen(np.asarray(pixels[:frames], np.float32), camera.size)
    return np.asarray(keypoints), points - points[:, :1], points[:, 0]


def _check_subjects(path: Path, content: Any, subjects: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(content, dict) or not all(isinstance(actions, dict) for actions in content.values()):
        raise UserError(f"{path}: expected a dictionary of subjects and actions, found {type(content).__name__}")
    if missing := [subject for subject in subjects if subject not in content]:
        raise UserError(f"{path}: expected subjects {', '.join(subjects)}, found no {', '.join(missing)}")
    if strange := [name for subject in subjects for name in content[subject] if not isinstance(name, str)]:
        raise UserError(f"{path}: expected names of actions, found {strange[0]!r}")
    return content


def list_views(where: str, views: Any, cameras: int) -> list[Any]:
    """What a file holds of the cameras of an action. Raises UserError where it is no list, or of another length."""
    found = len(views) if isinstance(views, _LISTS) else "none" if views is None else type(views).__name__
    if found != cameras:
        raise UserError(f"{where}: expected keypoints of {cameras} cameras, found {found}")
    return list(views)


def _find_layout(
    path: Path, pixels: Mapping[str, Mapping[str, Any]], metadata: Any, layouts: Sequence[Skeleton]
) -> Skeleton:
    """Tell the layout of a 2D file by its number of joints and, where it says so, by its left and right joints."""
    labelled = [actions for subject, actions in pixels.items() if not subject.startswith("Unlabeled")]
    listed = (views for actions in labelled for views in actions.values() if isinstance(views, _LISTS))
    first = next((view for views in listed for view in views), None)
    joints = first.shape[1] if isinstance(first, np.ndarray) and first.ndim == 3 else 0
    sides = metadata.get("keypoints_symmetry") if isinstance(metadata, dict) else None
    try:
        stated = None if sides is None else [sorted(map(int, side)) for side in sides]
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: expected left and right joints in its metadata, found {str(sides)[:60]}") from error
    for skeleton in layouts:
        known = [list(skeleton.left), list(skeleton.right)]
        if skeleton.num_joints == joints and stated in (None, known):
            return skeleton
    expected = " or ".join(f"{skeleton.num_joints} joints of {skeleton.name}" for skeleton in layouts)
    raise UserError(f"{path}: expected {expected}, found {joints} joints with left and right {sides}")


def _check_array(where: str, array: Any, joints: int, channels: tuple[int, ...]) -> None:
    shape: tuple[int, ...] = getattr(array, "shape", ())
    if len(shape) != 3 or shape[1] != joints or shape[2] not in channels or not len(array):
        found = "none" if array is None else shape or type(array).__name__
        raise UserError(f"{where}: expected shape (frames, {joints}, {channels[0]}), found {found}")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise UserError(f"{where}: expected finite numbers, found NaN, infinity or {array.dtype}")
