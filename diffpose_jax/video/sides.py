"""Left and right over time: detectors now and then take a person's back for the front, for a moment.

Shoulders and hips cannot exchange their places from one frame to the next. Where the keypoints do, one of two things
happened: the person turned, and the sides came near to each other on the way; or the detector is mistaken, and the
jump has the width of the body. Over a whole track the cheapest explanation is found, where every second of disagreeing
with the detector has a price and every jump has the price of its width.
"""

from __future__ import annotations

import jax
import numpy as np

from diffpose_jax.people import Track
from diffpose_jax.skeleton import H36M_17, Skeleton
from diffpose_jax.video.tracking import SEEN, Body

# A jump has the price of its width as a share of the body's size, some 0.2 from shoulder to shoulder as seen from the
# front: so a mistake that begins and ends within two seconds is corrected. Of a person who turns by half in a second
# the shoulders are 0.02 away at 30 frames per second when they cross, which outweighs a tenth of a second.
PRICE = 0.2  # per second of disagreeing with the detector
_TOGETHER = 0.25  # seconds: frames farther apart say nothing about each other
_PAIRS = ("shoulder", "hip")


def exchanged_frames(keypoints: np.ndarray, scores: np.ndarray, times: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Find the frames in which a detector exchanged left and right: `[T]` bool.

    Args:
        keypoints: `[T, J, 2]` pixels.
        scores: `[T, J]`.
        times: `[T]` seconds.
        skeleton: The layout of the J joints.
    """
    count = len(keypoints)
    change = _cost_of_change(keypoints, scores, times, skeleton)
    step = np.diff(times).clip(0, _TOGETHER) if count > 1 else np.zeros(0)
    duration = PRICE * np.concatenate([step[:1], step]) if count > 1 else np.full(count, PRICE)
    # The state of a frame is 0 for the detector's labels and 1 for exchanged ones; `change` is the price of unlike
    # states minus that of like ones.
    # Dynamic programming (Viterbi 1967): `cost` holds the price of the cheapest labels up to a frame that end in each
    # of the two states, `origin` the state before it, and the states are then read backwards.
    cost = np.array([0.0, duration[0]])
    origin = np.zeros((count, 2), int)
    for frame in range(1, count):
        like, unlike = max(0.0, -change[frame - 1]), max(0.0, change[frame - 1])
        ways = np.array([[cost[0] + like, cost[1] + unlike], [cost[0] + unlike, cost[1] + like]])
        origin[frame] = ways.argmin(axis=1)
        cost = ways.min(axis=1) + np.array([0.0, duration[frame]])
    state = np.zeros(count, int)
    if count:
        state[-1] = cost.argmin()
    for frame in range(count - 1, 0, -1):
        state[frame - 1] = origin[frame, state[frame]]
    return state.astype(bool)


def _cost_of_change(keypoints: np.ndarray, scores: np.ndarray, times: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """What it costs to exchange sides between neighbouring frames rather than not, `[T - 1]`, in sizes of the body."""
    left = [skeleton.joints.index(f"left_{joint}") for joint in _PAIRS]
    right = [skeleton.joints.index(f"right_{joint}") for joint in _PAIRS]
    sides = keypoints[:, left + right]
    swapped = keypoints[:, right + left]
    sizes = np.array([np.max(box[2:] - box[:2]) for box in map(_box, keypoints, scores)])
    seen = scores[:, left + right] >= SEEN
    both = seen[1:] & seen[:-1]
    difference = np.linalg.norm(swapped[1:] - sides[:-1], axis=-1) - np.linalg.norm(sides[1:] - sides[:-1], axis=-1)
    # Both members of a pair must be seen in both frames, or one side would speak alone.
    usable = both & np.roll(both, len(left), axis=1)
    mean = np.where(usable, difference, 0).sum(axis=1) / np.maximum(usable.sum(axis=1), 1)
    near = np.diff(times) <= _TOGETHER
    return np.where(near, mean / np.maximum(np.minimum(sizes[1:], sizes[:-1]), 1e-9), 0.0)


def _box(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return Body(keypoints, scores).box


def settle_sides(track: Track, times: np.ndarray) -> Track:
    """The track with left and right put back where the detector exchanged them, its mixtures too.

    Args:
        track: Of a layout with shoulders and hips.
        times: Time of every frame of the video, in seconds.
    """
    wrong = exchanged_frames(track.keypoints, track.scores, times[track.frames], track.skeleton)
    order = list(track.skeleton.flip_order)
    mirrored = list(H36M_17.flip_order)

    def put_back(part: np.ndarray) -> np.ndarray:
        return np.where(wrong.reshape(-1, *[1] * (part.ndim - 1)), part[:, mirrored], part)

    return track._replace(
        keypoints=np.where(wrong[:, None, None], track.keypoints[:, order], track.keypoints),
        scores=np.where(wrong[:, None], track.scores[:, order], track.scores),
        mixture=None if track.mixture is None else jax.tree.map(put_back, track.mixture),
    )
