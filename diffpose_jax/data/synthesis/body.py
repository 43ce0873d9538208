"""A synthetic person: anthropometric bone lengths, joint limits, and a posture of joint angles and planted feet.

The person's own frame: x forward, y left, z up. Angles in radians, lengths in metres.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from diffpose_jax import geometry
from diffpose_jax.skeleton import H36M_17

# Indices into the arms and the trunk of a `Posture`.
LEFT, RIGHT = 0, 1
FLEXION, ABDUCTION, INWARD, ELBOW = range(4)
BEND, TWIST = 1, 2

# Segment lengths as fractions of stature: Drillis and Contini (1966), as tabulated by Winter (Biomechanics and Motor
# Control of Human Movement, fig. 4.1); hip half-width from Bell et al. (1990), hip centres 0.36 of the pelvic width off
# the middle; the trunk is cut where Human3.6M puts its joints.
RATIOS = {
    "hip": 0.055,  # half the distance of the hip joints
    "thigh": 0.245,
    "shank": 0.246,
    "ankle": 0.039,  # height of the ankle above the sole
    "ball": 0.075,  # from below the ankle forward to the ball of the foot
    "spine": 0.135,
    "thorax": 0.150,
    "neck": 0.062,
    "head": 0.115,
    "shoulder": 0.110,  # half the distance of the shoulder joints
    "upper_arm": 0.186,
    "forearm": 0.146,
}

# Ranges in degrees of the controls of `Posture`, and of the knees and hips that follow from the feet.
LIMITS = {
    "tilt": (-20, 60),
    "list": (-15, 15),
    "spine": ((-15, 45), (-25, 25), (-30, 30)),  # flexion, side bend, twist
    "thorax": ((-15, 45), (-25, 25), (-35, 35)),
    "neck": ((-35, 40), (-25, 25), (-45, 45)),
    "arms": ((-50, 170), (-15, 150), (-60, 80), (2, 145)),  # flexion, abduction, inward turn, elbow flexion
    "knee": (2, 150),
}


class Body(NamedTuple):
    """Segment lengths in metres, one person's; the names are those of `RATIOS`."""

    hip: float
    thigh: float
    shank: float
    ankle: float
    ball: float
    spine: float
    thorax: float
    neck: float
    head: float
    shoulder: float
    upper_arm: float
    forearm: float

    @property
    def leg(self) -> float:
        """The length of the straight leg from hip joint to ankle."""
        return self.thigh + self.shank

    def offsets(self) -> np.ndarray:
        """Rest offsets `[17, 3]` from the parent joint: upright, arms hanging."""
        trunk = {"spine": self.spine, "thorax": self.thorax, "neck_nose": self.neck, "head_top": self.head}
        limb = {"knee": self.thigh, "ankle": self.shank, "elbow": self.upper_arm, "wrist": self.forearm}
        across = {"hip": self.hip, "shoulder": self.shoulder}
        offsets = np.zeros((H36M_17.num_joints, 3))
        for joint, name in enumerate(H36M_17.joints):
            side, _, part = name.rpartition("_")
            if name in trunk:
                offsets[joint, 2] = trunk[name]
            elif part in limb:
                offsets[joint, 2] = -limb[part]
            elif part in across:
                offsets[joint, 1] = across[part] if side == "left" else -across[part]
        return offsets


def draw_body(rng: np.random.Generator) -> Body:
    """Draw a person: stature from a mixture of women's and men's (1.63 and 1.76 m), proportions within 4 %."""
    mean, std = ((1.63, 0.06), (1.76, 0.07))[rng.integers(2)]
    stature = np.clip(rng.normal(mean, std), 1.45, 2.0)
    factors = np.clip(rng.normal(1.0, 0.04, len(RATIOS)), 0.9, 1.1)
    return Body(*(float(stature * ratio * factor) for ratio, factor in zip(RATIOS.values(), factors, strict=True)))


@dataclasses.dataclass
class Posture:
    """What a person does in T frames; programmes change the fields in place before the person is posed.

    Attributes:
        pelvis: `[T, 3]` metres, in the world.
        ankles: `[T, 2, 3]` metres, in the world, left and right.
        heading: `[T]` of the pelvis, counter-clockwise from x.
        toes: `[T, 2]` direction of the feet, counter-clockwise from x.
        tilt: `[T]` of the pelvis, forward.
        list: `[T]` of the pelvis, right side down.
        spine: `[T, 3]` flexion, bend to the right, twist to the left.
        thorax: `[T, 3]`, likewise.
        neck: `[T, 3]`, likewise.
        arms: `[T, 2, 4]` flexion, abduction, inward turn of the upper arm, elbow flexion.
    """

    pelvis: np.ndarray
    ankles: np.ndarray
    heading: np.ndarray
    toes: np.ndarray
    tilt: np.ndarray
    list: np.ndarray
    spine: np.ndarray
    thorax: np.ndarray
    neck: np.ndarray
    arms: np.ndarray

    @classmethod
    def standing(cls, body: Body, frames: int, stance: float = 0.1) -> Posture:
        """Standing at the origin, facing x, feet `stance` metres off the middle, arms hanging loosely."""
        posture = cls(
            pelvis=np.zeros((frames, 3)),
            ankles=np.zeros((frames, 2, 3)),
            heading=np.zeros(frames),
            toes=np.tile(np.radians([8.0, -8.0]), (frames, 1)),
            tilt=np.zeros(frames),
            list=np.zeros(frames),
            spine=np.zeros((frames, 3)),
            thorax=np.zeros((frames, 3)),
            neck=np.zeros((frames, 3)),
            arms=np.tile(np.radians([2.0, 8.0, 15.0, 18.0]), (frames, 2, 1)),
        )
        posture.ankles[:, :, 1] = [stance, -stance]
        posture.ankles[:, :, 2] = body.ankle
        # Knees are not quite straight in standing.
        posture.pelvis[:, 2] = body.ankle + 0.985 * body.leg
        return posture


def _turn(angle: np.ndarray, axis: int) -> np.ndarray:
    """Rotations `[..., 3, 3]` about a coordinate axis."""
    matrix = np.zeros((*np.shape(angle), 3, 3))
    # In the plane of the other two axes, in cyclic order, it is [[cos, -sin], [sin, cos]].
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., axis, axis] = 1
    matrix[..., i, i] = matrix[..., j, j] = np.cos(angle)
    matrix[..., j, i] = np.sin(angle)
    matrix[..., i, j] = -matrix[..., j, i]
    return matrix


_turn_x, _turn_y, _turn_z = (functools.partial(_turn, axis=axis) for axis in range(3))


def _limit(values: np.ndarray, name: str) -> np.ndarray:
    low, high = np.radians(np.array(LIMITS[name], np.float64).T)
    return np.clip(values, low, high)


def _trunk(angles: np.ndarray, name: str) -> np.ndarray:
    flexion, bend, twist = np.moveaxis(_limit(angles, name), -1, 0)
    return _turn_z(twist) @ _turn_y(flexion) @ _turn_x(bend)


def joint_rotations(body: Body, posture: Posture) -> np.ndarray:
    """The local rotations `[T, 17, 3, 3]` of a posture within the joint limits; the legs reach the ankles."""
    rotations = np.tile(np.eye(3), (len(posture.heading), H36M_17.num_joints, 1, 1))
    index = H36M_17.joints.index
    pelvis = pelvis_rotation(posture)
    rotations[:, index("pelvis")] = pelvis
    rotations[:, index("spine")] = _trunk(posture.spine, "spine")
    rotations[:, index("thorax")] = _trunk(posture.thorax, "thorax")
    rotations[:, index("neck_nose")] = _trunk(posture.neck, "neck")
    for foot, (side, sign) in enumerate((("left", 1), ("right", -1))):
        flexion, abduction, inward, elbow = np.moveaxis(_limit(posture.arms[:, foot], "arms"), -1, 0)
        # A positive turn about the left axis takes what hangs down backwards: right for a knee, and with a minus sign
        # for the flexion of shoulders and elbows. The angles are those of `exports.angles`.
        arm = _turn_y(-flexion) @ _turn_x(sign * abduction) @ _turn_z(-sign * inward)
        rotations[:, index(f"{side}_shoulder")] = arm
        rotations[:, index(f"{side}_elbow")] = _turn_y(-elbow)
        hip = posture.pelvis + pelvis @ [0, sign * body.hip, 0]
        reach = np.einsum("tji,tj->ti", pelvis, posture.ankles[:, foot] - hip)
        toes = _turn_z(posture.toes[:, foot])[..., 0]
        forward = np.einsum("tji,tj->ti", pelvis, toes)
        thigh, knee = _reach(body, reach, forward)
        rotations[:, index(f"{side}_hip")] = thigh
        rotations[:, index(f"{side}_knee")] = _turn_y(knee)
    return rotations


def pelvis_rotation(posture: Posture) -> np.ndarray:
    """The orientation `[T, 3, 3]` of the pelvis in the world."""
    tilt, side = _limit(posture.tilt, "tilt"), _limit(posture.list, "list")
    return _turn_z(posture.heading) @ _turn_y(tilt) @ _turn_x(side)


def _reach(body: Body, reach: np.ndarray, forward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hip rotation `[T, 3, 3]` and knee flexion `[T]` that put the ankle at `reach` `[T, 3]`, the knee bent forward.

    The plane of the leg holds the line to the ankle and the toes' direction `forward` `[T, 3]`.
    """
    # Law of cosines: d^2 = a^2 + b^2 + 2 a b cos(knee) for thigh a, shank b and a knee that is straight at 0. The thigh
    # then leads the line to the ankle by the angle at the hip, atan2(b sin(knee), a + b cos(knee)).
    distance = np.linalg.norm(reach, axis=-1)
    cosine = (distance**2 - body.thigh**2 - body.shank**2) / (2 * body.thigh * body.shank)
    knee = _limit(np.arccos(np.clip(cosine, -1, 1)), "knee")
    behind = np.arctan2(body.shank * np.sin(knee), body.thigh + body.shank * np.cos(knee))
    up = -reach / distance[:, None]
    across = np.cross(up, forward)
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    frame = np.stack([np.cross(across, up), across, up], axis=-1)
    return frame @ _turn_y(-behind), knee


def reachable_height(body: Body, posture: Posture) -> np.ndarray:
    """The greatest height `[T]` of the pelvis at which both almost straight legs still reach their ankles."""
    heights = []
    for foot, sign in enumerate((1, -1)):
        hip = pelvis_rotation(posture) @ [0, sign * body.hip, 0]
        level = posture.ankles[:, foot, :2] - (posture.pelvis + hip)[:, :2]
        # A leg of length l whose foot is the distance d away on the ground reaches sqrt(l^2 - d^2) high.
        span = np.sqrt(np.maximum((0.998 * body.leg) ** 2 - np.sum(level**2, axis=-1), 0))
        heights.append(posture.ankles[:, foot, 2] + span - hip[:, 2])
    return np.minimum(*heights)


def settle(body: Body, posture: Posture, width: int = 3) -> None:
    """Lower the pelvis smoothly wherever the legs would not reach the feet otherwise, over `width` frames each way."""
    height = np.minimum(posture.pelvis[:, 2], reachable_height(body, posture))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(height, 2 * width, mode="edge"), 2 * width + 1)
    # Each of the moving minima within `width` frames of a frame covers that frame, so it is at most the bound there,
    # and so is a weighted mean of them.
    lowest = np.lib.stride_tricks.sliding_window_view(windows.min(axis=-1), 2 * width + 1)
    weights = np.hanning(2 * width + 3)[1:-1]
    posture.pelvis[:, 2] = lowest @ (weights / weights.sum())


_forward_kinematics = jax.jit(geometry.forward_kinematics, static_argnums=2)


def pose(rotations: np.ndarray, offsets: np.ndarray, pelvis: np.ndarray) -> np.ndarray:
    """Joint positions `[T, 17, 3]` (world, float32) from rotations, rest offsets `[T, 17, 3]`, pelvis `[T, 3]`."""
    positions, _ = _forward_kinematics(
        np.asarray(rotations, np.float32), np.asarray(offsets, np.float32), H36M_17.parents
    )
    return np.asarray(positions) + np.asarray(pelvis, np.float32)[:, None]
