"""The project's own archive of a data set: one `.npz` of plain arrays, written atomically, read without unpickling.

Members are named `split/array`; `meta` is a JSON text with the format, and per split the skeleton, subjects, actions,
number of frames and note.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.data.clip import FRAME_ARRAYS, LARGEST, VISIBILITY, frame_shapes, mark_missing
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.views import pinhole
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import DAMAGE, open_arrays
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import Skeleton, get_skeleton
from diffpose_jax.whole_files import write_whole

FORMAT = "diffpose_jax clips 1"
_CLIP_ARRAYS = ("clip_start", "clip_length", "camera", "fps")
_OLD_NAMES = {"visibility": "evidence"}  # as archives of version 0.1 name the array

# Arrays that other arrays are indexed with.
_INDICES = ("activity", "clip_start", "clip_length", "camera")


def save_archive(path: str | os.PathLike, splits: Mapping[str, ClipSet]) -> None:
    """Write `{split: ClipSet}` as one uncompressed `.npz` without pickles, atomically. Raises UserError."""
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    described: dict[str, Any] = {}
    for split, clips in splits.items():
        described[split] = {
            "skeleton": clips.skeleton.name,
            "subject": clips.subject,
            "action": clips.action,
            "frames": clips.num_frames,
            "note": clips.note,
            "detected": clips.detected,
        }
        for name in (*FRAME_ARRAYS, *_CLIP_ARRAYS):
            if getattr(clips, name) is not None:
                arrays[f"{split}/{name}"] = getattr(clips, name)
        for name, field in zip(Camera._fields, clips.cameras or (), strict=False):
            arrays[f"{split}/camera_{name}"] = np.asarray(field, np.float32)
    meta = np.array(json.dumps({"format": FORMAT, "splits": described}))
    with write_whole(path) as part, open(part, "wb") as file:
        np.savez(file, allow_pickle=False, meta=meta, **arrays)


def load_archive(
    path: str | os.PathLike, splits: Sequence[str] | None = None, optional: Collection[str] = ()
) -> dict[str, ClipSet]:
    """Read an archive written by `save_archive`; with `splits`, only these are read from disk.

    A keypoint that is NaN, or whose score is NaN, was not seen: it becomes (0, 0) with a score of 0.

    Splits that are `optional` may be missing, here and in what is returned. Raises UserError for a missing or
    damaged file, a foreign format or another missing split.
    """
    with _open_archive(path) as (archive, described):
        wanted = list(described) if splits is None else splits
        wanted = [split for split in wanted if split in described or split not in optional]
        missing = [split for split in wanted if split not in described]
        if missing:
            raise UserError(f"{path}: expected split '{missing[0]}', found {', '.join(described)}")
        return {split: _read_split(archive, split, described[split]) for split in wanted}


def read_layouts(path: str | os.PathLike) -> dict[str, Skeleton]:
    """The joint layout of each split of an archive; reads no frames. Raises UserError as `load_archive` does."""
    with _open_archive(path) as (_, described):
        return {split: get_skeleton(meta["skeleton"]) for split, meta in described.items()}


@contextmanager
def _open_archive(path: str | os.PathLike) -> Iterator[tuple[Mapping[str, np.ndarray], dict[str, Any]]]:
    """The arrays of an archive, which are read when they are asked for, and what its `meta` says of each split."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected an archive made by `python -m diffpose_jax.prepare`, found no such file")
    try:
        with open_arrays(path) as archive:
            meta = json.loads(str(archive["meta"]))
            if meta.get("format") != FORMAT:
                raise UserError(f"{path}: expected format '{FORMAT}', found {meta.get('format')!r}")
            yield archive, meta["splits"]
    except DAMAGE as error:
        raise UserError(f"{path}: expected an archive of diffpose_jax, found {_describe(error)}") from error


def _describe(error: Exception) -> str:
    line = str(error).splitlines()[0] if str(error) else ""
    return line if type(error) is ValueError and line else f"{type(error).__name__}: {line}"


def _read_split(archive: Mapping[str, np.ndarray], split: str, meta: Mapping[str, Any]) -> ClipSet:
    arrays: dict[str, Any] = {}
    for name in (*FRAME_ARRAYS, *_CLIP_ARRAYS):
        found = archive.get(f"{split}/{name}")
        arrays[name] = archive.get(f"{split}/{_OLD_NAMES[name]}") if found is None and name in _OLD_NAMES else found
    arrays["keypoints"], arrays["scores"] = mark_missing(arrays["keypoints"], arrays["scores"])
    has_cameras = f"{split}/camera_{Camera._fields[0]}" in archive
    clips = ClipSet(
        **arrays,
        subject=tuple(meta["subject"]),
        action=tuple(meta["action"]),
        cameras=Camera(*(archive[f"{split}/camera_{name}"] for name in Camera._fields)) if has_cameras else None,
        skeleton=get_skeleton(meta["skeleton"]),
        note=str(meta.get("note", "")),
        detected=bool(meta.get("detected", False)),
    )
    _check_split(clips, meta["frames"])
    return clips


def _check_split(clips: ClipSet, frames: int) -> None:
    """Raises ValueError where the arrays of a split do not fit together."""
    count = len(clips.subject)
    shapes = frame_shapes(frames, clips.skeleton.num_joints, clips.mixture) | dict.fromkeys(_CLIP_ARRAYS, (count,))
    for name, shape in shapes.items():
        array = getattr(clips, name)
        if array is None and name in FRAME_ARRAYS and name != "keypoints":
            continue
        kinds = {"valid_frame": "b", "visibility": "u"}.get(name, "i" if name in _INDICES else "fi")
        if array is None or array.shape != shape or array.dtype.kind not in kinds:
            raise ValueError(f"{name} that is not {shape} numbers")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} with NaN or infinity")
        if name in LARGEST and array.size and np.abs(array).max() > LARGEST[name]:
            raise ValueError(f"{name} of {np.abs(array).max():.3g}")
    if clips.visibility is not None and (clips.visibility >= len(VISIBILITY)).any():
        raise ValueError(f"visibility other than 0 to {len(VISIBILITY) - 1}")
    length, ends = clips.clip_length, np.cumsum(clips.clip_length)
    if (length < 1).any() or ends[-1:].sum() != frames or (ends - length != clips.clip_start).any():
        raise ValueError("clips that do not add up to the frames")
    cameras = 0 if clips.cameras is None else _count_cameras(clips.cameras)
    if len(clips.action) != count or (clips.camera >= cameras).any() or (clips.camera < -1).any():
        raise ValueError("clips without an action or a camera")


def _count_cameras(cameras: Camera) -> int:
    """The number of cameras. Raises ValueError where a field has another shape than cameras have, or another count."""
    count = len(np.atleast_1d(cameras.focal))
    for name, field, expected in zip(Camera._fields, cameras, pinhole(1.0, (count,)), strict=True):
        if np.shape(field) != np.shape(expected) or field.dtype.kind != "f" or not np.isfinite(field).all():
            raise ValueError(f"camera_{name} that is not {np.shape(expected)} numbers")
    return count
