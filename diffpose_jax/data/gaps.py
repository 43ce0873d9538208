"""Joints that were not seen: their keypoints filled in from the frames around them, or from the rest of the body.

Filled keypoints are for methods that cannot be told that a joint was not seen. Those that can read the mask instead
(`lifters.visibility`), and what stands in the place of a missing keypoint does not reach their network, but where a
joint is gone for a moment alone: what lies between two frames that show it is then known well (`bridge_scores`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import Skeleton

# Where a joint lies that no frame of a clip shows: this many lengths of the torso (pelvis to thorax) from its parent
# on, down the torso, as in a standing person.
_HANGING = {"knee": 0.9, "ankle": 0.9, "elbow": 0.55, "wrist": 0.5}
# Between frames that show a joint and are at most so far apart, in seconds, it counts as seen, with this share of the
# lesser of their scores. In a tenth of a second even a kicking foot, at 10 m/s^2 across its path, leaves the straight
# line by no more than a / 2 * (T / 2)^2 = 12 mm.
BRIDGE_SECONDS, BRIDGE_SCORE = 0.1, 0.8


def fill_gaps(clips: ClipSet) -> ClipSet:
    """The same frames, in which the keypoints of joints that were not seen are guesses from those that were.

    Between two frames that show the joint it moves in a straight line; before the first and after the last it stays. A
    joint that no frame of its clip shows lies as far from its parent, and in the same direction, as its partner on the
    other side from its own, hips and shoulders in the opposite one; with neither side seen, limbs hang down. Scores
    stay as they are: 0.

    Raises UserError for a clip of which no joint was seen in any frame.
    """
    if clips.scores is None or clips.seen.all():
        return clips
    keypoints = np.array(clips.keypoints)
    for clip, (start, length) in enumerate(zip(clips.clip_start, clips.clip_length, strict=True)):
        frames = slice(start, start + length)
        seen = clips.seen[frames]
        if seen.all():
            continue
        if not seen.any():
            where = f"clip {clips.subject[clip]}/{clips.action[clip]}"
            raise UserError(
                f"{where}: expected a joint of {clips.skeleton.name} that was seen in some frame, found none"
            )
        keypoints[frames] = _fill_from_body(_fill_in_time(keypoints[frames], seen), seen, clips.skeleton)
    return dataclasses.replace(clips, keypoints=keypoints)


def measure_gaps(clips: ClipSet) -> np.ndarray:
    """How far each joint is from a frame of its clip that shows it, `[N, J]` seconds, float32.

    0 where it was seen, infinite where no frame of the clip shows it.
    """
    gaps = np.zeros(clips.seen.shape, np.float32)
    for frames, fps in _frames_and_rates(clips):
        rows, before, after = _nearest_seen(clips.seen[frames])
        gaps[frames] = np.minimum(rows - before, after - rows) / fps
    return gaps


def bridge_scores(clips: ClipSet) -> np.ndarray | None:
    """The scores `[N, J]`, with those of joints that are gone for a moment alone (`BRIDGE_SECONDS`) no longer 0.

    `fill_gaps` has their keypoints. None where the clips have no scores.
    """
    if clips.scores is None or clips.seen.all():
        return clips.scores
    scores = np.array(clips.scores)
    for frames, fps in _frames_and_rates(clips):
        seen, own = clips.seen[frames], clips.scores[frames]
        _, before, after = _nearest_seen(seen)
        short = ~seen & ((after - before) / fps <= BRIDGE_SECONDS + 1e-6)
        joints = np.nonzero(short)[1]
        ends = (own[end[short].astype(int), joints] for end in (before, after))
        scores[frames][short] = BRIDGE_SCORE * np.minimum(*ends)
    return scores


def _frames_and_rates(clips: ClipSet) -> Iterator[tuple[slice, float]]:
    """The frames of each clip, and its frames per second."""
    for start, length, fps in zip(clips.clip_start, clips.clip_length, clips.fps, strict=True):
        yield slice(start, start + length), float(fps)


def _nearest_seen(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows `[T, 1]` of a clip, and of `seen [T, J]` the last row up to each that is true, and the first from it on.

    Infinitely far where there is none.
    """
    rows = np.arange(len(seen))[:, None]
    before = np.maximum.accumulate(np.where(seen, rows, -np.inf), axis=0)
    after = np.minimum.accumulate(np.where(seen, rows, np.inf)[::-1], axis=0)[::-1]
    return rows, before, after


def describe_gaps(clips: ClipSet) -> str:
    """How many joints were not seen, which, and how `fill_gaps` fills them in: one line, '' where all were seen."""
    missing = ~clips.seen
    if not missing.any():
        return ""
    counts = missing.sum(axis=0)
    joints = [clips.skeleton.joints[joint] for joint in np.argsort(-counts, kind="stable") if counts[joint]]
    named = ", ".join(joints[:4]) + (f" and {len(joints) - 4} more" if len(joints) > 4 else "")
    never = int(np.isinf(measure_gaps(clips)).sum())
    total = int(missing.sum())
    return (
        f"{total:,} of {missing.size:,} joints ({total / missing.size:.1%}) were not seen ({named}): {total - never:,} "
        f"filled in from other frames, {never:,} from the rest of the body"
    )


def _fill_in_time(keypoints: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Keypoints `[T, J, 2]` of one clip with the joints that some frame shows (`seen [T, J]`) interpolated."""
    filled, frames = np.array(keypoints), np.arange(len(keypoints))
    for joint in np.flatnonzero(seen.any(axis=0) & ~seen.all(axis=0)):
        known = seen[:, joint]
        for axis in range(2):
            filled[~known, joint, axis] = np.interp(frames[~known], frames[known], keypoints[known, joint, axis])
    return filled


def _fill_from_body(keypoints: np.ndarray, seen: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Keypoints `[T, J, 2]` of one clip with guesses for the joints that no frame shows (`seen [T, J]`)."""
    filled, known = np.array(keypoints), np.array(seen.any(axis=0))
    down = _find_down(filled, known, skeleton)
    while not known.all():
        found: dict[int, np.ndarray] = {}
        for joint in map(int, np.flatnonzero(~known)):
            parent, partner = skeleton.parents[joint], skeleton.flip_order[joint]
            if parent < 0 or not known[parent]:
                continue
            kind = skeleton.joints[joint].removeprefix("left_").removeprefix("right_")
            if partner != joint and known[partner] and known[skeleton.parents[partner]]:
                offset = filled[:, partner] - filled[:, skeleton.parents[partner]]
                across = kind in ("hip", "shoulder") and skeleton.joints[parent] in ("pelvis", "thorax", "neck")
                found[joint] = filled[:, parent] + (-offset if across else offset)
            else:
                found[joint] = filled[:, parent] + _HANGING.get(kind, 0.0) * down
        if not found:  # the known joints hang from unknown ones
            found = {joint: filled[:, near].mean(axis=1) for joint, near in _known_children(known, skeleton).items()}
        for joint, guess in found.items():
            filled[:, joint], known[joint] = guess, True
    return filled


def _known_children(known: np.ndarray, skeleton: Skeleton) -> dict[int, list[int]]:
    """The unknown joints with known children, and these."""
    children = {parent: [child for child, above in skeleton.bones if above == parent] for _, parent in skeleton.bones}
    near = {joint: [child for child in below if known[child]] for joint, below in children.items() if not known[joint]}
    return {joint: below for joint, below in near.items() if below}


def _find_down(keypoints: np.ndarray, known: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The vector `[T, 2]` from the shoulders to the hips; where not both are known, down by the size of what is."""
    names = [
        [index for index, name in enumerate(skeleton.joints) if name in group and known[index]]
        for group in (("thorax", "neck", "left_shoulder", "right_shoulder"), ("pelvis", "left_hip", "right_hip"))
    ]
    if all(names):
        shoulders, hips = (keypoints[:, indices].mean(axis=1) for indices in names)
        return hips - shoulders
    # The joints that are known, of head and arms or of the legs, reach about as far as a torso is long.
    size = np.ptp(keypoints[:, known], axis=1).max(axis=-1)
    return np.stack([np.zeros_like(size), size], axis=-1)
