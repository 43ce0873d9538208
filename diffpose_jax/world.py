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
_FIRST_SPEED = 5.0  # m/s, standard deviation of the speed with which a path begins
# A root is solved from so many seen joints at least, no nearer than this, m; one that cannot be stands at so many
# metres until a frame says better, give or take as many.
_FEWEST, _NEAREST, _UNKNOWN_DEPTH = 3, 0.1, 4.0
_ROWS = 256  # that are solved in one call
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
) -> Root:
    """The root's path by the reprojection of the poses, with what the hypotheses leave open of a body of known size.

    Args:
        poses: The aggregate, `[T, J, 3]` m, root-relative.
        hypotheses: `[T, H, J, 3]` m, likewise.
        keypoints: Pixels `[T, J, 2]`.
        weights: Confidence of each joint, `[T, J]`; 0 where it was not seen.
        image_size: Width and height in pixels.
        focal: Focal length in pixels.

    Returns:
        The path; a frame that shows too few joints has the position of its neighbours and a large deviation.
    """
    points = normalise_screen(keypoints, np.asarray(image_size, np.float64)).astype(np.float32)
    camera = pinhole(2 * focal / image_size[0])
    everything = np.concatenate([poses[:, None], hypotheses], axis=1).astype(np.float32)
    solved_rows = []
    for start in range(0, len(poses), _ROWS):
        rows = slice(start, start + _ROWS)
        # Always as many rows, or every length of a path would be compiled anew.
        parts = (everything[rows], points[rows, None], np.asarray(weights, np.float32)[rows, None])
        some, seen, level = (np.pad(one, [(0, _ROWS - len(one))] + [(0, 0)] * (one.ndim - 1)) for one in parts)
        solved_rows.append(np.asarray(solve_root(some, seen, camera, level))[: len(parts[0])])
    found = np.concatenate(solved_rows)
    position, each = found[:, 0], found[:, 1:]
    # A larger body with the same picture stands farther away: how far the hypotheses' own solutions lie apart is what
    # their sizes and forms leave open.
    std = each.std(axis=1)
    solved = ((weights > 0).sum(axis=-1) >= _FEWEST) & (position[:, 2] > _NEAREST) & np.isfinite(std).all(axis=-1)
    return _bridge(Root(position, std), solved)


def _bridge(root: Root, solved: np.ndarray) -> Root:
    """The path with the frames that are not `solved [T]` put on straight lines between those that are."""
    if solved.all():
        return root
    rows, wanted = np.flatnonzero(solved), np.arange(len(solved))
    if not len(rows):
        position = np.broadcast_to(np.array([0, 0, _UNKNOWN_DEPTH]), root.position.shape)
    else:
        position = np.stack([np.interp(wanted, rows, axis[rows]) for axis in root.position.T], axis=-1)
    return Root(position, np.where(solved[:, None], root.std, _UNKNOWN_DEPTH))


def add_height_spread(root: Root) -> Root:
    """The path of somebody whose height is not known: what people's heights leave open, along the line of sight."""
    # A person larger by a factor stands farther away by that factor in the same picture: the root moves along its own
    # line of sight, by a share of its position. Variances of independent errors add up.
    return Root(root.position, np.hypot(root.std, HEIGHT_SPREAD * np.abs(root.position)))


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
    # No value counts as known to less than a tenth of a millimetre, so that gains stay finite.
    noise = np.maximum(std.reshape(count, -1).astype(np.float64), 1e-4) ** 2
    seconds = np.maximum(np.diff(np.asarray(times, np.float64)), 1e-3)
    transition, process = _motion(seconds, acceleration)
    state, covariance, ahead, spread = _filter(values.reshape(count, -1).astype(np.float64), noise, transition, process)
    # Backwards: what the later rows say of each state, through the gains of all rows at once.
    # With the covariance P of a row, the transition F and the covariance P' that is predicted for the next row, the
    # gain G = P F^T P'^-1 is the regression of a state on the next one. The smoothed state is x + G (x_next - x_ahead),
    # its covariance P + G (P_next - P') G^T (Rauch, Tung and Striebel 1965).
    back = covariance[:-1] @ np.swapaxes(transition, -1, -2) @ np.linalg.inv(spread[1:])
    for row in range(count - 2, -1, -1):
        state[row] += (back[row] @ (state[row + 1] - ahead[row + 1])[..., None])[..., 0]
        covariance[row] += back[row] @ (covariance[row + 1] - spread[row + 1]) @ np.swapaxes(back[row], -1, -2)
    deviation = np.sqrt(np.maximum(covariance[..., 0, 0], 0))
    return Root(state[..., 0].reshape(shape), deviation.reshape(shape))


def _filter(
    measured: np.ndarray, noise: np.ndarray, transition: np.ndarray, process: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The Kalman filter of N coordinates over T rows: what the rows so far say of each row's position and velocity.

    Args:
        measured: `[T, N]` m.
        noise: Variances of these, `[T, N]` m^2.
        transition: From each row to the next one, `[T - 1, 1, 2, 2]`.
        process: Process noise on the way, `[T - 1, 1, 2, 2]`.

    Returns:
        States `[T, N, 2]` and covariances `[T, N, 2, 2]` with the row's own value, then the same without it.
    """
    count, size = measured.shape
    state, covariance = np.zeros((count, size, 2)), np.zeros((count, size, 2, 2))
    ahead, spread = np.zeros_like(state), np.zeros_like(covariance)
    state[0, :, 0], covariance[0, :, 0, 0], covariance[0, :, 1, 1] = measured[0], noise[0], _FIRST_SPEED**2
    for row in range(1, count):
        forward = transition[row - 1, 0]
        ahead[row] = state[row - 1] @ forward.T
        spread[row] = forward @ covariance[row - 1] @ forward.T + process[row - 1]
        # Only positions are measured, H = (1, 0): Kalman's gain P' H^T / (H P' H^T + r) is the first column of P' over
        # the variance of a measured position, and P' - gain H P' is what remains.
        gain = spread[row, :, :, 0] / (spread[row, :, 0, 0] + noise[row])[:, None]
        state[row] = ahead[row] + gain * (measured[row] - ahead[row, :, 0])[:, None]
        covariance[row] = spread[row] - gain[:, :, None] * spread[row, :, None, 0, :]
    return state, covariance, ahead, spread


def _motion(seconds: np.ndarray, acceleration: float) -> tuple[np.ndarray, np.ndarray]:
    """Transition and process noise of position and velocity over times `[R]`, `[R, 1, 2, 2]` each."""
    one, zero = np.ones_like(seconds), np.zeros_like(seconds)
    # An acceleration a over the time t moves the position by a t^2 / 2 and the velocity by a t. With a ~ N(0, sigma^2)
    # the process noise is sigma^2 e e^T for e = (t^2 / 2, t), of rank one; the ridge makes it invertible.
    effect = np.stack([seconds**2 / 2, seconds], axis=-1)[:, None]
    transition = np.stack([one, seconds, zero, one], axis=-1).reshape(-1, 1, 2, 2)
    return transition, acceleration**2 * effect[..., :, None] * effect[..., None, :] + 1e-10 * np.eye(2)


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
            # Directions are those of the pose as it was given; only places move, from the root outwards.
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


def scale_to_height(lengths: np.ndarray, skeleton: Skeleton, height: float) -> float:
    """The factor by which bone lengths `[bones]` m have to grow for a person of this height, m."""
    # Skull and sole lie beyond the joints and are taken for the same in everybody: only the rest is scaled.
    beside = SKULL + ANKLE
    return (height - beside) / (standing_height(lengths, skeleton) - beside)


def find_up(poses: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The direction `[3]` (camera frame) in which people of poses `[T, J, 3]` stand, from their ankles to their heads.

    The mean over frames of people who are stretched out; of people who lie or sit throughout it is not the vertical.
    The camera's own up where they have no direction at all.
    """
    ankles = [joint for joint, name in enumerate(skeleton.joints) if name.endswith("ankle")]
    along = poses[:, _top_joint(skeleton)] - poses[:, ankles].mean(axis=1)
    length = np.linalg.norm(along, axis=-1)
    # Crouching people lean; the tallest half of the frames says where up is.
    mean = along[length >= np.median(length)].mean(axis=0)
    size = float(np.linalg.norm(mean))
    return mean / size if size > 1e-6 else np.array([0.0, -1.0, 0.0])


def level_world(up: np.ndarray) -> np.ndarray:
    """The rotation `[3, 3]` from the camera's axes to a world whose z axis is `up [3]`; its x axis stays the camera's,
    made level, and y points away from the camera. Of a camera rolled by over 60 degrees y is its z axis, made level.
    """
    z = np.asarray(up, np.float64) / np.linalg.norm(up)
    x = np.array([1.0, 0.0, 0.0]) - z[0] * z
    # The level part of the camera's x axis is as long as the cosine of the angle by which that axis is out of level.
    if np.linalg.norm(x) < 0.5:
        x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def find_floor(heights: np.ndarray) -> float:
    """The height of the floor, m, from the heights of ankles `[T, ...]` along the world's z axis, m."""
    # A quantile of the frames' lowest ankles, because a single bad frame would decide their minimum.
    lowest = heights.reshape(len(heights), -1).min(axis=1)
    return float(np.quantile(lowest, _FLOOR_SHARE)) - ANKLE


def _top_joint(skeleton: Skeleton) -> int:
    """The head, or what is nearest to it in the layout."""
    for word in ("head", "head_top", "neck_nose", "nose", "neck"):
        if word in skeleton.joints:
            return skeleton.joints.index(word)
    return skeleton.num_joints - 1
