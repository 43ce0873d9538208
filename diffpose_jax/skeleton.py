"""Joint layouts: their joints, kinematic trees and mirror pairs, and the linear maps between them.

Joint names are anatomical and shared by all layouts, so that equal names mean the same place on the body: Human3.6M's
"Hip", "RFoot" and "Head" are `pelvis`, `right_ankle` and `head_top` here. The order of the joints is the published one.

MPI-INF-3DHP comes in more than one order; `mpi_inf_3dhp17` is that of its official test annotations (head top first,
pelvis at 14). COCO and BlazePose have no pelvis: their trees start at the nose.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.detector_layouts import TREES
from diffpose_jax.errors import UserError

SameArray = TypeVar("SameArray", np.ndarray, jax.Array)


@dataclass(frozen=True)
class Skeleton:
    """A named joint layout of J joints: a tree (`parents`, -1 at the root) with paired `left` and `right` joints."""

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def marked_in_pictures(self) -> bool:
        """Whether people marked these joints in pictures, for detectors to learn; others are of motion capture."""
        return self.name in _MARKED_IN_PICTURES

    @property
    def num_joints(self) -> int:
        """The number of joints J."""
        return len(self.joints)

    @property
    def root(self) -> int:
        """The index of the joint without a parent."""
        return self.parents.index(-1)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """The J - 1 bones as (child, parent), in the order of the children."""
        return tuple((child, parent) for child, parent in enumerate(self.parents) if parent >= 0)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """The permutation of a mirror image: `array[..., flip_order, :]` exchanges left and right."""
        partner = dict(zip(self.left + self.right, self.right + self.left, strict=True))
        return tuple(partner.get(joint, joint) for joint in range(self.num_joints))

    def adjacency(self) -> np.ndarray:
        """The binary symmetric bone graph `[J, J]`, float32, with a zero diagonal."""
        matrix = np.zeros((self.num_joints, self.num_joints), np.float32)
        for child, parent in self.bones:
            matrix[child, parent] = matrix[parent, child] = 1.0
        return matrix


def _skeleton(name: str, tree: str) -> Skeleton:
    """Builds a skeleton from `joint<parent` words in joint order; `left_` and `right_` joints pair up by name."""
    words = [word.partition("<") for word in tree.split()]
    joints = tuple(joint for joint, _, _ in words)
    parents = tuple(joints.index(parent) if parent else -1 for _, _, parent in words)
    left = tuple(index for index, joint in enumerate(joints) if joint.startswith("left_"))
    right = tuple(joints.index("right_" + joints[index].removeprefix("left_")) for index in left)
    return Skeleton(name, joints, parents, left, right)


# Human3.6M, 17 of the 32 mocap joints. The shoulders hang from the thorax, as all users of the data re-attach them.
H36M_17 = _skeleton(
    "h36m17",
    "pelvis right_hip<pelvis right_knee<right_hip right_ankle<right_knee "
    "left_hip<pelvis left_knee<left_hip left_ankle<left_knee "
    "spine<pelvis thorax<spine neck_nose<thorax head_top<neck_nose "
    "left_shoulder<thorax left_elbow<left_shoulder left_wrist<left_elbow "
    "right_shoulder<thorax right_elbow<right_shoulder right_wrist<right_elbow",
)

# Human3.6M without Neck/Nose (index 9), as stacked-hourglass and HRNet detections have it.
H36M_16 = _skeleton(
    "h36m16",
    "pelvis right_hip<pelvis right_knee<right_hip right_ankle<right_knee "
    "left_hip<pelvis left_knee<left_hip left_ankle<left_knee "
    "spine<pelvis thorax<spine head_top<thorax "
    "left_shoulder<thorax left_elbow<left_shoulder left_wrist<left_elbow "
    "right_shoulder<thorax right_elbow<right_shoulder right_wrist<right_elbow",
)

# HumanEva-I in the 15-joint order of VideoPose3D.
HUMANEVA_15 = _skeleton(
    "humaneva15",
    "pelvis thorax<pelvis "
    "left_shoulder<thorax left_elbow<left_shoulder left_wrist<left_elbow "
    "right_shoulder<thorax right_elbow<right_shoulder right_wrist<right_elbow "
    "left_hip<pelvis left_knee<left_hip left_ankle<left_knee "
    "right_hip<pelvis right_knee<right_hip right_ankle<right_knee "
    "head_top<thorax",
)

# MPI-INF-3DHP in the order of its official test files (and of the archives made of them): entries 7, 5, 14, 15, 16,
# 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6 of the 28-joint annotation. The root is joint 14, not 0.
MPI_INF_3DHP_17 = _skeleton(
    "mpi_inf_3dhp17",
    "head_top<head neck<spine "
    "right_shoulder<neck right_elbow<right_shoulder right_wrist<right_elbow "
    "left_shoulder<neck left_elbow<left_shoulder left_wrist<left_elbow "
    "right_hip<pelvis right_knee<right_hip right_ankle<right_knee "
    "left_hip<pelvis left_knee<left_hip left_ankle<left_knee "
    "pelvis spine<pelvis head<neck",
)

# COCO annotates no pelvis and no neck: the tree starts at the nose and each side hangs from its own shoulder.
COCO_17 = _skeleton(
    "coco17",
    "nose left_eye<nose right_eye<nose left_ear<left_eye right_ear<right_eye "
    "left_shoulder<nose right_shoulder<nose left_elbow<left_shoulder right_elbow<right_shoulder "
    "left_wrist<left_elbow right_wrist<right_elbow left_hip<left_shoulder right_hip<right_shoulder "
    "left_knee<left_hip right_knee<right_hip left_ankle<left_knee right_ankle<right_knee",
)

# MediaPipe's BlazePose (33 landmarks), rooted at the nose like COCO.
BLAZEPOSE_33 = _skeleton(
    "blazepose33",
    "nose left_eye_inner<nose left_eye<left_eye_inner left_eye_outer<left_eye "
    "right_eye_inner<nose right_eye<right_eye_inner right_eye_outer<right_eye "
    "left_ear<left_eye_outer right_ear<right_eye_outer left_mouth<nose right_mouth<nose "
    "left_shoulder<nose right_shoulder<nose left_elbow<left_shoulder right_elbow<right_shoulder "
    "left_wrist<left_elbow right_wrist<right_elbow left_pinky<left_wrist right_pinky<right_wrist "
    "left_index<left_wrist right_index<right_wrist left_thumb<left_wrist right_thumb<right_wrist "
    "left_hip<left_shoulder right_hip<right_shoulder left_knee<left_hip right_knee<right_hip "
    "left_ankle<left_knee right_ankle<right_knee left_heel<left_ankle right_heel<right_ankle "
    "left_foot_index<left_heel right_foot_index<right_heel",
)

SKELETONS: dict[str, Skeleton] = {
    skeleton.name: skeleton for skeleton in (H36M_17, H36M_16, HUMANEVA_15, MPI_INF_3DHP_17, COCO_17, BLAZEPOSE_33)
}
SKELETONS |= {name: _skeleton(name, tree) for name, tree in TREES.items()}
_MARKED_IN_PICTURES = frozenset({COCO_17.name, BLAZEPOSE_33.name, *TREES})

# How a joint that the source lacks is constructed from others: alternatives, the preferred one first, each a weighted
# sum. 3DHP's neck and head are where Human3.6M has Thorax and Neck/Nose. In adults the middle of the ears is about
# 0.20 m above that of the shoulders. Human3.6M's and CMU's Head is about 0.24 m above it, a fifth more. Their Neck/Nose
# is 0.13 m above it: nose and ears have about the same height, so that thirds of nose, ears and shoulders give that.
_CONSTRUCTIONS: dict[str, tuple[dict[str, float], ...]] = {
    "pelvis": ({"left_hip": 0.5, "right_hip": 0.5},),
    "thorax": ({"neck": 1.0}, {"left_shoulder": 0.5, "right_shoulder": 0.5}),
    "neck": ({"thorax": 1.0},),
    "spine": ({"pelvis": 0.5, "thorax": 0.5},),
    "neck_nose": (
        {"head": 1.0},
        {"nose": 1 / 3, "left_ear": 1 / 6, "right_ear": 1 / 6, "thorax": 1 / 3},
        {"thorax": 0.5, "head_top": 0.5},
    ),
    "head": ({"neck_nose": 1.0},),
    "head_top": ({"left_ear": 0.6, "right_ear": 0.6, "left_shoulder": -0.1, "right_shoulder": -0.1},),
}


def get_skeleton(name: str) -> Skeleton:
    """Looks up a layout by name, e.g. `h36m17`; a `UserError` lists the known names."""
    if name not in SKELETONS:
        raise UserError(f"unknown joint layout {name!r}: expected one of {', '.join(SKELETONS)}")
    return SKELETONS[name]


def _find_weights(joint: str, source: Skeleton, without: frozenset[str] = frozenset()) -> dict[int, float] | None:
    """Source indices and weights whose sum is `joint`, or None; `without` holds the joints under construction."""
    if joint in source.joints:
        return {source.joints.index(joint): 1.0}
    for construction in _CONSTRUCTIONS.get(joint, ()):
        total: dict[int, float] = {}
        for part, share in construction.items():
            # Thorax and neck are made of each other: what is under construction cannot be a part.
            weights = None if part in without else _find_weights(part, source, without | {joint})
            if weights is None:
                break
            for index, weight in weights.items():
                total[index] = total.get(index, 0.0) + share * weight
        else:
            return total
    return None


@functools.cache
def _layout_map(source: Skeleton, target: Skeleton) -> tuple[dict[int, float], ...]:
    found = {joint: _find_weights(joint, source) for joint in target.joints}
    missing = [joint for joint, weights in found.items() if weights is None]
    if missing:
        raise UserError(f"cannot convert {source.name} to {target.name}: {source.name} has no {', '.join(missing)}")
    return tuple(weights for weights in found.values() if weights is not None)


def layout_matrix(source: Skeleton, target: Skeleton) -> np.ndarray:
    """The linear map from one layout to another, `[J_target, J_source]` float32; every row sums to one.

    Joints that both layouts have are copied. Others are constructed: pelvis = middle of the hips, thorax = middle of
    the shoulders, spine = middle of pelvis and thorax, neck/nose = mean of nose, middle of the ears and thorax (without
    a nose: middle of thorax and head top), head top = ears plus a fifth of the way from the shoulders to the ears;
    3DHP's neck and head are taken for Human3.6M's thorax and neck/nose. Raises `UserError` naming the joints that
    cannot be constructed.
    """
    matrix = np.zeros((target.num_joints, source.num_joints), np.float32)
    for row, parts in enumerate(_layout_map(source, target)):
        for column, weight in parts.items():
            matrix[row, column] = weight
    return matrix


def describe_map(source: Skeleton, target: Skeleton) -> str:
    """How joints that only the target has are made of the source's, in words; empty where all are copied.

    Raises `UserError` where no map exists.
    """
    lines = []
    for joint, parts in zip(target.joints, _layout_map(source, target), strict=True):
        if joint not in source.joints:
            terms = [
                source.joints[index] if weight == 1.0 else f"{weight:.3g} {source.joints[index]}"
                for index, weight in parts.items()
            ]
            lines.append(f"{joint} = {' + '.join(terms)}")
    return ", ".join(lines)


def convert_layout(array: SameArray, source: Skeleton, target: Skeleton) -> SameArray:
    """Converts keypoints or poses `[..., J_source, C]` to `[..., J_target, C]` by `layout_matrix`.

    A numpy array stays one. Only the joints that a target joint is constructed from enter it, so that a NaN
    in another joint does not spread. Raises `UserError` if the joint axis does not fit the source or no map exists.
    """
    if array.ndim < 2 or array.shape[-2] != source.num_joints:
        raise UserError(f"{source.name} keypoints: expected [..., {source.num_joints}, C], found {list(array.shape)}")
    joints = []
    for parts in _layout_map(source, target):
        terms = [
            array[..., index, :] if weight == 1.0 else array[..., index, :] * weight for index, weight in parts.items()
        ]
        joints.append(functools.reduce(lambda total, term: total + term, terms))
    return (jnp if isinstance(array, jax.Array) else np).stack(joints, axis=-2)


def convert_scores(scores: np.ndarray, source: Skeleton, target: Skeleton) -> np.ndarray:
    """Converts confidences `[..., J_source]` to `[..., J_target]`, float32.

    A joint that is constructed from others is as badly seen as the worst of them, and missing (0) if one of them is.
    Raises `UserError` where no map exists.
    """
    used = layout_matrix(source, target) != 0
    return np.where(used, np.asarray(scores)[..., None, :], np.inf).min(axis=-1).astype(np.float32)


def mirror(array: SameArray, skeleton: Skeleton) -> SameArray:
    """Mirrors keypoints or poses `[..., J, C]`: x changes sign, left and right joints are exchanged."""
    # x = 0 is the middle of the image in normalised units and the root in poses: the same change of sign mirrors both.
    sign = np.ones(array.shape[-1], array.dtype)
    sign[0] = -1
    return array[..., np.array(skeleton.flip_order), :] * sign.reshape((1,) * (array.ndim - 1) + (-1,))
