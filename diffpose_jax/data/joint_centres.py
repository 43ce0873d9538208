"""Joints of the same name in other places: those that detectors find in pictures, and those of a training set.

People mark an ankle in a picture where they see it, and detectors learn to do so. Motion capture computes joints from
markers, and every database has its own way: CMU's shank is 1.08 thighs long, its forearm 0.98 upper arms, and its
thorax lies a tenth of the torso below the middle of the shoulders. In BlazePose's own 3D landmarks of people on video
the first two are 0.97 and 0.94, and the middle of the shoulders stands for a thorax that no detector finds. A lifter
takes such a difference for another pose. So a detector's keypoints are moved to where the lifter's training poses would
have them, and its poses are moved back: they lie under the keypoints again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.error_model import bias_matrix
from diffpose_jax.skeleton import SameArray, Skeleton


class Proportions(NamedTuple):
    """Where the joints of a set of poses lie on a body, as medians over frames.

    Attributes:
        thorax: How far the thorax lies below the middle of the shoulders, in lengths of the torso, from there to the
            pelvis.
        shank: Length of the shank in thighs.
        forearm: Length of the forearm in upper arms.
    """

    thorax: float
    shank: float
    forearm: float


# Of 379 poses of two people (`experiments/landmark_proportions.py` on the film `two_people.mp4` of Sports2D's demo).
DETECTED = Proportions(thorax=0.0, shank=0.966, forearm=0.940)
_SIDES = ("left", "right")
_LIMBS = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
_NEEDED = ("pelvis", "thorax", *(f"{side}_{joint}" for side in _SIDES for joint in _LIMBS))


def measure_proportions(poses: np.ndarray, skeleton: Skeleton) -> Proportions | None:
    """The proportions of poses `[M, J, 3]`; None of a layout that lacks one of the joints."""
    if not set(_NEEDED) <= set(skeleton.joints):
        return None
    joint = {name: np.asarray(poses[:, skeleton.joints.index(name)], np.float64) for name in _NEEDED}

    def length(side: str, start: str, end: str) -> np.ndarray:
        return np.linalg.norm(joint[f"{side}_{end}"] - joint[f"{side}_{start}"], axis=-1)

    def ratio(first: str, middle: str, last: str) -> float:
        sides = [length(side, middle, last) / np.maximum(length(side, first, middle), 1e-6) for side in _SIDES]
        return float(np.median(np.concatenate(sides)))

    shoulders = (joint["left_shoulder"] + joint["right_shoulder"]) / 2
    down = joint["pelvis"] - shoulders
    along = np.sum((joint["thorax"] - shoulders) * down, axis=-1) / np.maximum(np.sum(down**2, axis=-1), 1e-12)
    return Proportions(float(np.median(along)), ratio("hip", "knee", "ankle"), ratio("shoulder", "elbow", "wrist"))


class JointCentres(NamedTuple):
    """The way from a detector's joints to those of a training set, and back.

    Attributes:
        matrix: `[J, J]`: the training set's joints as sums of a detector's; each row sums to one.
        inverse: Its inverse.
        std: `[J]` m, by how much a joint that is relative to the root may still be elsewhere, along each axis.
    """

    matrix: np.ndarray
    inverse: np.ndarray
    std: np.ndarray

    @property
    def moves(self) -> bool:
        """Whether any joint is moved."""
        return bool((self.matrix != np.eye(len(self.matrix))).any())

    def place_as_trained(self, keypoints: SameArray, seen: SameArray) -> SameArray:
        """Moves a detector's keypoints `[..., J, 2]`; a joint stays where one that moves it was not seen `[..., J]`."""
        known = ~(~seen @ (self.matrix != 0).T)
        change = (self.matrix - np.eye(len(self.matrix))).astype(keypoints.dtype) @ keypoints
        return keypoints + known[..., None].astype(keypoints.dtype) * change

    def place_clips(self, clips: ClipSet) -> ClipSet:
        """The same clips with moved keypoints."""
        if not self.moves:
            return clips
        return dataclasses.replace(clips, keypoints=self.place_as_trained(clips.keypoints, clips.seen))

    def place_as_detected(self, poses: SameArray) -> SameArray:
        """Moves poses `[..., J, 3]` back, root-relative or not."""
        if not self.moves:
            return poses
        return self.inverse.astype(poses.dtype) @ poses  # type: ignore[return-value]  # of the type of the poses

    def widen(self, radii: Sequence[np.ndarray], levels: Sequence[float]) -> list[np.ndarray]:
        """Radii `[..., J]` (m) of regions of these levels, with what stays open of where a detector's joints are.

        An offset with standard deviation s along each of three axes is within s sqrt(q), where q is the level's
        quantile of chi^2 with three degrees of freedom. It adds to the region's own error as squares do.
        """
        std = self.std.astype(np.float32)
        return [
            np.hypot(radius, std * np.float32(np.sqrt(chi2.ppf(level, 3))))
            for radius, level in zip(radii, levels, strict=True)
        ]


def find_joint_centres(trained: Proportions | None, skeleton: Skeleton) -> JointCentres:
    """The way between a detector's joints and those of training poses; none is moved where these are not known.

    Args:
        trained: The proportions of the training poses.
        skeleton: The lifter's layout.
    """
    count = skeleton.num_joints
    if trained is None:
        return JointCentres(np.eye(count), np.eye(count), np.zeros(count))
    matrix, unmoved, place = np.eye(count), np.eye(count), skeleton.joints.index

    def move(joint: str, share: float, start: str, end: str) -> None:
        """Adds a share of the way from one detected joint to another."""
        matrix[place(joint)] += share * (unmoved[place(end)] - unmoved[place(start)])

    # Detectors have no thorax and no spine: they stand for the middle of the shoulders, and of that and the pelvis.
    below = trained.thorax - DETECTED.thorax
    move("thorax", below, "thorax", "pelvis")
    if "spine" in skeleton.joints:
        move("spine", below / 2, "thorax", "pelvis")
    for side in _SIDES:
        move(f"{side}_ankle", trained.shank / DETECTED.shank - 1, f"{side}_knee", f"{side}_ankle")
        move(f"{side}_wrist", trained.forearm / DETECTED.forearm - 1, f"{side}_elbow", f"{side}_wrist")
    # What stays open is as much as a detector's errors that last for a whole clip, relative to the root.
    bias = bias_matrix(skeleton)
    return JointCentres(matrix, np.linalg.inv(matrix), np.linalg.norm(bias - bias[skeleton.root], axis=-1))
