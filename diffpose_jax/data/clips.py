"""ClipSet: the in-memory form every dataset becomes, and the project's own pickle-free archive."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.mixtures.packing import NUMBERS as MIXTURE_NUMBERS
from diffpose_jax.skeleton import Skeleton, convert_layout, get_skeleton, layout_matrix

FORMAT = "diffpose_jax clips 1"
SPLITS = ("train", "valid", "test")
EVIDENCE = ("visible", "occluded", "confused")  # what the numbers of `ClipSet.evidence` stand for


class Clip(NamedTuple):
    """One uninterrupted recording of one subject in one camera, as loaders yield it.

    keypoints `[T, J, 2]` normalised image units; poses `[T, J, 3]` metres, camera frame, root-relative, or None;
    root `[T, 3]` metres, camera frame, or None; camera indexes the set's cameras (-1: unknown); scores `[T, J]`;
    valid_frame `[T]` bool, None: all; activity `[T]` int32, None: unknown; evidence `[T, J]` uint8, None: unknown;
    mixture `[T, J, M, 6]` float16, see `mixture_storage`.
    """

    keypoints: np.ndarray
    poses: np.ndarray | None
    root: np.ndarray | None
    subject: str
    action: str
    camera: int = -1
    fps: float = 50.0
    scores: np.ndarray | None = None
    valid_frame: np.ndarray | None = None
    activity: np.ndarray | None = None
    evidence: np.ndarray | None = None
    mixture: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class ClipSet:
    """Frames of many clips, stored end to end.

    keypoints `[N, J, 2]` normalised image units (x/w*2-1, y/w*2-h/w); poses `[N, J, 3]` metres, camera frame,
    root-relative (the skeleton's root is zero), or None; root `[N, 3]` metres, camera frame, or None; clip_start,
    clip_length, camera, fps `[C]`; subject and action, one per clip; cameras with a leading axis `[K]`, or None;
    scores `[N, J]` of the detector, or None.

    valid_frame `[N]` bool, or None where all are: frames that are not valid are lifted like the others, as part of
    their clip, but no error is measured on them. activity `[N]` int32, or None: a benchmark's number of what is done
    in a frame where that changes within a clip, 0 where it is not known. evidence `[N, J]` uint8 or None: what of
    `EVIDENCE` a simulated detector had to go by, for evaluation only. mixture `[N, J, M, 6]` float16 or
    None: mixtures fitted to the joints' heatmaps (see `mixture_storage`). note: what a report must say about the data.
    """

    keypoints: np.ndarray
    poses: np.ndarray | None
    root: np.ndarray | None
    clip_start: np.ndarray
    clip_length: np.ndarray
    subject: tuple[str, ...]
    action: tuple[str, ...]
    camera: np.ndarray
    fps: np.ndarray
    cameras: Camera | None
    skeleton: Skeleton
    scores: np.ndarray | None = None
    valid_frame: np.ndarray | None = None
    activity: np.ndarray | None = None
    note: str = ""
    evidence: np.ndarray | None = None
    mixture: np.ndarray | None = None

    @classmethod
    def build(cls, clips: Sequence[Clip], skeleton: Skeleton, cameras: Camera | None = None, note: str = "") -> ClipSet:
        """Stores clips end to end; no clips give a set of no frames. Raises UserError on data that cannot be used."""
        for clip in clips:
            _check_clip(clip, skeleton)
        if len(components := {np.shape(clip.mixture)[2] for clip in clips if clip.mixture is not None}) > 1:
            raise UserError(f"mixtures: expected one number of components, found {sorted(components)}")
        joints = skeleton.num_joints
        lengths = np.array([len(clip.keypoints) for clip in clips], np.int32)

        def joined(name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray | None:
            parts = [getattr(clip, name) for clip in clips]
            if any(part is None for part in parts):
                return None
            return np.concatenate([np.zeros((0, *shape), dtype), *[np.asarray(p, dtype) for p in parts]])

        def filled(name: str, value: bool | int, dtype: type, shape: tuple[int, ...] = ()) -> np.ndarray | None:
            parts = [getattr(clip, name) for clip in clips]
            if all(part is None for part in parts):
                return None
            pairs = zip(parts, lengths, strict=True)
            return np.concatenate(
                [np.full((n, *shape), value, dtype) if p is None else np.asarray(p, dtype) for p, n in pairs]
            )

        return cls(
            keypoints=joined("keypoints", (joints, 2)),
            poses=joined("poses", (joints, 3)),
            root=joined("root", (3,)),
            clip_start=(np.cumsum(lengths) - lengths).astype(np.int32),
            clip_length=lengths,
            subject=tuple(clip.subject for clip in clips),
            action=tuple(clip.action for clip in clips),
            camera=np.array([clip.camera for clip in clips], np.int32),
            fps=np.array([clip.fps for clip in clips], np.float32),
            cameras=cameras,
            skeleton=skeleton,
            scores=joined("scores", (joints,)) if clips else None,
            valid_frame=filled("valid_frame", True, np.bool_),
            activity=filled("activity", 0, np.int32),
            note=note,
            evidence=filled("evidence", 0, np.uint8, (joints,)),
            mixture=joined("mixture", (joints, *np.shape(clips[0].mixture)[2:]), np.float16) if clips else None,
        )

    @property
    def num_frames(self) -> int:
        return len(self.keypoints)

    @property
    def num_clips(self) -> int:
        return len(self.clip_length)

    def clip(self, index: int) -> Clip:
        """The clip at `index`, as views of the set's arrays."""
        frames = slice(self.clip_start[index], self.clip_start[index] + self.clip_length[index])
        part = {name: _taken(getattr(self, name), frames) for name in _FRAME_ARRAYS}
        return Clip(
            **part,
            subject=self.subject[index],
            action=self.action[index],
            camera=int(self.camera[index]),
            fps=float(self.fps[index]),
        )

    def select(self, indices: Iterable[int]) -> ClipSet:
        """The set of the clips at `indices`, in that order."""
        return ClipSet.build([self.clip(i) for i in indices], self.skeleton, self.cameras, self.note)

    def converted(self, skeleton: Skeleton) -> ClipSet:
        """The same frames in another layout (see `skeleton.convert_layout`). Raises UserError where no map exists.

        Mixtures are left out where a joint is made of several.
        """
        if skeleton == self.skeleton:
            return self

        def convert(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else np.asarray(convert_layout(array, self.skeleton, skeleton), np.float32)

        poses, root = convert(self.poses), self.root
        if poses is not None:
            shift = poses[:, skeleton.root]
            poses, root = poses - shift[:, None], None if root is None else root + shift
        scores = None if self.scores is None else convert(self.scores[..., None])[..., 0]
        evidence = self.evidence
        if evidence is not None:  # a joint made of several is as badly seen as the worst of them
            touched = [convert((evidence == code).astype(np.float32)[..., None])[..., 0] != 0 for code in (1, 2)]
            evidence = np.where(touched[1], np.uint8(2), touched[0].astype(np.uint8))
        return dataclasses.replace(
            self,
            keypoints=convert(self.keypoints),
            poses=poses,
            root=root,
            scores=scores,
            skeleton=skeleton,
            evidence=evidence,
            mixture=None if self.mixture is None else _converted_mixture(self.mixture, self.skeleton, skeleton),
        )

    def frame_clip(self) -> np.ndarray:
        """The clip of every frame, `[N]` int32."""
        return np.repeat(np.arange(self.num_clips, dtype=np.int32), self.clip_length)

    def frame_camera(self) -> Camera | None:
        """The camera of every frame, leading axis `[N]`, or None where any clip's camera is unknown."""
        if self.cameras is None or (self.camera < 0).any():
            return None
        return Camera(*(np.asarray(field)[self.camera[self.frame_clip()]] for field in self.cameras))


def _taken(array: np.ndarray | None, frames: slice) -> np.ndarray | None:
    return None if array is None else array[frames]


def _converted_mixture(mixture: np.ndarray, source: Skeleton, target: Skeleton) -> np.ndarray | None:
    matrix = layout_matrix(source, target)
    return mixture[:, matrix.argmax(axis=1)] if (matrix.max(axis=1) == 1).all() else None


def _check_clip(clip: Clip, skeleton: Skeleton) -> None:
    name = f"clip {clip.subject}/{clip.action}"
    frames, joints = len(clip.keypoints), skeleton.num_joints
    expected = {
        "keypoints": (frames, joints, 2),
        "poses": (frames, joints, 3),
        "root": (frames, 3),
        "scores": (frames, joints),
        "valid_frame": (frames,),
        "activity": (frames,),
        "evidence": (frames, joints),
        "mixture": (frames, joints, *np.shape(clip.mixture)[2:3], MIXTURE_NUMBERS),
    }
    if frames == 0:
        raise UserError(f"{name}: expected at least one frame, found none")
    for field, shape in expected.items():
        array = getattr(clip, field)
        if array is None:
            continue
        if np.shape(array) != shape:
            raise UserError(f"{name}: expected {field} of shape {shape} ({skeleton.name}), found {np.shape(array)}")
        if not np.isfinite(array).all():
            frame = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UserError(f"{name}: expected finite {field}, found NaN or infinity first in frame {frame}")


_FRAME_ARRAYS = ("keypoints", "poses", "root", "scores", "valid_frame", "activity", "evidence", "mixture")
_CLIP_ARRAYS = ("clip_start", "clip_length", "camera", "fps")


def save_archive(path: str | os.PathLike, splits: Mapping[str, ClipSet]) -> None:
    """Writes `{split: ClipSet}` as one uncompressed .npz without pickles, atomically."""
    path = Path(path)
    arrays, meta = {}, {"format": FORMAT, "splits": {}}
    for split, clips in splits.items():
        meta["splits"][split] = {
            "skeleton": clips.skeleton.name,
            "subject": clips.subject,
            "action": clips.action,
            "frames": clips.num_frames,
            "note": clips.note,
        }
        for name in _FRAME_ARRAYS + _CLIP_ARRAYS:
            if getattr(clips, name) is not None:
                arrays[f"{split}/{name}"] = getattr(clips, name)
        for name, field in zip(Camera._fields, clips.cameras or (), strict=False):
            arrays[f"{split}/camera_{name}"] = np.asarray(field, np.float32)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


# What reading a file that is no archive, or a damaged one, can raise: from the zip, the arrays, or the description.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, RuntimeError, MemoryError,
           zipfile.BadZipFile, zlib.error)  # fmt: skip


def load_archive(path: str | os.PathLike, splits: Sequence[str] | None = None) -> dict[str, ClipSet]:
    """Reads an archive written by `save_archive`; only the named splits are read from disk.

    Raises UserError for a missing or damaged file, a foreign format or a missing split.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected an archive made by `python -m diffpose_jax.prepare`, found no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            meta = json.loads(str(archive["meta"]))
            if meta.get("format") != FORMAT:
                raise UserError(f"{path}: expected format '{FORMAT}', found {meta.get('format')!r}")
            wanted = list(meta["splits"]) if splits is None else splits
            missing = [split for split in wanted if split not in meta["splits"]]
            if missing:
                raise UserError(f"{path}: expected split '{missing[0]}', found {', '.join(meta['splits'])}")
            return {split: _read_split(archive, split, meta["splits"][split]) for split in wanted}
    except _DAMAGE as error:
        raise UserError(f"{path}: expected an archive of diffpose_jax, found {_described(error)}") from error


def _described(error: Exception) -> str:
    line = str(error).splitlines()[0] if str(error) else ""
    return line if type(error) is ValueError and line else f"{type(error).__name__}: {line}"


def _read_split(archive: np.lib.npyio.NpzFile, split: str, meta: dict) -> ClipSet:
    def read(name: str) -> np.ndarray | None:
        return archive.get(f"{split}/{name}")

    cameras = [read(f"camera_{name}") for name in Camera._fields]
    clips = ClipSet(
        **{name: read(name) for name in _FRAME_ARRAYS + _CLIP_ARRAYS},
        subject=tuple(meta["subject"]),
        action=tuple(meta["action"]),
        cameras=None if cameras[0] is None else Camera(*cameras),
        skeleton=get_skeleton(meta["skeleton"]),
        note=str(meta.get("note", "")),
    )
    _check_split(clips, meta["frames"])
    return clips


def _check_split(clips: ClipSet, frames: int) -> None:
    joints, count = clips.skeleton.num_joints, len(clips.subject)
    shapes = {"keypoints": (frames, joints, 2), "poses": (frames, joints, 3), "root": (frames, 3),
              "scores": (frames, joints), "valid_frame": (frames,), "activity": (frames,),
              "evidence": (frames, joints),
              "mixture": (frames, joints, *np.shape(clips.mixture)[2:3], MIXTURE_NUMBERS),
              **dict.fromkeys(_CLIP_ARRAYS, (count,))}  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(clips, name)
        if array is None and name in _FRAME_ARRAYS and name != "keypoints":
            continue
        kinds = {"valid_frame": "b", "activity": "i", "evidence": "u"}.get(name, "fi")
        if array is None or array.shape != shape or array.dtype.kind not in kinds:
            raise ValueError(f"{name} that is not {shape} numbers")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} with NaN or infinity")
    if clips.evidence is not None and (clips.evidence >= len(EVIDENCE)).any():
        raise ValueError(f"evidence other than 0 to {len(EVIDENCE) - 1}")
    length, ends = clips.clip_length, np.cumsum(clips.clip_length)
    if (length < 1).any() or ends[-1:].sum() != frames or (ends - length != clips.clip_start).any():
        raise ValueError("clips that do not add up to the frames")
    cameras = 0 if clips.cameras is None else len(clips.cameras.focal)
    if len(clips.action) != count or (clips.camera >= cameras).any():
        raise ValueError("clips without an action or a camera")
