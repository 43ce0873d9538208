"""Figures of motion capture files (ASF/AMC, BVH) as Human3.6M's 17 joints.

The recipe is that of the CMU archive: joint angles are interpolated to the new frame rate, the figure is posed by
forward kinematics, its y-up axes become z-up, the chains of bones that Human3.6M sees as one get their rest length, and
the toes stand on the floor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.articulation import Recording, node_positions
from diffpose_jax.skeleton import H36M_17

TOE_HEIGHT = 0.02  # metres above the floor: the end of the toes lies inside the shoe
TOES = ("left_toe", "right_toe")

# The node of a figure at each joint of H36M_17 and at the toes; `a+b` is the middle of two nodes. A wrist is the end of
# CMU's `wrist` bone, the distal third of the forearm.
_CONVENTIONS = {
    "CMU's ASF": "lhipjoint_end+rhipjoint_end rhipjoint_end rfemur_end rtibia_end lhipjoint_end lfemur_end ltibia_end "
    "lowerback_end thorax_end upperneck_end head_end lclavicle_end lhumerus_end lwrist_end "
    "rclavicle_end rhumerus_end rwrist_end ltoes_end rtoes_end",
    "cgspeed's BVH": "LeftUpLeg+RightUpLeg RightUpLeg RightLeg RightFoot LeftUpLeg LeftLeg LeftFoot "
    "Spine Neck Head Head_end LeftArm LeftForeArm LeftFingerBase RightArm RightForeArm RightFingerBase "
    "LeftToeBase_end RightToeBase_end",
    "cgspeed's DAZ-friendly BVH": "lThigh+rThigh rThigh rShin rFoot lThigh lShin lFoot "
    "chest lCollar+rCollar head head_top lShldr lForeArm lHand rShldr rForeArm rHand lFoot_end rFoot_end",
    "Mixamo's names": "LeftUpLeg+RightUpLeg RightUpLeg RightLeg RightFoot LeftUpLeg LeftLeg LeftFoot "
    "Spine1 Neck Head HeadTop_End LeftArm LeftForeArm LeftHand RightArm RightForeArm RightHand "
    "LeftToeBase RightToeBase",
}
JOINT_NAMES: dict[str, dict[str, str]] = {
    name: dict(zip(H36M_17.joints + TOES, nodes.split(), strict=True)) for name, nodes in _CONVENTIONS.items()
}


def restore_cgspeed(recording: Recording) -> Recording:
    """Undo what cgspeed's conversion lost: drop the leading T-pose, restore the thorax and wrist bones.

    The BVH files give the thorax and the `wrist` bones zero length; the thorax gets that of the upper back (right to
    7 mm in CMU's skeletons), the wrist half that of the radius (exact).
    """
    lengths = {"Neck": ("Spine1", 1.0), "LeftShoulder": ("Spine1", 1.0), "RightShoulder": ("Spine1", 1.0)}
    lengths |= {f"{side}FingerBase": (f"{side}Hand", 0.5) for side in ("Left", "Right")}
    offsets = recording.offsets.copy()
    for name, (like, scale) in lengths.items():
        node = recording.names.index(name) if name in recording.names else -1
        if node >= 0 and not offsets[node].any():
            offsets[node] = scale * recording.offsets[recording.names.index(like)]
    return _without_first_frame(recording)._replace(offsets=offsets)


def restore_daz(recording: Recording) -> Recording:
    """Drop the leading T-pose of a DAZ-friendly file and add the node `head_top`.

    The figure ends at the eyes; the top is twice as high above `head`, as long as the CMU archive has it.
    """
    eyes = [recording.offsets[recording.names.index(name), 1] for name in ("leftEye", "rightEye")]
    trimmed = _without_first_frame(recording)
    still = np.zeros((len(trimmed.angles), 1, 3))
    return trimmed._replace(
        names=(*recording.names, "head_top"),
        parents=(*recording.parents, recording.names.index("head")),
        offsets=np.concatenate([recording.offsets, [[0, sum(eyes), 0]]]),
        axes=np.concatenate([recording.axes, np.zeros((1, 3, 3))]),
        angles=np.concatenate([trimmed.angles, still], axis=1),
    )


def _without_first_frame(recording: Recording) -> Recording:
    if len(recording.angles) < 2:
        return recording
    return recording._replace(angles=recording.angles[1:], translation=recording.translation[1:])


def to_h36m17(
    recording: Recording,
    path: str | os.PathLike = "recording",
    *,
    fps: float | None = 50.0,
    joint_names: Mapping[str, str] | None = None,
) -> np.ndarray:
    """Find the 17 joints of Human3.6M in a recording.

    Args:
        recording: Joint angles of a figure.
        path: What messages call the recording.
        fps: Frames per second to interpolate to; None keeps those of the recording.
        joint_names: A node of the figure, or `a+b` for the middle of two, for every joint of `H36M_17` and `TOES`; None
            tries the known naming conventions.

    Returns:
        Positions `[T, 17, 3]` metres, z up, float32; x/y origin at the pelvis of the first frame, the lower toe at
        z = 0.02 in its 5th percentile.

    Raises:
        UserError: That lists the names found, or says that legs of this length need another unit.
    """
    pose, lowest = pose_h36m17(recording, path, fps=fps, joint_names=joint_names)
    return (pose - [*pose[0, 0, :2], lowest - TOE_HEIGHT]).astype(np.float32)


def pose_h36m17(
    recording: Recording,
    path: str | os.PathLike = "recording",
    *,
    fps: float | None = 50.0,
    joint_names: Mapping[str, str] | None = None,
) -> tuple[np.ndarray, float]:
    """Find the 17 joints where the recording has them: positions `[T, 17, 3]` metres, z up, and the toes' height (m).

    Args:
        recording: Joint angles of a figure.
        path: What messages call the recording.
        fps: Frames per second to interpolate to; None keeps those of the recording.
        joint_names: The nodes of each joint, as for `to_h36m17`; None tries the known naming conventions.

    Returns:
        The positions, not moved to an origin, and the height of the lower toe in its 5th percentile, in the same frame.

    Raises:
        UserError: That lists the names found, or says that legs of this length need another unit.
    """
    places = _places(recording, path, joint_names)
    rest = _upright(_gather(recording.rest_positions(), places))
    legs = np.linalg.norm(rest[1] - rest[2]) + np.linalg.norm(rest[2] - rest[3])
    if not 0.35 < legs < 1.4:
        raise UserError(f"{path}: expected legs of 0.35 to 1.4 m, found {legs:.3g} m: is the length unit right?")
    nodes = _upright(_gather(node_positions(recording, fps), places))
    toes, pose = nodes[:, H36M_17.num_joints :], _rest_lengths(nodes[:, : H36M_17.num_joints], rest)
    # The lowest toe would follow a single bad frame below the floor; the 5th percentile is on the floor.
    lowest = np.percentile(toes[..., 2].min(axis=-1), 5)
    return pose, float(lowest)


def name_nodes(nodes: Sequence[str]) -> dict[str, str]:
    """The `joint_names` of `to_h36m17` from nodes in the order of `H36M_17` and `TOES`. Raises UserError on a count."""
    wanted = H36M_17.joints + TOES
    if len(nodes) != len(wanted):
        expected = f"{len(wanted)} nodes of the figure, at {', '.join(wanted)}"
        raise UserError(f"joint_names: expected {expected}, found {len(nodes)}")
    return dict(zip(wanted, (node.strip() for node in nodes), strict=True))


def _places(
    recording: Recording, path: str | os.PathLike, joint_names: Mapping[str, str] | None
) -> list[tuple[int, ...]]:
    """The indices of the nodes in whose middle each joint, and each toe, lies."""
    # Mixamo and MotionBuilder put a namespace such as `mixamorig:` before every name.
    known = {name.rpartition(":")[2]: node for node, name in enumerate(recording.names)}
    known |= {name: node for node, name in enumerate(recording.names)}
    wanted = H36M_17.joints + TOES
    if joint_names is not None:
        if missing := sorted(set(wanted) - set(joint_names)):
            raise UserError(f"joint_names: expected a node for {', '.join(wanted)}, found none for {missing[0]}")
        if lost := sorted({node for name in wanted for node in joint_names[name].split("+")} - set(known)):
            raise UserError(f"{path}: expected the joint {lost[0]}, found {', '.join(recording.names)}")
    conventions = JOINT_NAMES if joint_names is None else {"given": joint_names}
    for names in conventions.values():
        nodes = [names[joint].split("+") for joint in wanted]
        if all(name in known for part in nodes for name in part):
            return [tuple(known[name] for name in part) for part in nodes]
    conventions_listed = ", ".join(JOINT_NAMES)
    raise UserError(
        f"{path}: expected joints named as in one of {conventions_listed}, or joint_names; "
        f"found {', '.join(recording.names)}"
    )


def _gather(nodes: np.ndarray, places: list[tuple[int, ...]]) -> np.ndarray:
    return np.stack([nodes[..., list(place), :].mean(axis=-2) for place in places], axis=-2)


def _upright(points: np.ndarray) -> np.ndarray:
    """Turn y-up axes to z-up: (x, y, z) -> (x, -z, y)."""
    # A quarter turn about x, which keeps left and right.
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


def _rest_lengths(pose: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Give the three bones of the trunk their rest length; all that hangs from them moves along rigidly."""
    pose = pose.copy()
    for name, above in (("spine", range(7, 17)), ("thorax", range(8, 17)), ("neck_nose", range(9, 11))):
        child = H36M_17.joints.index(name)
        parent = H36M_17.parents[child]
        bone = pose[:, child] - pose[:, parent]
        length = np.linalg.norm(rest[child] - rest[parent])
        stretched = bone * (length / np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-9))
        pose[:, list(above)] += (stretched - bone)[:, None]
    return pose
