"""MPI-INF-3DHP (Mehta et al. 2017) from the archives of Shan et al. (2022, 2023) or from the original test files.

Two sets of 3D targets exist and results on them are not comparable: `annot3`, which projects onto the image, and
`univ_annot3`, scaled to a universal skeleton. They must be asked for by name:

    annot3        data_train_3dhp_ori.npz, data_test_3dhp_ori.npz
    univ_annot3   data_train_3dhp.npz,     data_test_3dhp.npz

The original TS1 to TS6/annot_data.mat hold both, and the activities; where a folder has them, they are the test split.
They are MATLAB v7.3, so HDF5, and need the package h5py. All frames of the test sequences are kept; those that the
benchmark skips are marked by `ClipSet.valid_frame`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax import geometry
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet, check_valid_subjects
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import MPI_INF_3DHP_17

TRAIN_SUBJECTS = tuple(f"S{number}" for number in range(1, 9))
TEST_SEQUENCES = tuple(f"TS{number}" for number in range(1, 7))
ANNOTATIONS = {"annot3": "_ori", "univ_annot3": ""}

# The classes 1 to 7 of `ClipSet.activity`; 0 is unknown.
ACTIVITIES = (
    "unknown",
    *("Stand/Walk", "Exercise", "Sit on Chair", "Reach/Crouch", "On Floor", "Sports", "Miscellaneous"),
)

TRAIN_SIZE = (2048, 2048)
# The test files state no frame rate. It enters no metric.
TEST_FPS = 25.0

ROOT = MPI_INF_3DHP_17.root
JOINTS = MPI_INF_3DHP_17.num_joints


class Lens(NamedTuple):
    """A calibrated test camera: size in pixels, sensor and focal length and centre offset in mm, pixel aspect y/x."""

    size: tuple[int, int]
    sensor: tuple[float, float]
    focal: float
    offset: tuple[float, float]
    aspect: float


STUDIO = Lens((2048, 2048), (10.0, 10.0), 7.32506, (-0.0322884, 0.0929296), 1.00044)
OUTDOOR = Lens((1920, 1080), (10.0, 5.625), 8.770747185, (-0.104908645, 0.104899704), 0.993236423)
LENSES = (STUDIO,) * 4 + (OUTDOOR,) * 2


def mpi_inf_3dhp_cameras(*, release: bool = False) -> Camera:
    """The pinhole cameras of TS1 to TS6, leading axis `[6]`, numpy float32; the world is the camera frame.

    The calibration's pixel aspect multiplies the vertical focal length: `annot3` then projects onto the keypoints to
    some thousandths of a pixel. `release` leaves it out, as that of Shan et al. 2023 does (off by 1.4 px on TS5 and
    TS6).
    """
    # Focal length and offset in pixels are those in mm times the pixels per mm; the offset is from the image's middle.
    size, sensor, focal, offset, aspect = (np.array(column, np.float64) for column in zip(*LENSES, strict=True))
    density = size / sensor
    pixels = focal[:, None] * density
    if not release:
        pixels[:, 1] *= aspect
    count = len(LENSES)
    camera = Camera(
        focal=pixels / size[:, :1] * 2,
        centre=geometry.normalise_screen(offset * density + size / 2, size),
        radial=np.zeros((count, 3)),
        tangential=np.zeros((count, 2)),
        rotation=np.tile([1.0, 0, 0, 0], (count, 1)),
        translation=np.zeros((count, 3)),
        size=size,
    )
    return Camera(*(value.astype(np.float32) for value in camera))


def load_mpi_inf_3dhp(
    folder: str | os.PathLike,
    *,
    annotation: str | None = None,
    valid_subjects: Collection[str] = ("S8",),
    release: bool = False,
) -> dict[str, ClipSet]:
    """Read MPI-INF-3DHP as 2D-3D pairs, layout `mpi_inf_3dhp17` (its root is joint 14).

    Train (eight cameras with unknown lenses) and valid come from S1 to S8, test from TS1 to TS6, one clip per sequence,
    its subject the sequence's name.

    Args:
        folder: Where the files are.
        annotation: The 3D targets, 'annot3' or 'univ_annot3'; there is no default.
        valid_subjects: Those of S1 to S8 that make the valid split; none: all of them train.
        release: Take the test cameras as the release of Shan et al. 2023 does (`mpi_inf_3dhp_cameras`).

    Returns:
        `{split: ClipSet}`, without the splits of which the folder has no files. `note` says which targets these are and
        how far they project from the keypoints.

    Raises:
        UserError: For files that are missing, damaged or of another form, and for options that do not fit.
    """
    folder = Path(folder)
    if annotation not in ANNOTATIONS:
        raise UserError(f"annotation: expected {' or '.join(ANNOTATIONS)} (results on the two are not comparable), "
                        f"found {annotation or 'none'}")  # fmt: skip
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with the files of MPI-INF-3DHP, found no such folder")
    check_valid_subjects(valid_subjects, TRAIN_SUBJECTS)
    train_path, test_path = (folder / f"data_{part}_3dhp{ANNOTATIONS[annotation]}.npz" for part in ("train", "test"))
    originals = [path for name in TEST_SEQUENCES if (path := _original(folder, name)).is_file()]
    if not (train_path.is_file() or test_path.is_file() or originals):
        names = f"{train_path.name}, {test_path.name} or TS1/annot_data.mat"
        raise UserError(f"{folder}: expected {names} for {annotation}, found none of them")
    splits = {}
    if train_path.is_file():
        clips = list(_train_clips(train_path))
        for split, wanted in (("train", False), ("valid", True)):
            part = [clip for clip in clips if (clip.subject in valid_subjects) is wanted]
            splits[split] = ClipSet.build(part, MPI_INF_3DHP_17, note=f"3D targets: {annotation}")
    if originals or test_path.is_file():
        clips = [_original_clip(path, annotation) for path in originals] or list(_test_clips(test_path))
        cameras = mpi_inf_3dhp_cameras(release=release)
        splits["test"] = ClipSet.build(clips, MPI_INF_3DHP_17, cameras, _note(clips, annotation, cameras))
    return splits


def _original(folder: Path, sequence: str) -> Path:
    nested = folder / "mpi_inf_3dhp_test_set"
    return (nested if nested.is_dir() else folder) / sequence / "annot_data.mat"


def _note(clips: list[Clip], annotation: str, cameras: Camera) -> str:
    distances = []
    for clip in clips:
        focal, centre, size = (field[clip.camera] for field in (cameras.focal, cameras.centre, cameras.size))
        points = (np.asarray(clip.poses) + np.asarray(clip.root)[:, None])[clip.valid_frame]
        seen = points[..., :2] / points[..., 2:] * focal + centre
        distances.append(np.linalg.norm(seen - clip.keypoints[clip.valid_frame], axis=-1).ravel() * size[0] / 2)
    found = [clip.subject for clip in clips]
    missing = [name for name in TEST_SEQUENCES if name not in found]
    note = f"3D targets: {annotation}; they project {np.median(np.concatenate(distances)):.2f} px (median) from the 2D"
    return note + (f"; test sequences missing: {', '.join(missing)}" if missing else "")


def _train_clips(path: Path) -> Iterator[Clip]:
    for name, entry in _dictionary(path, read_npz(path, ["data"])["data"]).items():
        where = f"{path}: {name}"
        named = re.fullmatch(r"(S[1-8])[ _](Seq\d+)", str(name))
        if not named:
            raise UserError(f"{where}: expected a name like 'S1 Seq1'")
        if not isinstance(entry, (list, tuple, np.ndarray)) or len(entry) != 2:
            raise UserError(f"{where}: expected a pair of cameras and frame rate, found {type(entry).__name__}")
        views, fps = _dictionary(where, entry[0]), _frame_rate(where, entry[1])
        for camera, view in views.items():
            yield _clip(f"{where}, camera {camera}", view, TRAIN_SIZE)._replace(
                subject=named[1], action=named[2], fps=fps
            )


def _test_clips(path: Path) -> Iterator[Clip]:
    content = _dictionary(path, read_npz(path, ["data"])["data"])
    if strange := sorted(set(map(str, content)) - set(TEST_SEQUENCES)):
        raise UserError(f"{path}: expected sequences {', '.join(TEST_SEQUENCES)}, found {strange[0]}")
    for name in (name for name in TEST_SEQUENCES if name in content):
        camera, where = TEST_SEQUENCES.index(name), f"{path}: {name}"
        clip = _clip(where, content[name], LENSES[camera].size)
        valid = _flags(where, _dictionary(where, content[name]), "valid", len(clip.keypoints))
        yield clip._replace(subject=name, action="test", camera=camera, fps=TEST_FPS, valid_frame=valid)


def _original_clip(path: Path, annotation: str) -> Clip:
    arrays = _read_mat(path, ("annot2", annotation, "valid_frame", "activity_annotation"))
    frames = len(arrays["valid_frame"])
    camera, where = TEST_SEQUENCES.index(path.parent.name), str(path)
    view = {"data_2d": arrays["annot2"], "data_3d": arrays[annotation]}
    for key, array in view.items():
        if array.ndim != 4 or array.shape[1] != 1 or len(array) != frames:
            raise UserError(f"{where}: expected {key.removeprefix('data_')} of shape ({frames}, 1, {JOINTS}, ...), "
                            f"found {array.shape}")  # fmt: skip
    activity = arrays["activity_annotation"].reshape(-1)
    if activity.shape != (frames,) or not np.isin(activity, np.arange(1, len(ACTIVITIES))).all():
        raise UserError(f"{where}: expected {frames} activities 1 to 7, found {activity.shape[0]} of other values")
    clip = _clip(where, {key: array[:, 0] for key, array in view.items()}, LENSES[camera].size)
    valid = _flags(where, arrays, "valid_frame", frames)
    return clip._replace(
        subject=path.parent.name, action="test", camera=camera, fps=TEST_FPS, valid_frame=valid,
        activity=activity.astype(np.int32),
    )  # fmt: skip


def _read_mat(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Numeric arrays of a MATLAB v7.3 file, axes reversed; nothing outside the file is followed."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: MATLAB v7.3 files are read with h5py, which is missing: pip install h5py") from error
    found = {}
    try:
        with h5py.File(path, "r") as file:
            for name in names:
                data = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
                if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiub" or data.is_virtual:
                    raise UserError(f"{path}: expected numbers named {name}, found {', '.join(file) or 'nothing'}")
                if data.external or data.nbytes > 1 << 30:
                    raise UserError(
                        f"{path}: {name}: expected at most 1 GiB inside the file, found {data.nbytes} bytes"
                    )
                found[name] = np.asarray(data)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: expected a MATLAB v7.3 file, found a damaged one ({line})") from error
    return found


def _clip(where: str, view: Any, size: tuple[int, int]) -> Clip:
    """2D-3D pairs of one camera; the labels are the caller's."""
    view = _dictionary(where, view)
    pixels = _array(where, view, "data_2d", 2)
    points = _array(where, view, "data_3d", 3)
    if len(pixels) != len(points):
        raise UserError(f"{where}: expected as many frames of 2D as of 3D, found {len(pixels)} and {len(points)}")
    if np.abs(pixels).max() < 10:
        raise UserError(f"{where}: expected data_2d in pixels, found values up to {np.abs(pixels).max():.2f}")
    depth = float(np.median(points[:, ROOT, 2]))
    if depth < 100:
        raise UserError(f"{where}: expected data_3d in mm in front of the camera, found a median depth of {depth:.1f}")
    points = points / 1000
    root = points[:, ROOT]
    return Clip(
        geometry.normalise_screen(pixels, size).astype(np.float32),
        (points - root[:, None]).astype(np.float32),
        root.astype(np.float32),
        subject="",
        action="",
    )


def _dictionary(where: Any, content: Any) -> Mapping[Any, Any]:
    if isinstance(content, np.ndarray) and content.shape == ():
        content = content.item()
    if not isinstance(content, dict) or not content:
        length = len(content) if isinstance(content, dict) else np.size(content)
        raise UserError(f"{where}: expected a dictionary, found {type(content).__name__} of {length}")
    return content


def _array(where: str, view: Mapping[str, Any], key: str, channels: int) -> np.ndarray:
    array: Any = view.get(key)
    shape: tuple[int, ...] = getattr(array, "shape", ())
    if len(shape) != 3 or shape[1:] != (JOINTS, channels) or not shape[0]:
        raise UserError(f"{where}: expected {key} of shape (frames, {JOINTS}, {channels}), found {shape or 'none'}")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise UserError(f"{where}: expected finite numbers in {key}, found NaN, infinity or {array.dtype}")
    return np.asarray(array, np.float64)


def _flags(where: str, view: Mapping[str, Any], key: str, frames: int) -> np.ndarray:
    flags = np.asarray(view.get(key, ()))
    if flags.size != frames or flags.dtype.kind not in "fiub" or not np.isin(flags, (0, 1)).all():
        raise UserError(f"{where}: expected {key} of {frames} zeros and ones, found shape {flags.shape}")
    return flags.reshape(-1).astype(np.bool_)


def _frame_rate(where: str, value: Any) -> float:
    try:
        fps = float(np.asarray(value).item())
    except (TypeError, ValueError):
        fps = 0.0
    if not 0 < fps < 1000:
        raise UserError(f"{where}: expected a frame rate, found {str(value)[:40]!r}")
    return fps
