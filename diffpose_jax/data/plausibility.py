"""Whether keypoints are like those that a model was trained on: in position, size, roll, proportions and sides.

Training measures its keypoints once (`measure_keypoints`) and keeps the record in the work directory. Whoever lifts
other keypoints is told in a line each where they differ (`find_oddities`). A model gives poses for anything, and its
spread need not say that it has never seen the like. What keypoints show without a model `data.layout_checks` tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.gaps import fill_gaps
from diffpose_jax.data.joint_centres import Proportions, measure_proportions
from diffpose_jax.errors import UserError
from diffpose_jax.records import read_record, write_record
from diffpose_jax.skeleton import Skeleton, mirror

FILE = "keypoints.json"
FRAMES = 4096  # of the training split, evenly spread, that are measured
_ROLL_BINS = 24
# A roll is unheard of where fewer than this share of the training frames have it, by 1 / _ROLL_BINS of a turn or less.
_RARE = 0.002
# By how much the middle of a clip may leave the range of the training frames: image units, and factors.
_SHIFT, _SCALE, _LONG = 0.1, 1.25, 1.15
# Joints do not make a person where so many bones are longer than any should be, or one is by this factor.
_SCRAMBLED, _TORN = 1 / 3, 1.8
# Left and right are exchanged where the verdicts on pieces of so many frames are this much likelier if they are.
_PIECE, _EVIDENCE = 150, 1000.0
_FEATURES = 768
_JUDGED = 16_384  # frames of the input that are looked at, evenly spread


class KeypointRecord(NamedTuple):
    """What the keypoints of a training split are like; sizes are mean lengths of 2D bones in normalised image units.

    Attributes:
        layout: The name of their joint layout.
        centre: `[2, 2]` lowest and highest x, and y, of the middle of a person: quantiles of the frames.
        size: `[2]` smallest and largest size.
        roll: `[24]` share of the frames by the direction of the torso in the image, from upright on clockwise.
        bones: `[J - 1]` largest length of each bone in units of the size.
        sides: Weights `[768]` of the verdict on left and right (`judge_sides`).
        verdict: `[2]` mean and standard deviation of the verdict on a piece of a clip, of people not fitted to.
        proportions: Where the joints of the poses lie on a body, and so those of the keypoints, projections of them;
            None where that is not known.
    """

    layout: str
    centre: np.ndarray
    size: np.ndarray
    roll: np.ndarray
    bones: np.ndarray
    sides: np.ndarray
    verdict: np.ndarray
    proportions: Proportions | None = None


_ARRAYS = KeypointRecord._fields[1:-1]


class _Frames(NamedTuple):
    """Measures of N frames: centre `[N, 2]`, size `[N]`, roll `[N]` in turns 0..1, bones `[N, J - 1]` (NaN: not seen),
    keypoints `[N, J, 2]` in units of size around the centre, and whether most joints were seen `[N]`.
    """

    centre: np.ndarray
    size: np.ndarray
    roll: np.ndarray
    bones: np.ndarray
    keypoints: np.ndarray
    whole: np.ndarray


def measure_keypoints(clips: ClipSet) -> KeypointRecord:
    """The record of a training split."""
    frames = np.linspace(0, clips.num_frames - 1, min(FRAMES, clips.num_frames)).astype(np.int64)
    found = _measure(fill_gaps(clips), frames)
    sides, verdict = _fit_sides(found, _halves(clips)[clips.frame_clip()[frames]], clips.skeleton)
    return KeypointRecord(
        layout=clips.skeleton.name,
        centre=np.quantile(found.centre, (0.002, 0.998), axis=0).T,
        size=np.quantile(found.size, (0.002, 0.998)),
        roll=np.bincount(_bin_roll(found.roll), minlength=_ROLL_BINS) / len(frames),
        bones=np.nan_to_num(np.nanquantile(found.bones, 0.998, axis=0), nan=np.inf),
        sides=sides,
        verdict=verdict,
        proportions=_measure_proportions(clips, frames),
    )


def find_oddities(clips: ClipSet, record: KeypointRecord, placed: bool = True) -> list[str]:
    """What is unlike the training split in any clip, a line each, with figures; empty where nothing is.

    Args:
        clips: The keypoints to be lifted, in the layout of the record.
        record: That of the training split.
        placed: Whether the model sees position and size at all.
    """
    step = -(-clips.num_frames // _JUDGED)
    frames = np.concatenate(
        [np.arange(0, n, step) + start for start, n in zip(clips.clip_start, clips.clip_length, strict=True)]
    )
    found, clip = _measure(fill_gaps(clips), frames), clips.frame_clip()[frames]
    parts = [_Frames(*(array[clip == index] for array in found)) for index in range(clips.num_clips)]
    scrambled = [_is_scrambled(part, record) for part in parts]
    ordered = [part for part, odd in zip(parts, scrambled, strict=True) if not odd]
    lines = [_judge_centre(parts, record)] if placed else []
    if any(scrambled):
        factor = max(_longest(part, record)[0] for part in parts)
        lines.append(f"the joints do not make a person{_of(sum(scrambled), parts)}: bones are up to {factor:.1f} times "
                     f"as long as in training (another order of joints than {clips.skeleton.name}?)")  # fmt: skip
    if ordered:
        lines += [_judge_size(ordered, record)] if placed else []
        lines += [_judge_roll(ordered, record), _judge_bones(ordered, record, clips.skeleton)]
        lines += [_judge_exchange(ordered, record, clips.skeleton)]
    return [line for line in lines if line]


def judge_sides(keypoints: np.ndarray, weights: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Whether left and right of frames are what they should be, `[N]`: about 1, or about -1 where they are exchanged.

    By ridge regression on random features: a rough verdict, right for most frames, that needs no training.

    Args:
        keypoints: `[N, J, 2]` in units of a person's size around the middle.
        weights: `[768]`, fitted to the training split.
        skeleton: The joint layout.
    """
    return _side_features(keypoints, skeleton) @ weights


def save_record(record: KeypointRecord, workdir: Path) -> None:
    """Writes a record into a work directory, at once."""
    content = {name: part.tolist() if isinstance(part, np.ndarray) else part for name, part in record._asdict().items()}
    write_record(workdir / FILE, "keypoints", content, indent=None)


def load_record(workdir: Path) -> KeypointRecord | None:
    """The record in a work directory, None where there is none. Raises UserError where it is damaged."""
    path = workdir / FILE
    if not path.exists():
        return None
    try:
        found = read_record(path, "keypoints")
        arrays = {name: np.asarray(found[name], float) for name in _ARRAYS}
        known = found.get("proportions")
        return KeypointRecord(found["layout"], **arrays, proportions=known and Proportions(*map(float, known)))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected the record of training keypoints, found {error}; remove it") from error


def _measure(clips: ClipSet, frames: np.ndarray) -> _Frames:
    """The measures of some frames of a set without gaps in its keypoints."""
    skeleton, seen = clips.skeleton, clips.seen[frames]
    child, parent = np.array(skeleton.bones).T
    keypoints = np.asarray(clips.keypoints[frames], np.float64)
    lengths = np.linalg.norm(keypoints[:, child] - keypoints[:, parent], axis=-1)
    size = np.maximum(lengths.mean(axis=1), 1e-6)
    centre = keypoints.mean(axis=1)
    shoulders = _middle(keypoints, skeleton, "thorax neck left_shoulder right_shoulder")
    up = shoulders - _middle(keypoints, skeleton, "pelvis left_hip right_hip")
    return _Frames(
        centre=centre,
        size=size,
        roll=np.arctan2(up[:, 0], -up[:, 1]) / (2 * np.pi) % 1,
        bones=np.where(seen[:, child] & seen[:, parent], lengths / size[:, None], np.nan),
        keypoints=(keypoints - centre[:, None]) / size[:, None, None],
        whole=seen.mean(axis=1) >= 0.8,
    )


def _measure_proportions(clips: ClipSet, frames: np.ndarray) -> Proportions | None:
    """Those of the poses; None where keypoints are a detector's: who is trained on them knows where it finds joints."""
    if clips.poses is None or clips.detected:
        return None
    return measure_proportions(clips.poses[frames], clips.skeleton)


def _middle(keypoints: np.ndarray, skeleton: Skeleton, names: str) -> np.ndarray:
    return keypoints[:, [skeleton.joints.index(name) for name in names.split() if name in skeleton.joints]].mean(axis=1)


def _bin_roll(roll: np.ndarray) -> np.ndarray:
    # Bins are centred on multiples of 1 / 24 of a turn, so that people who stand upright fall into one.
    return np.floor(roll * _ROLL_BINS + 0.5).astype(np.int64) % _ROLL_BINS


def _halves(clips: ClipSet) -> np.ndarray:
    """Half of the clips, `[C]` bool, by subject where there are several."""
    names = sorted(set(clips.subject))
    if len(names) == 1:
        return np.arange(clips.num_clips) % 2 == 0
    return np.array([names.index(subject) % 2 == 0 for subject in clips.subject])


def _side_features(keypoints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Random features `[N, 768]` that change their sign where left and right are exchanged."""
    rng = np.random.default_rng(0)
    flat, other = (part.reshape(len(part), -1) for part in (keypoints, keypoints[:, list(skeleton.flip_order)]))
    weights = rng.standard_normal((flat.shape[1], _FEATURES)) / np.sqrt(flat.shape[1])
    offset = rng.uniform(-1, 1, _FEATURES)
    # g(x) - g(x exchanged) changes its sign where left and right are exchanged, whatever g is. Here g are rectified
    # random projections of order one (random features, Rahimi and Recht 2007).
    return np.maximum(flat @ weights + offset, 0) - np.maximum(other @ weights + offset, 0)


def _fit_sides(frames: _Frames, half: np.ndarray, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the verdict, and mean and standard deviation of the verdicts on pieces of the half not fitted to."""
    # A person's mirror image is a person too: with exchanged names it is the exchanged person turned back.
    both = np.concatenate([frames.keypoints, mirror(frames.keypoints, skeleton)])
    features = _side_features(both, skeleton)

    def fit(chosen: np.ndarray) -> np.ndarray:
        rows = features[np.tile(chosen, 2)]
        gram = rows.T @ rows
        ridge = 1e-2 * np.trace(gram) / len(gram) + 1e-12
        # Ridge regression to the target 1 for every frame. That of the exchanged frame, -1, follows from the sign of
        # the features.
        return np.linalg.solve(gram + ridge * np.eye(len(gram)), rows.sum(axis=0))

    means = []
    for part in (half, ~half):
        if part.any() and (~part).any():
            verdict = features[: len(half)][part] @ fit(~part)
            means += [np.mean(piece) for piece in np.array_split(verdict, max(1, len(verdict) // 8))]
    spread = (np.mean(means), np.std(means)) if means else (0.0, 1.0)
    return fit(np.ones_like(half)), np.array(spread)


def _longest(part: _Frames, record: KeypointRecord) -> tuple[float, int]:
    """The longest bone of a clip, in units of the longest of training, and which it is; of its middle frame."""
    known = ~np.isnan(part.bones).all(axis=0)
    ratio = np.zeros(part.bones.shape[1])
    ratio[known] = np.nanmedian(part.bones[:, known], axis=0) / record.bones[known]
    return float(ratio.max()), int(ratio.argmax())


def _is_scrambled(part: _Frames, record: KeypointRecord) -> bool:
    long = np.where(np.isnan(part.bones), False, part.bones > _LONG * record.bones).mean(axis=1)
    return bool(np.median(long) >= _SCRAMBLED) or _longest(part, record)[0] > _TORN


def _of(count: int, parts: list[Any]) -> str:
    return f" in {count} of {len(parts)} clips" if len(parts) > 1 else ""


def _judge_centre(parts: list[_Frames], record: KeypointRecord) -> str:
    middles = np.array([np.median(part.centre, axis=0) for part in parts])
    low, high = record.centre.T
    odd = ((middles < low - _SHIFT) | (middles > high + _SHIFT)).any(axis=1)
    if not odd.any():
        return ""
    x, y = middles[odd][0]
    return (f"the person stands at x {x:.2f}, y {y:.2f}{_of(odd.sum(), parts)} (halves of the image's width from its "
            f"middle); in training x was {low[0]:.2f} to {high[0]:.2f}, y {low[1]:.2f} to {high[1]:.2f}")  # fmt: skip


def _judge_size(parts: list[_Frames], record: KeypointRecord) -> str:
    sizes = np.array([np.median(part.size) for part in parts])
    low, high = record.size
    odd = (sizes < low / _SCALE) | (sizes > high * _SCALE)
    if not odd.any():
        return ""
    return (f"the person's size is {sizes[odd][0]:.3f}{_of(odd.sum(), parts)} (mean length of a bone in halves of the "
            f"image's width); in training it was {low:.3f} to {high:.3f}")  # fmt: skip


def _judge_roll(parts: list[_Frames], record: KeypointRecord) -> str:
    near = record.roll + np.roll(record.roll, 1) + np.roll(record.roll, -1)
    odd = [part.roll for part in parts if np.mean(near[_bin_roll(part.roll)] < _RARE) > 0.5]
    if not odd:
        return ""
    angle = abs(np.degrees(np.angle(np.mean(np.exp(2j * np.pi * odd[0])))))
    hint = " (y up in the file?)" if angle > 150 else ""
    return f"the torso is {angle:.0f} degrees off the vertical{_of(len(odd), parts)}; in training that was rare{hint}"


def _judge_bones(parts: list[_Frames], record: KeypointRecord, skeleton: Skeleton) -> str:
    longest = [_longest(part, record) for part in parts]
    odd = sum(ratio > _LONG for ratio, _ in longest)
    if not odd:
        return ""
    ratio, bone = max(longest)
    name = skeleton.joints[skeleton.bones[bone][0]]
    return f"other proportions{_of(odd, parts)}: the bone to {name} is {ratio:.2f} times the longest of training"


def _judge_exchange(parts: list[_Frames], record: KeypointRecord, skeleton: Skeleton) -> str:
    verdicts = []
    for part in parts:
        if part.whole.any():
            of_frames = judge_sides(part.keypoints[part.whole], record.sides, skeleton)
            verdicts += [float(piece.mean()) for piece in np.array_split(of_frames, -(-len(of_frames) // _PIECE))]
    mean, std = record.verdict
    # The logarithm of how much likelier Gaussian verdicts of this mean are than of the opposite one.
    # For verdicts v ~ N(m, s^2) against N(-m, s^2): sum((v + m)^2 - (v - m)^2) / (2 s^2) = 2 m sum(v) / s^2.
    evidence = 2 * mean * np.sum(verdicts) / std**2
    if mean <= 0 or evidence > -np.log(_EVIDENCE):
        return ""
    return (f"left and right seem to be exchanged: verdict {np.mean(verdicts):.2f} on {len(verdicts)} pieces of clips, "
            f"{mean:.2f} +- {std:.2f} in training")  # fmt: skip
