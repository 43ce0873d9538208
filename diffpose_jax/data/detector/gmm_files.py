"""The mixture files of DiffPose's authors (Gong et al. 2023): `data_2d_h36m_{detections}_gmm.npz`.

An array per video, `[frames, joints, components, 5]`: weight, mean u and v in pixels, and two standard deviations,
which are not in pixels: the release, which calls them variances, multiplies standard normal noise by them in normalised
image units. No script that makes these files is public. One user found weights of 1, 0, 0 throughout, that is, a single
Gaussian around the detection.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.geometry import normalise_screen
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.mixtures.packing import pack_mixture

COLUMNS = 5
CAMERAS = 4
# Which take a video shows is decided from every tenth frame. Detections lie nearer to the means than `FARTHEST`
# (normalised image units, a tenth of the image's width), those of another video do not.
SAMPLED = 10
FARTHEST = 0.2


def read_gmm(path: str | os.PathLike) -> dict[tuple[str, str, int], np.ndarray]:
    """Read a `_gmm` file as `{(subject, action, camera): [frames, joints, components, 5]}`, as on disk.

    Raises UserError for a damaged or foreign file, and for arrays that are no mixtures.
    """
    path = Path(path)
    content = read_npz(path, ["positions_2d"])["positions_2d"]
    if not isinstance(content, Mapping) or not all(isinstance(actions, Mapping) for actions in content.values()):
        raise UserError(f"{path}: expected a dictionary of subjects and actions, found {type(content).__name__}")
    found = {}
    for subject, actions in content.items():
        for action, views in actions.items():
            if not isinstance(views, (list, tuple, np.ndarray)):
                raise UserError(f"{path}: {subject}/{action}: expected a list of cameras, found {type(views).__name__}")
            for camera, view in enumerate(views):
                found[str(subject), str(action), camera] = _check(f"{path}: {subject}/{action}/{camera}", view)
    if not found:
        raise UserError(f"{path}: expected mixtures, found none")
    return found


def _check(where: str, array: Any) -> np.ndarray:
    shape: tuple[int, ...] = getattr(array, "shape", ())
    if len(shape) != 4 or shape[-1] != COLUMNS or 0 in shape or array.dtype.kind not in "fiu":
        raise UserError(f"{where}: expected shape (frames, joints, components, {COLUMNS}), found {shape}")
    if not np.isfinite(array).all():
        raise UserError(f"{where}: expected finite numbers, found NaN or infinity")
    if (array[..., 0] < 0).any() or (array[..., 3:] < 0).any() or not (array[..., 0].sum(axis=-1) > 0).all():
        raise UserError(f"{where}: expected weights and deviations of 0 or more and some weight for every joint")
    return array


def gmm_mixture(array: np.ndarray, size: np.ndarray) -> Mixture:
    """The diagonal mixtures `[T, J, M]` of an array `[T, J, M, 5]`, in normalised image units of an image of `size`."""
    values: Any = np.asarray(array, np.float64)
    means: Any = normalise_screen(values[..., 1:3], size)
    return Mixture(values[..., 0] / values[..., 0].sum(axis=-1, keepdims=True), means, values[..., 3:] ** 2)


def add_gmm_mixtures(splits: Mapping[str, ClipSet], path: str | os.PathLike) -> dict[str, ClipSet]:
    """Give the splits of Human3.6M the mixtures of a `_gmm` file.

    Keypoints become the mean of the component of most weight, which the release diffuses. Clips are named by their
    action without its take; of the two takes the one that lies nearer is meant.

    Args:
        splits: `{split: ClipSet}` made by `data.sets.human36m`.
        path: The file.

    Returns:
        The splits with keypoints and mixtures of the file, without scores and visibility.

    Raises:
        UserError: Where the file lacks a clip, or where what it has is elsewhere, shorter, or of other joints.
    """
    path = Path(path)
    takes: dict[tuple[str, str, int], list[np.ndarray]] = {}
    for (subject, action, camera), array in read_gmm(path).items():
        takes.setdefault((subject, re.sub(r" \d+$", "", action), camera), []).append(array)
    return {split: _add_takes(clips, takes, path) for split, clips in splits.items()}


def _add_takes(clips: ClipSet, takes: Mapping[tuple[str, str, int], list[np.ndarray]], path: Path) -> ClipSet:
    if clips.cameras is None or (clips.camera < 0).any():
        raise UserError("mixtures from a file: expected a data set with cameras, found none")
    keypoints, packed = [], []
    for index in range(clips.num_clips):
        clip = clips.clip(index)
        name = (clip.subject, clip.action, clip.camera % CAMERAS)
        where = f"{path}: {clip.subject}/{clip.action}, camera {name[2]}"
        frames, joints = clip.keypoints.shape[:2]
        # Detections may go on after the motion capture ended, as in VideoPose3D's files.
        fitting = [part[:frames] for part in takes.get(name, []) if len(part) >= frames and part.shape[1] == joints]
        if not fitting:
            found = ", ".join(f"{part.shape[:2]}" for part in takes.get(name, [])) or "none"
            raise UserError(f"{where}: expected {frames} frames of {joints} joints, found {found}")
        size = np.asarray(clips.cameras.size[clip.camera])
        away = [_distance(gmm_mixture(part[::SAMPLED], size), clip.keypoints[::SAMPLED]) for part in fitting]
        if min(away) > FARTHEST:
            raise UserError(f"{where}: expected means near the keypoints, found them {min(away):.2f} away")
        mixture = gmm_mixture(fitting[int(np.argmin(away))], size)
        keypoints.append(_main_mean(mixture).astype(np.float32))
        packed.append(pack_mixture(mixture, keypoints[-1]))
    if len(components := {part.shape[2] for part in packed}) > 1:
        raise UserError(f"{path}: expected one number of components, found {sorted(components)}")
    return dataclasses.replace(
        clips, keypoints=np.concatenate(keypoints), mixture=np.concatenate(packed), scores=None, visibility=None
    )


def _main_mean(mixture: Mixture) -> np.ndarray:
    """The mean `[T, J, 2]` of the component of most weight."""
    first = np.argmax(mixture.weights, axis=-1)[..., None, None]
    return np.take_along_axis(np.asarray(mixture.means), first, axis=2)[:, :, 0]


def _distance(mixture: Mixture, keypoints: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(_main_mean(mixture) - keypoints, axis=-1)))
