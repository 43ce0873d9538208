"""Where a lifted person stands: the root's path with its uncertainty, which way is up, the floor, and one body's size.

A network gives poses relative to the root. Everything here follows from them, the keypoints and a pinhole camera.
Camera frame: x right, y down, z away from the camera; world: z up, x level.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.data.views import pinhole
from diffpose_jax.geometry import normalise_screen, solve_root
from diffpose_jax.skeleton import Skeleton

# Focal length of an unknown camera over the longer side of its picture: a phone's main camera, 26 to 28 mm on 36 mm.
ASSUMED_FOCAL = 0.75
# People's heights differ by so much (standard deviation over mean, adults of both sexes), and with them the depth at
# which an unknown person of a known size in the picture stands.
HEIGHT_SPREAD = 0.055
# What the top of the skull and the sole of the foot add to the joints of a standing person, m: head joint to skull, and
# ankle to floor.
SKULL, ANKLE = 0.10, 0.08
# Acceleration of a body, m/s^2 (standard deviation), that the smoother expects.
ACCELERATION = 6.0
# A camera's view of the floor is told from the lowest ankle in so many of the frames.
_FLOOR_SHARE = 0.05


class Root(NamedTuple):
    """The root's path: positions `[T, 3]` m, camera frame, and standard deviations along x, y, z, `[T, 3]` m."""

    position: np.ndarray
    std: np.ndarray


def solve_roots(
    poses: np.ndarray,
    hypotheses: np.ndarray,
    keypoints: np.ndarray,
    weights: np.ndarray,
    image_size: tuple[int, int],
    focal: float,
    height_known: bool = False,
) -> Root:
    """The root's path by the reprojection of the poses, with what the hypotheses leave open.

    Args:
        poses: The aggregate, `[T, J, 3]` m, root-relative.
        hypotheses: `[T, H, J, 3]` m, likewise.
        keypoints: Pixels `[T, J, 2]`.
        weights: Confidence of each joint, `[T, J]`; 0 where it was not seen.
        image_size: Width and height in pixels.
        focal: Focal length in pixels.
        height_known: Whether the body's size is known; otherwise the spread of people's heights is part of the
            uncertainty, along the line of sight.
    """
    points = normalise_screen(keypoints, np.asarray(image_size, np.float64)).astype(np.float32)
    camera = pinhole(2 * focal / image_size[0])
    position = np.asarray(solve_root(poses, points, camera, weights))
    each = np.asarray(solve_root(hypotheses, points[:, None], camera, weights[:, None]))
    variance = each.var(axis=1)
    if not height_known:
        variance = variance + (HEIGHT_SPREAD * position) ** 2
    return Root(position, np.sqrt(variance))


def assume_focal(image_size: tuple[int, int]) -> float:
    """The focal length, in pixels, of a phone's main camera with such a picture."""
    return ASSUMED_FOCAL * max(image_size)


def smooth_path(values: np.ndarray, std: np.ndarray, times: np.ndarray, acceleration: float = ACCELERATION) -> Root:
    """Smooths paths by a Rauch-Tung-Striebel smoother that trusts every value as much as its deviation says.

    Each coordinate is a body that moves at constant velocity but for white accelerations. Where the deviation is small
    the path goes through the values, where it is large it follows the neighbours.

    Args:
        values: `[T, ...]` m.
        std: Their standard deviations, of the same shape.
        times: Times of the rows, `[T]` s, ascending.
        acceleration: Standard deviation of the accelerations, m/s^2.

    Returns:
        The smoothed values and their standard deviations, of the same shape.
    """
    shape, count = values.shape, len(values)
    measured, noise = values.reshape(count, -1).astype(np.float64), np.maximum(std.reshape(count, -1), 1e-4) ** 2
    size = measured.shape[1]
    state = np.stack([measured[0], np.zeros(size)], axis=-1)
    covariance = np.zeros((size, 2, 2))
    covariance[:, 0, 0], covariance[:, 1, 1] = noise[0], 25.0
    kept, predicted = [(state, covariance)], []
    for row in range(1, count):
        transition, process = _motion(times[row] - times[row - 1], acceleration)
        ahead, spread = state @ transition.T, transition @ covariance @ transition.T + process
        predicted.append((transition, ahead, spread))
        gain = spread[:, :, 0] / (spread[:, 0, 0] + noise[row])[:, None]
        state = ahead + gain * (measured[row] - ahead[:, 0])[:, None]
        covariance = spread - gain[:, :, None] * spread[:, None, 0, :]
        kept.append((state, covariance))
    # Backwards: what the later rows say of each state.
    found = [kept[-1]]
    for (state, covariance), (transition, ahead, spread) in zip(kept[-2::-1], predicted[::-1], strict=True):
        back = covariance @ transition.T @ np.linalg.inv(spread)
        later, later_spread = found[-1]
        state = state + np.einsum("nij,nj->ni", back, later - ahead)
        found.append((state, covariance + back @ (later_spread - spread) @ np.swapaxes(back, 1, 2)))
    position = np.stack([state[:, 0] for state, _ in found[::-1]])
    deviation = np.sqrt(np.maximum([covariance[:, 0, 0] for _, covariance in found[::-1]], 0))
    return Root(position.reshape(shape), deviation.reshape(shape))


def _motion(seconds: float, acceleration: float) -> tuple[np.ndarray, np.ndarray]:
    """Transition and process noise of position and velocity over a time, `[2, 2]` each."""
    seconds = max(float(seconds), 1e-3)
    effect = np.array([seconds**2 / 2, seconds])
    return np.array([[1.0, seconds], [0.0, 1.0]]), acceleration**2 * np.outer(effect, effect) + 1e-10 * np.eye(2)


def bone_lengths(poses: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The median length of each bone over poses `[..., J, 3]`, `[bones]` m, in the order of `skeleton.bones`."""
    child, parent = (list(ends) for ends in zip(*skeleton.bones, strict=True))
    lengths = np.linalg.norm(poses[..., child, :] - poses[..., parent, :], axis=-1)
    return np.median(lengths.reshape(-1, len(child)), axis=0)


def hold_bone_lengths(poses: np.ndarray, lengths: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Poses `[..., J, 3]` whose bones keep their directions and have these lengths `[bones]`, from the root on."""
    length = dict(zip(skeleton.bones, lengths, strict=True))
    held, waiting = {skeleton.root: poses[..., skeleton.root, :]}, list(skeleton.bones)
    while waiting:
        for bone in [one for one in waiting if one[1] in held]:
            child, parent = bone
            direction = poses[..., child, :] - poses[..., parent, :]
            size = np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), 1e-6)
            held[child] = held[parent] + length[bone] * direction / size
            waiting.remove(bone)
    return np.stack([held[joint] for joint in range(skeleton.num_joints)], axis=-2).astype(poses.dtype)


def standing_height(lengths: np.ndarray, skeleton: Skeleton) -> float:
    """The height, m, of a person of these bone lengths `[bones]` standing upright: ankle to head, skull and sole."""
    length = {child: value for (child, _), value in zip(skeleton.bones, lengths, strict=True)}
    ankles = [joint for joint, name in enumerate(skeleton.joints) if name.endswith("ankle")]
    top = _top_joint(skeleton)

    def reach(joint: int, end: int) -> float:
        total = 0.0
        while joint != end and skeleton.parents[joint] >= 0:
            total, joint = total + length[joint], skeleton.parents[joint]
        return total

    # Of a leg only thigh and shin stand upright: from the ankle to the hip joint.
    legs = float(np.mean([length[ankle] + length[skeleton.parents[ankle]] for ankle in ankles]))
    return legs + reach(top, skeleton.root) + SKULL + ANKLE


def find_up(poses: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The direction `[3]` (camera frame) in which people of poses `[T, J, 3]` stand, from their ankles to their heads.

    The mean over frames of people who are stretched out; of people who lie or sit throughout it is not the vertical.
    """
    ankles = [joint for joint, name in enumerate(skeleton.joints) if name.endswith("ankle")]
    along = poses[:, _top_joint(skeleton)] - poses[:, ankles].mean(axis=1)
    length = np.linalg.norm(along, axis=-1)
    # Crouching people lean; the tallest half of the frames says where up is.
    mean = along[length >= np.median(length)].mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)


def level_world(up: np.ndarray) -> np.ndarray:
    """The rotation `[3, 3]` from the camera's axes to a world whose z axis is `up [3]`; its x axis stays the camera's,
    made level, and y points away from the camera.
    """
    z = np.asarray(up, np.float64) / np.linalg.norm(up)
    x = np.array([1.0, 0.0, 0.0]) - z[0] * z
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def find_floor(heights: np.ndarray) -> float:
    """The height of the floor, m, from the heights of ankles `[T, ...]` along the world's z axis, m."""
    lowest = heights.reshape(len(heights), -1).min(axis=1)
    return float(np.quantile(lowest, _FLOOR_SHARE)) - ANKLE


def _top_joint(skeleton: Skeleton) -> int:
    """The head, or what is nearest to it in the layout."""
    for word in ("head", "head_top", "neck_nose", "nose", "neck"):
        if word in skeleton.joints:
            return skeleton.joints.index(word)
    return skeleton.num_joints - 1
