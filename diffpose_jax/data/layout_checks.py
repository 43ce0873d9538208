"""Whether keypoints are what a file says they are, without a model: layout, sides, axes, the direction of y, size.

`find_mistakes` names the likely mistake in a line each. It knows no training data; `data.plausibility` compares with
those, and tells left from right through a whole clip, which takes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffpose_jax.formats.image_sizes import measure_outside
from diffpose_jax.formats.keypoint_files import KeypointClip
from diffpose_jax.skeleton import SKELETONS, Skeleton

# Segments that all layouts have, and their median length in units of the person's extent, the diagonal of their box: of
# 255 clips of CMU's training subjects, one view each, the mean of both sides.
_LENGTHS = {("hip", "knee"): 0.247, ("knee", "ankle"): 0.264, ("shoulder", "elbow"): 0.179, ("elbow", "wrist"): 0.168,
            ("shoulder", "hip"): 0.321}  # fmt: skip
_ACROSS = {("left_hip", "right_hip"): 0.080, ("left_shoulder", "right_shoulder"): 0.151}
_SEGMENTS = {
    **{(f"{side}_{a}", f"{side}_{b}"): x for (a, b), x in _LENGTHS.items() for side in ("left", "right")},
    **_ACROSS,
}
# Of those clips the medians differ from these by 0.056 at most, by 0.12 and more where the joints are taken for those
# of another layout, and by 0.07 and more in another order of the joints.
_ODD, _NOBODY = 0.06, 0.1
_BETTER = 0.6  # another layout fits where it differs this much less
_JUDGED = 2000  # frames of a clip that are looked at, evenly spread
_UPSIDE_DOWN = 0.8  # of the frames have the hips above the shoulders, or the ankles above the hips
_STEADIER = 4.0  # times as far do people move along the axis of frames as along that of people
_EXCHANGED = 0.75  # of the way between frames is saved where left and right are exchanged back
_OUTSIDE = 0.1  # of the joints outside the picture


def find_mistakes(clips: Sequence[KeypointClip]) -> list[str]:
    """What is likely wrong with the keypoints of a file, a line each; empty where nothing is.

    Args:
        clips: All clips of the file, pixels.
    """
    parts = [_thin(clip) for clip in clips]
    lines = [_judge_layout(parts), _judge_axes(clips)]
    if not any(lines):
        lines += [_judge_up(parts), _judge_sides(clips)]
    return [line for line in [*lines, _judge_size(parts)] if line]


def _thin(clip: KeypointClip) -> KeypointClip:
    step = -(-len(clip.keypoints) // _JUDGED)
    scores = None if clip.scores is None else clip.scores[::step]
    return clip._replace(keypoints=clip.keypoints[::step], scores=scores)


def _mask(clip: KeypointClip) -> np.ndarray:
    """Keypoints `[T, J, 2]`, NaN where a joint was not seen."""
    return clip.keypoints if clip.scores is None else np.where(clip.scores[..., None] > 0, clip.keypoints, np.nan)


def _measure_misfit(keypoints: np.ndarray, skeleton: Skeleton) -> float:
    """How much the segments of people `[N, J, 2]` differ from those of people in a layout; infinite without them."""
    index = {name: joint for joint, name in enumerate(skeleton.joints)}
    pairs = {(index[a], index[b]): x for (a, b), x in _SEGMENTS.items() if a in index and b in index}
    if len(pairs) < len(_SEGMENTS):
        return np.inf
    first, second = np.array(list(pairs)).T
    lengths = np.linalg.norm(keypoints[:, first] - keypoints[:, second], axis=-1)
    extent = np.linalg.norm(np.nanmax(keypoints, axis=1) - np.nanmin(keypoints, axis=1), axis=-1)
    ratios = lengths / np.maximum(extent, 1e-9)[:, None]
    known = np.isfinite(ratios).any(axis=0)
    if known.mean() < 0.7:
        return np.inf
    return float(np.abs(np.nanmedian(ratios[:, known], axis=0) - np.array(list(pairs.values()))[known]).mean())


def _judge_layout(clips: Sequence[KeypointClip]) -> str:
    skeleton = clips[0].skeleton
    others = [
        other for other in SKELETONS.values() if other.num_joints == skeleton.num_joints and other.name != skeleton.name
    ]
    frames = [_seen_frames(clip) for clip in clips]
    frames = [part for part in frames if len(part)]
    if not frames:
        return ""
    keypoints = np.concatenate(frames)
    own = _measure_misfit(keypoints, skeleton)
    fits = {other.name: _measure_misfit(keypoints, other) for other in others}
    name = min(fits, key=fits.__getitem__, default="")
    if not _ODD < own < np.inf:
        return ""
    if name and fits[name] < _BETTER * own:
        return (
            f"the joints fit {name} better than {skeleton.name}: limbs differ from a person's by {fits[name]:.2f} of "
            f"the person's extent on average instead of {own:.2f} (another order of joints?)"
        )
    if own > _NOBODY:
        return (
            f"the joints do not make a person in the layout {skeleton.name}: limbs differ from a person's by {own:.2f} "
            "of the person's extent on average (another order of joints?)"
        )
    return ""


def _seen_frames(clip: KeypointClip) -> np.ndarray:
    """Keypoints `[N, J, 2]` of the frames in which most joints were seen: the extent is that of whole people."""
    keypoints = _mask(clip)
    return keypoints[np.isfinite(keypoints[..., 0]).mean(axis=1) > 0.8]


def _judge_axes(clips: Sequence[KeypointClip]) -> str:
    """Whether what should be frames of a person are people of a frame: several clips of one length, from one array."""
    shapes = {clip.keypoints.shape for clip in clips}
    if len(clips) < 2 or len(shapes) != 1 or len({clip.start for clip in clips}) != 1 or len(clips[0].keypoints) < 2:
        return ""
    keypoints = np.stack([_mask(clip) for clip in clips])
    if keypoints.shape[0] * keypoints.shape[1] > 50 * _JUDGED:
        keypoints = keypoints[:50, :_JUDGED]
    ways = [np.linalg.norm(np.diff(keypoints, axis=axis), axis=-1) for axis in (1, 0)]
    if not all(np.isfinite(way).any() for way in ways):
        return ""
    in_time, among_people = (np.nanmedian(way) for way in ways)
    if in_time > _STEADIER * among_people:
        return (
            f"frames and people seem to be exchanged: from frame to frame joints move {in_time:.0f} pixels, from "
            f"person to person {among_people:.0f} (the order is [people, frames, joints, 2])"
        )
    return ""


def _judge_up(clips: Sequence[KeypointClip]) -> str:
    above = [_is_upside_down(clip) for clip in clips]
    verdicts = np.concatenate(above)
    if len(verdicts) and verdicts.mean() > _UPSIDE_DOWN:
        return (
            f"people are upside down in {verdicts.mean():.0%} of the frames: y should point down from the top of the "
            "picture (y up in the file, or a picture that was not turned?)"
        )
    return ""


def _is_upside_down(clip: KeypointClip) -> np.ndarray:
    """Of each frame with shoulders, hips and ankles whether these stand in the opposite order."""
    index = clip.skeleton.joints.index
    keypoints = _mask(clip)
    heights = [
        keypoints[:, [index(f"left_{name}"), index(f"right_{name}")], 1].mean(axis=1)
        for name in ("shoulder", "hip", "ankle")
    ]
    shoulders, hips, ankles = heights
    known = np.isfinite(shoulders + hips)
    low = np.where(np.isfinite(ankles), ankles, -np.inf)
    return ((hips < shoulders) & (low < hips))[known]


def _judge_sides(clips: Sequence[KeypointClip]) -> str:
    """Frames in which left and right are exchanged and back again: then all paired joints jump at once."""
    jumps, frames = 0, 0
    for clip in clips:
        keypoints = _mask(clip)
        flipped = keypoints[:, list(clip.skeleton.flip_order)]
        paired = list(clip.skeleton.left + clip.skeleton.right)
        ways = [np.linalg.norm(after[1:, paired] - keypoints[:-1, paired], axis=-1) for after in (keypoints, flipped)]
        known = np.isfinite(ways[0]).sum(axis=1) >= 6
        plain, exchanged = (np.nansum(way[known], axis=1) for way in ways)
        jumps += int((exchanged < (1 - _EXCHANGED) * plain).sum())
        frames += len(keypoints)
    if jumps:
        return f"left and right are exchanged between neighbouring frames {jumps} times in {frames} frames"
    return ""


def _judge_size(clips: Sequence[KeypointClip]) -> str:
    points = [_mask(clip)[np.isfinite(_mask(clip)[..., 0])] for clip in clips]
    size, seen = np.asarray(clips[0].image_size), np.concatenate(points)
    if not len(seen) or measure_outside(size, seen, margin=0.02) <= _OUTSIDE:
        return ""
    if measure_outside(size[::-1], seen, margin=0.02) < 0.005:
        x, y = np.quantile(seen, 0.99, axis=0)
        return (
            f"joints reach x {x:.0f}, y {y:.0f} in an image of {size[0]:g} x {size[1]:g}: width and height exchanged, "
            "or people cut off by the picture's edge?"
        )
    share = measure_outside(size, seen, margin=0.02)
    return f"{share:.0%} of the joints lie outside the image of {size[0]:g} x {size[1]:g} (of another resolution?)"
