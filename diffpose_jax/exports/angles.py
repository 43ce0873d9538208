"""Joint angles of a person in 3D, with their standard deviation over the hypotheses.

Axes of a segment are f forward, l to the person's left, u up, with f = l x u. The pelvis has l from right to left hip
and u towards the spine joint; the trunk has u from spine to thorax and l from right to left shoulder. All rotations
are decomposed as R = R_z(a) R_y(b) R_x(c) about (f, l, u) = (x, y, z). `docs/exports.md` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffpose_jax.skeleton import H36M_17

_CHUNK = 512  # frames at a time, so that ten minutes of hypotheses need little memory

_SIDE = ("hip_flexion", "hip_abduction", "hip_rotation", "knee_flexion",
         "shoulder_flexion", "shoulder_abduction", "shoulder_rotation", "elbow_flexion")  # fmt: skip
ANGLES: tuple[str, ...] = (
    *("pelvis_tilt", "pelvis_list", "pelvis_rotation"),
    *("trunk_flexion", "trunk_bending", "trunk_rotation", "trunk_lean"),
    *(f"{name}_r" for name in _SIDE),
    *(f"{name}_l" for name in _SIDE),
)


def compute_angles(positions: np.ndarray) -> np.ndarray:
    """The angles `[..., A]` (radians, in the order of `ANGLES`) of positions `[..., 17, 3]`, z up."""
    at = {name: positions[..., index, :] for index, name in enumerate(H36M_17.joints)}
    lower_trunk, upper_trunk = at["spine"] - at["pelvis"], at["thorax"] - at["spine"]
    pelvis = _axes(at["left_hip"] - at["right_hip"], lower_trunk, exact="left")
    trunk = _axes(at["left_shoulder"] - at["right_shoulder"], upper_trunk, exact="up")
    # The pelvis in the axes of the world: about the vertical, about its own left axis, about its own forward axis. The
    # trunk is then taken in the axes of the pelvis, R = P^T T.
    rotation, tilt, lean_right = _cardan(pelvis)
    twist, flexion, bending = _cardan(np.swapaxes(pelvis, -1, -2) @ trunk)
    whole = at["thorax"] - at["pelvis"]
    lean = np.arctan2(np.linalg.norm(whole[..., :2], axis=-1), whole[..., 2])
    columns = [tilt, lean_right, rotation, flexion, bending, twist, lean]
    for side, sign in (("right", -1.0), ("left", 1.0)):
        thigh = at[f"{side}_knee"] - at[f"{side}_hip"], at[f"{side}_ankle"] - at[f"{side}_knee"]
        arm = at[f"{side}_elbow"] - at[f"{side}_shoulder"], at[f"{side}_wrist"] - at[f"{side}_elbow"]
        # A knee takes the shank backwards, an elbow the forearm forwards: half a turn apart.
        columns += _limb(pelvis, *thigh, sign, fold=-1.0)
        columns += _limb(trunk, *arm, sign, fold=1.0)
    return np.stack(columns, axis=-1)


def summarise_angles(read: Callable[[slice], np.ndarray], frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Circular mean and standard deviation over the hypotheses, degrees, `[T, A]` each; the mean runs on beyond 180.

    Args:
        read: Gives the positions `[t, H, 17, 3]`, z up, of a slice of the frames.
        frames: How many there are.
    """
    means, stds = [], []
    for start in range(0, frames, _CHUNK):
        angles = compute_angles(read(slice(start, min(start + _CHUNK, frames))))
        # The direction of the mean of unit vectors: 179 and -179 degrees have the mean 180, not 0. Deviations are taken
        # the shorter way round.
        mean = np.angle(np.exp(1j * angles).mean(axis=1))
        away = (angles - mean[:, None] + np.pi) % (2 * np.pi) - np.pi
        means.append(mean)
        stds.append(np.sqrt(np.mean(away**2, axis=1)))
    return np.degrees(np.unwrap(np.concatenate(means), axis=0)), np.degrees(np.concatenate(stds))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _axes(left: np.ndarray, up: np.ndarray, exact: str) -> np.ndarray:
    """A segment's axes f, l, u as the columns of `[..., 3, 3]`; one of the two vectors is kept exactly."""
    # Gram and Schmidt: the part of the second vector along the first is taken off.
    first, second = (_unit(left), up) if exact == "left" else (_unit(up), left)
    second = _unit(second - np.sum(second * first, axis=-1, keepdims=True) * first)
    left, up = (first, second) if exact == "left" else (second, first)
    return np.stack([np.cross(left, up), left, up], axis=-1)


def _cardan(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The angles a, b, c of R = R_z(a) R_y(b) R_x(c)."""
    return (
        # The first column of R is (cos a cos b, sin a cos b, -sin b), its last row (-sin b, cos b sin c, cos b cos c).
        # At b of plus or minus 90 degrees a and c turn about the same axis and only their sum or difference is known.
        np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0]),
        np.arcsin(np.clip(-rotation[..., 2, 0], -1, 1)),
        np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2]),
    )


def _limb(frame: np.ndarray, upper: np.ndarray, lower: np.ndarray, sign: float, fold: float) -> list[np.ndarray]:
    """Flexion, abduction, inward rotation of a limb in a segment's axes, and the flexion of its hinge.

    With R_y(-flexion) R_x(sign abduction) R_z(-sign inward) a hanging limb, along -u, comes to its place; then the
    lower bone is (fold sin h, 0, -cos h) turned by that, h the flexion of the hinge.
    """
    # R_x turns (0, 0, -1) to (0, sin t, -cos t) for t = sign abduction, and R_y(-flexion) that to (sin f cos t, sin t,
    # -cos f cos t): flexion and abduction can be read off.
    x, y, z = np.moveaxis(np.einsum("...ji,...j->...i", frame, _unit(upper)), -1, 0)
    flexion, abduction = np.arctan2(x, -z), np.arcsin(np.clip(sign * y, -1, 1))
    fx, fy, fz = np.moveaxis(np.einsum("...ji,...j->...i", frame, _unit(lower)), -1, 0)
    # Undo R_y(-flexion): then undo R_x(sign abduction). Its first two coordinates say how the limb is turned.
    cosine, sine = np.cos(flexion), np.sin(flexion)
    forward, up = cosine * fx + sine * fz, -sine * fx + cosine * fz
    side = np.cos(abduction) * fy + np.sin(sign * abduction) * up
    inward = np.arctan2(-sign * fold * side, fold * forward)
    # The angle between the bones by its sine and its cosine: the cosine alone says little of an angle near zero.
    normal = np.linalg.norm(np.cross(_unit(upper), _unit(lower)), axis=-1)
    return [flexion, abduction, inward, np.arctan2(normal, np.sum(_unit(upper) * _unit(lower), axis=-1))]
