"""Synthetic human motion: people of many proportions who walk, sit, reach, ..., filmed by random cameras.

It stands in for motion capture where none is at hand: tests, the quickstart, a first look at a method. Results on it
say nothing about real people.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from diffpose_jax.data.cameras import random_cameras
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.motion import Filming, Motion, film_splits, group_motions, split_subjects
from diffpose_jax.data.synthesis.body import draw_body, joint_rotations, pose
from diffpose_jax.data.synthesis.courses import FPS
from diffpose_jax.data.synthesis.motion_programmes import PROGRAMMES, enliven
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17

CAMERAS = 12


def load_synthetic(
    seed: int = 0,
    *,
    subjects: int = 14,
    takes: int = 1,
    frames: int = 300,
    actions: Sequence[str] = tuple(PROGRAMMES),
    cameras_per_clip: int = 2,
) -> dict[str, ClipSet]:
    """Generate 2D-3D pairs in Human3.6M's 17 joints at 50 Hz, split by subject: people of other proportions.

    The defaults give about 65,000 pairs.

    Args:
        seed: Everything is a function of it.
        subjects: How many people perform each of the actions.
        takes: How often each does.
        frames: Frames of each take.
        actions: Some of `PROGRAMMES`.
        cameras_per_clip: How many of twelve random cameras film each take.

    Returns:
        `{split: ClipSet}`.

    Raises:
        UserError: For unknown actions and counts that give no motion.
    """
    motions = generate_motion(seed, subjects=subjects, takes=takes, frames=frames, actions=actions)
    cameras = random_cameras(np.random.default_rng([seed, 1]), CAMERAS)
    splits = split_subjects([motion.subject for motion in motions], seed)
    return film_splits(
        group_motions(motions, splits), cameras, Filming(seed, cameras_per_clip, radius=0.5, shortest=25)
    )


def generate_motion(
    seed: int = 0, *, subjects: int = 14, takes: int = 1, frames: int = 300, actions: Sequence[str] = tuple(PROGRAMMES)
) -> list[Motion]:
    """Generate the motions that `load_synthetic` films: positions `[frames, 17, 3]` metres, world, z up, floor at 0.

    Every clip is mirrored with probability 1/2, so that left and right are alike in distribution.

    Args:
        seed: Everything is a function of it.
        subjects: How many people perform each of the actions.
        takes: How often each does.
        frames: Frames of each take.
        actions: Some of `PROGRAMMES`.

    Raises:
        UserError: For unknown actions and counts that give no motion.
    """
    for name, value in (("subjects", subjects), ("takes", takes), ("frames", frames)):
        if value < 1:
            raise UserError(f"{name}: expected a number of at least 1, found {value}")
    if unknown := sorted(set(actions) - set(PROGRAMMES)):
        raise UserError(f"actions: expected some of {', '.join(PROGRAMMES)}, found {unknown[0]}")
    labels, rotations, offsets, paths, mirrored = [], [], [], [], []
    for subject in range(subjects):
        body = draw_body(np.random.default_rng([seed, 2, subject]))
        for action in actions:
            for take in range(takes):
                # A generator for each subject, action and take: more of one changes none of the others. Python's own
                # hash of a string would be another one in every process.
                rng = np.random.default_rng([seed, 3, subject, zlib.crc32(action.encode()), take])
                posture = PROGRAMMES[action](body, frames, rng)
                enliven(rng, posture)
                labels.append((f"{action}_{take}_{subject:02d}", f"P{subject:02d}", action))
                rotations.append(joint_rotations(body, posture))
                offsets.append(np.broadcast_to(body.offsets(), (frames, H36M_17.num_joints, 3)))
                paths.append(posture.pelvis)
                mirrored.append(bool(rng.integers(2)))
    # One call for all clips: forward kinematics is compiled once.
    positions = pose(np.concatenate(rotations), np.concatenate(offsets), np.concatenate(paths))
    clips = positions.reshape(len(labels), frames, H36M_17.num_joints, 3)
    return [
        Motion(mirror(clip) if flip else clip, *label, FPS)
        for clip, label, flip in zip(clips, labels, mirrored, strict=True)
    ]


def mirror(positions: np.ndarray) -> np.ndarray:
    """The mirror image `[T, 17, 3]` of a motion, across the x-z plane."""
    return positions[:, list(H36M_17.flip_order)] * np.array([1, -1, 1], np.float32)
