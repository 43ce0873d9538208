"""A person as a figure of rigid bones: constant lengths, and a rotation of every bone in every frame.

Bones have the directions of the person's, and constant lengths. A joint with several bones is several nodes in one
place, as in the BVH files of the CMU archive, so that each bone has a rotation of its own. Positions and rotations are
in axes with y up; at rest the figure stands in a T-pose, x to its left, y up, z forward.

How a bone is turned about its own axis, which 17 joints do not say in general, comes from three joints where these
define a frame: hips with the spine, shoulders with the spine, and the hinge of a bent knee or elbow, which is the
normal of the plane of its two bones. A limb that is nearly straight is turned as little as possible from the trunk.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.skeleton import H36M_17

_X, _Y = np.eye(3)[0], np.eye(3)[1]
_SMALL = 1e-9
# A hinge counts where the sine of its flexion is beyond the first value, and alone beyond the second: 8 to 25 degrees.
_BENT = (0.14, 0.42)
# Cosines of the angle, about the bone, between a hinge and where the trunk would have it. A knee that seems to bend
# forwards is an error of the keypoints; an upper arm turns almost all the way round.
_KNEE, _ELBOW = (-0.3, 0.2), (-1.0, -0.8)


class Node(NamedTuple):
    """A node of the figure: its parent, the joint where it stands, and the joint that its bone comes from (or '')."""

    name: str
    parent: str
    joint: str
    bone_of: str  # the offset from the parent is the bone that ends in this joint; '': none


class Rig(NamedTuple):
    """A figure of K nodes in T frames, y up; the local rotation of a node acts on all that hangs from it.

    Attributes:
        names: Of the nodes, parents first.
        parents: Index of each node's parent, -1 for the root.
        offsets: From the parent, `[K, 3]` m, in the parent's axes.
        rotations: Local, `[T, K, 3, 3]`.
        root: Position of the root, `[T, 3]` m.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray
    rotations: np.ndarray
    root: np.ndarray


def _side_nodes(side: str, short: str) -> tuple[Node, ...]:
    lower = side.lower()
    return (
        Node(f"{short}HipJoint", "Hips", "pelvis", ""),
        Node(f"{side}UpLeg", f"{short}HipJoint", f"{lower}_hip", f"{lower}_hip"),
        Node(f"{side}Leg", f"{side}UpLeg", f"{lower}_knee", f"{lower}_knee"),
        Node(f"{side}Foot", f"{side}Leg", f"{lower}_ankle", f"{lower}_ankle"),
    )


def _arm_nodes(side: str) -> tuple[Node, ...]:
    lower = side.lower()
    return (
        Node(f"{side}Shoulder", "Spine2", "thorax", ""),
        Node(f"{side}Arm", f"{side}Shoulder", f"{lower}_shoulder", f"{lower}_shoulder"),
        Node(f"{side}ForeArm", f"{side}Arm", f"{lower}_elbow", f"{lower}_elbow"),
        Node(f"{side}Hand", f"{side}ForeArm", f"{lower}_wrist", f"{lower}_wrist"),
    )


# Mixamo's names, which retargeting add-ons know; the hip joints are named as in the CMU archive's BVH files.
NODES: tuple[Node, ...] = (
    Node("Hips", "", "pelvis", ""),
    *_side_nodes("Left", "L"),
    *_side_nodes("Right", "R"),
    Node("Spine", "Hips", "pelvis", ""),
    Node("Spine1", "Spine", "spine", "spine"),
    Node("Spine2", "Spine1", "thorax", "thorax"),
    Node("Neck", "Spine2", "thorax", ""),
    Node("Head", "Neck", "neck_nose", "neck_nose"),
    Node("HeadTop_End", "Head", "head_top", "head_top"),
    *_arm_nodes("Left"),
    *_arm_nodes("Right"),
)
_INDEX = {node.name: index for index, node in enumerate(NODES)}


def measure_lengths(poses: np.ndarray) -> np.ndarray:
    """The median length of the bone to each joint of poses `[..., 17, 3]` (m), equal on both sides: `[17]` m.

    Of all hypotheses, not of their mean, whose bones are shorter the less sure a joint is.
    """
    lengths = np.zeros(H36M_17.num_joints)
    for child, parent in H36M_17.bones:
        lengths[child] = np.median(np.linalg.norm(poses[..., child, :] - poses[..., parent, :], axis=-1))
    return (lengths + lengths[list(H36M_17.flip_order)]) / 2


def fit_rig(positions: np.ndarray, lengths: np.ndarray) -> Rig:
    """The figure whose bones have the directions of a person's and constant lengths.

    Args:
        positions: `[T, 17, 3]` m, y up.
        lengths: Of the bone to each joint, `[17]` m.
    """
    turned = _orient(positions.astype(np.float64))
    names = tuple(node.name for node in NODES)
    parents = tuple(_INDEX[node.parent] if node.parent else -1 for node in NODES)
    world = np.stack([turned[name] for name in names], axis=1)
    local = world.copy()
    # The rotation of a node in the world is that of its parent times its own.
    for index, parent in enumerate(parents):
        if parent >= 0:
            local[:, index] = np.swapaxes(world[:, parent], -1, -2) @ world[:, index]
    offsets = np.stack([_rest_direction(node) for node in NODES])
    joints = [H36M_17.joints.index(node.bone_of) if node.bone_of else 0 for node in NODES]
    return Rig(names, parents, offsets * lengths[joints][:, None], local, positions[:, H36M_17.root].copy())


def rest_direction(joint: str) -> np.ndarray:
    """The direction `[3]` of the bone to a joint of the figure at rest."""
    side = -1.0 if joint.startswith("right_") else 1.0
    if joint.endswith(("_hip", "_shoulder", "_elbow", "_wrist")):
        return side * _X
    return -_Y if joint.endswith(("_knee", "_ankle")) else _Y


def _rest_direction(node: Node) -> np.ndarray:
    return rest_direction(node.bone_of) if node.bone_of else np.zeros(3)


def _orient(positions: np.ndarray) -> dict[str, np.ndarray]:
    """The rotation `[T, 3, 3]` of every node in the axes of the positions `[T, 17, 3]`."""
    at = {name: positions[:, index] for index, name in enumerate(H36M_17.joints)}
    bone = {H36M_17.joints[child]: positions[:, child] - positions[:, parent] for child, parent in H36M_17.bones}
    turned: dict[str, np.ndarray] = {}
    across_hips, across_shoulders = at["left_hip"] - at["right_hip"], at["left_shoulder"] - at["right_shoulder"]
    turned["Hips"] = _align(_X, across_hips, _Y, bone["spine"])
    turned["Spine"] = _align(_Y, bone["spine"], _X, across_hips)
    turned["Spine1"] = _align(_Y, bone["thorax"], _X, _unit(across_hips) + _unit(across_shoulders))
    turned["Spine2"] = _align(_X, across_shoulders, _Y, bone["thorax"])
    turned["Neck"] = _align(_Y, bone["neck_nose"], _X, turned["Spine2"][..., 0])
    turned["Head"] = turned["HeadTop_End"] = _align(_Y, bone["head_top"], _X, turned["Neck"][..., 0])
    for side, short, sign in (("Left", "L", 1.0), ("Right", "R", -1.0)):
        lower = side.lower()
        hips, chest = turned["Hips"], turned["Spine2"]
        turned[f"{short}HipJoint"] = _align(sign * _X, bone[f"{lower}_hip"], _Y, hips[..., 1])
        turned[f"{side}Shoulder"] = _align(sign * _X, bone[f"{lower}_shoulder"], _Y, chest[..., 1])
        thigh, shank = bone[f"{lower}_knee"], bone[f"{lower}_ankle"]
        hinge = _find_hinge(thigh, shank, 1.0, _swing(hips, -_Y, thigh) @ _X, _KNEE)
        turned[f"{side}UpLeg"] = _align(-_Y, thigh, _X, hinge)
        turned[f"{side}Leg"] = turned[f"{side}Foot"] = _align(-_Y, shank, _X, hinge)
        upper, fore = bone[f"{lower}_elbow"], bone[f"{lower}_wrist"]
        hinge = _find_hinge(upper, fore, -sign, _swing(chest, sign * _X, upper) @ _Y, _ELBOW)
        turned[f"{side}Arm"] = _align(sign * _X, upper, _Y, hinge)
        turned[f"{side}ForeArm"] = turned[f"{side}Hand"] = _align(sign * _X, fore, _Y, hinge)
    return turned


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _SMALL)


def _reject(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The part of vectors `[T, 3]` orthogonal to unit vectors, of length one; any orthogonal vector where none is."""
    rest = vectors - np.sum(vectors * direction, axis=-1, keepdims=True) * direction
    # The coordinate axis that lies least along the direction is far from parallel to it.
    other = np.eye(3)[np.abs(direction).argmin(axis=-1)]
    other = other - np.sum(other * direction, axis=-1, keepdims=True) * direction
    return _unit(np.where(np.linalg.norm(rest, axis=-1, keepdims=True) > _SMALL, rest, other))


def _align(rest: np.ndarray, direction: np.ndarray, rest_second: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rotations `[T, 3, 3]` that take axis `rest` to `direction` exactly, and `rest_second` towards `second`."""
    first = _unit(np.where(np.linalg.norm(direction, axis=-1, keepdims=True) > _SMALL, direction, rest))
    other = _reject(second, first)
    # The rotation takes three axes of the rest pose, the columns of A, to three of the world, the columns of B: it is B
    # A^T.
    world = np.stack([first, other, np.cross(first, other)], axis=-1)
    return world @ np.stack([rest, rest_second, np.cross(rest, rest_second)])


def _swing(frame: np.ndarray, rest: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The rotation `frame [T, 3, 3]`, then the smallest one that takes its axis `rest` to the direction `[T, 3]`."""
    start, end = frame @ rest, _unit(direction)
    # Rodrigues' formula with sine and axis in one vector: R = I + [v] + [v]^2 / (1 + c), v = start x end.
    v = np.cross(start, end)
    cosine = np.sum(start * end, axis=-1)[:, None, None]
    zero = np.zeros(len(v))
    cross = np.stack([zero, -v[:, 2], v[:, 1], v[:, 2], zero, -v[:, 0], -v[:, 1], v[:, 0], zero], axis=-1)
    cross = cross.reshape(-1, 3, 3)
    return (np.eye(3) + cross + cross @ cross / np.maximum(1 + cosine, 1e-6)) @ frame


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _find_hinge(
    upper: np.ndarray, lower: np.ndarray, sign: float, reference: np.ndarray, allowed: tuple[float, float]
) -> np.ndarray:
    """The axis `[T, 3]` that a knee or an elbow turns about: the normal of its bones, or of the trunk where straight.

    Args:
        upper: Bone above, `[T, 3]`.
        lower: Bone below, `[T, 3]`.
        sign: Of the axis that is wanted, along the normal `upper x lower`.
        reference: The axis of a straight limb, `[T, 3]`.
        allowed: Cosines of the angle between both below which the normal is not believed, and above which it is.
    """
    direction = _unit(upper)
    normal = sign * np.cross(direction, _unit(lower))
    start, hinge = _reject(reference, direction), _reject(normal, direction)
    cosine = np.sum(start * hinge, axis=-1)
    angle = np.arctan2(np.sum(direction * np.cross(start, hinge), axis=-1), cosine)
    weight = _ramp(np.linalg.norm(normal, axis=-1), *_BENT) * _ramp(cosine, *allowed)
    turn = (weight * angle)[:, None]
    return np.cos(turn) * start + np.sin(turn) * np.cross(direction, start)
