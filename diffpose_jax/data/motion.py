"""From 3D motion in the world to 2D-3D pairs by virtual cameras, for sources that hold no images."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffpose_jax.data.cameras import RADIUS, find_usable_frames, find_usable_runs, view_motion
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import SPLITS, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import H36M_17, Skeleton

VALID_OF_CLIPS = "made of other clips of the people in train, for want of subjects: they are no unknown people"


class Motion(NamedTuple):
    """One uninterrupted motion: positions `[T, J, 3]` metres, world frame, z up, floor near z = 0, float32."""

    positions: np.ndarray
    name: str
    subject: str
    action: str
    fps: float


class Filming(NamedTuple):
    """How motions are filmed."""

    seed: int = 0
    cameras_per_clip: int = 4
    radius: float = RADIUS  # m around their aim that the cameras' images hold a person
    shortest: int = 1  # frames; shorter clips are left out


def film(motions: Sequence[Motion], cameras: Camera, filming: Filming, skeleton: Skeleton = H36M_17) -> ClipSet:
    """Film every motion with some of the cameras, turned to a random yaw about the vertical.

    Yaw and choice of cameras are functions of the seed and the motion's name alone, so that a motion looks the same
    whatever else is loaded. Frames that do not show the whole person end a clip.

    Args:
        motions: The motions.
        cameras: The K cameras.
        filming: How they are filmed.
        skeleton: The joint layout.

    Returns:
        The clips, ordered by motion, then camera.

    Raises:
        UserError: For more cameras per clip than there are.
    """
    count = len(cameras.focal)
    if not 1 <= filming.cameras_per_clip <= count:
        raise UserError(f"cameras_per_clip: expected 1 to {count}, found {filming.cameras_per_clip}")
    clips = []
    for motion in motions:
        # A generator for each motion: what else is filmed does not enter.
        rng = np.random.default_rng([filming.seed, zlib.crc32(motion.name.encode())])
        yaw = rng.uniform(-np.pi, np.pi)
        chosen = np.sort(rng.choice(count, filming.cameras_per_clip, replace=False))
        # All cameras see the motion, because where they aim, and so where it is placed, is a matter of all of them.
        views = view_motion(
            motion.positions, cameras, yaw, fps=motion.fps, radius=filming.radius, root_joint=skeleton.root
        )
        for camera in chosen:
            keypoints, poses, root = views[camera]
            usable = find_usable_frames(keypoints, poses, root, np.asarray(cameras.size[camera]))
            for run in find_usable_runs(usable, filming.shortest):
                labels = (motion.subject, motion.action, int(camera), motion.fps)
                clips.append(Clip(keypoints[run], poses[run], root[run], *labels))
    return ClipSet.build(clips, skeleton, cameras)


def film_splits(by_split: Mapping[str, Sequence[Motion]], cameras: Camera, filming: Filming) -> dict[str, ClipSet]:
    """Film the motions of every split.

    Args:
        by_split: The motions of each split, as from `group_motions`.
        cameras: The K cameras.
        filming: How they are filmed.

    Returns:
        `{split: ClipSet}`, in the order given.
    """
    return {split: film(motions, cameras, filming) for split, motions in by_split.items()}


def group_motions(motions: Sequence[Motion], split_of_subject: Mapping[str, str]) -> dict[str, list[Motion]]:
    """The motions of train, valid and test, which may be empty, and of splits of other names, by their subjects."""
    names = dict.fromkeys((*SPLITS, *split_of_subject.values()))
    return {split: [m for m in motions if split_of_subject[m.subject] == split] for split in names}


def hold_out_clips(by_split: Mapping[str, Sequence[Motion]], seed: int = 0) -> dict[str, list[Motion]]:
    """Make a valid split of clips where there are too few subjects for one of its own.

    About one train motion in six, drawn by the seed, goes to valid; of a single motion, its last sixth does. Without a
    train motion that can be spared nothing changes. `VALID_OF_CLIPS` is what a report must say of it.
    """
    split = {name: list(motions) for name, motions in by_split.items()}
    train = split["train"]
    if len(train) > 1:
        drawn = np.random.default_rng(seed).permutation(len(train))[: max(1, round(len(train) / 6))]
        split["valid"] = [train[index] for index in sorted(drawn)]
        split["train"] = [motion for index, motion in enumerate(train) if index not in drawn]
    elif train and (share := len(train[0].positions) // 6):
        split["valid"] = [train[0]._replace(positions=train[0].positions[-share:])]
        split["train"] = [train[0]._replace(positions=train[0].positions[:-share])]
    return split


def split_subjects(
    subjects: Iterable[str],
    seed: int = 0,
    valid_subjects: Collection[str] | None = None,
    test_subjects: Collection[str] | None = None,
) -> dict[str, str]:
    """Split subjects; those for test, then valid, are drawn unless they are named.

    About one subject in six goes to each, at least one. Two subjects make train and test, one makes train alone; the
    other splits are empty (`hold_out_clips` makes a valid split of them).

    Args:
        subjects: Names, in any order, which may repeat.
        seed: Seed of the draw.
        valid_subjects: Names for valid; None draws them.
        test_subjects: Names for test; None draws them.

    Returns:
        The split of every subject, 'train', 'valid' or 'test'.

    Raises:
        UserError: For a named subject that is absent or named twice, or if none remains for training.
    """
    names = sorted(set(subjects))
    splits = dict.fromkeys(names, "train")
    order = np.random.default_rng(seed).permutation(names).tolist()
    for split, named, needed in (("test", test_subjects, 2), ("valid", valid_subjects, 3)):
        if named is None:
            free = [subject for subject in order if splits[subject] == "train"]
            share = max(1, round(len(names) / 6)) if len(names) >= needed and len(free) > 1 else 0
            named = free[:share]
        if unknown := [subject for subject in named if splits.get(subject) != "train"]:
            raise UserError(f"{split}_subjects: expected subjects among {', '.join(names)}, once, found {unknown[0]}")
        splits |= dict.fromkeys(named, split)
    if "train" not in splits.values():
        raise UserError("valid_subjects and test_subjects: expected a subject to remain for training, found none")
    return splits
