"""From 3D motion in the world to 2D-3D pairs: the last stage of every loader whose source holds no images."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffpose_jax.data.cameras import RADIUS, usable_frames, usable_runs, view_motion
from diffpose_jax.data.clips import SPLITS, Clip, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import H36M_17, Skeleton


class Motion(NamedTuple):
    """One uninterrupted motion: positions `[T, J, 3]` metres, world frame, z up, floor near z = 0, float32."""

    positions: np.ndarray
    name: str
    subject: str
    action: str
    fps: float


def film(
    motions: Sequence[Motion],
    cameras: Camera,
    *,
    seed: int = 0,
    cameras_per_clip: int = 4,
    radius: float = RADIUS,
    shortest: int = 1,
    skeleton: Skeleton = H36M_17,
) -> ClipSet:
    """Films every motion with `cameras_per_clip` of the cameras `[K]`, turned to a random yaw about the vertical.

    Yaw and choice of cameras are functions of the seed and the motion's name alone, so that a motion looks the same
    whatever else is loaded. Frames that do not show the whole person end a clip; what is shorter than `shortest` frames
    is left out. Clips are ordered by motion, then camera. Raises UserError.
    """
    count = len(cameras.focal)
    if not 1 <= cameras_per_clip <= count:
        raise UserError(f"cameras_per_clip: expected 1 to {count}, found {cameras_per_clip}")
    clips = []
    for motion in motions:
        rng = np.random.default_rng([seed, zlib.crc32(motion.name.encode())])
        yaw = rng.uniform(-np.pi, np.pi)
        chosen = np.sort(rng.choice(count, cameras_per_clip, replace=False))
        # All cameras see the motion, because where they aim, and so where it is placed, is a matter of all of them.
        views = view_motion(motion.positions, cameras, yaw, fps=motion.fps, radius=radius, root_joint=skeleton.root)
        for camera in chosen:
            keypoints, poses, root = views[camera]
            usable = usable_frames(keypoints, poses, root, cameras.size[camera])
            for run in usable_runs(usable, shortest):
                labels = (motion.subject, motion.action, int(camera), motion.fps)
                clips.append(Clip(keypoints[run], poses[run], root[run], *labels))
    return ClipSet.build(clips, skeleton, cameras)


def film_splits(
    motions: Sequence[Motion], split_of_subject: Mapping[str, str], cameras: Camera, **options: object
) -> dict[str, ClipSet]:
    """Films the motions of every split, `{split: ClipSet}`; a subject belongs to one split. `options` go to `film`."""
    by_split = {split: [m for m in motions if split_of_subject[m.subject] == split] for split in SPLITS}
    return {split: film(part, cameras, **options) for split, part in by_split.items()}


def split_subjects(
    subjects: Iterable[str],
    seed: int = 0,
    valid_subjects: Collection[str] | None = None,
    test_subjects: Collection[str] | None = None,
) -> dict[str, str]:
    """The split of every subject; those for test, then valid, are drawn by the seed unless named.

    About one subject in six goes to each, at least one. Two subjects make train and test, one makes train alone; the
    other splits are empty. Raises UserError for a named subject that is absent or named twice, or if none remains.
    """
    subjects = sorted(set(subjects))
    splits = dict.fromkeys(subjects, "train")
    order = np.random.default_rng(seed).permutation(subjects).tolist()
    for split, named, needed in (("test", test_subjects, 2), ("valid", valid_subjects, 3)):
        if named is None:
            free = [subject for subject in order if splits[subject] == "train"]
            share = max(1, round(len(subjects) / 6)) if len(subjects) >= needed and len(free) > 1 else 0
            named = free[:share]
        if unknown := [subject for subject in named if splits.get(subject) != "train"]:
            raise UserError(
                f"{split}_subjects: expected subjects among {', '.join(subjects)}, once, found {unknown[0]}"
            )
        splits |= dict.fromkeys(named, split)
    if "train" not in splits.values():
        raise UserError("valid_subjects and test_subjects: expected a subject to remain for training, found none")
    return splits
