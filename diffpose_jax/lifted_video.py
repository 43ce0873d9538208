"""People of a video, lifted: tracks of 2D keypoints become people in 3D, in the camera's frame and in a world.

A lifter of sequences was trained at one frame rate, and a track has gaps: each uninterrupted part of a track is brought
to that rate, lifted as a clip of its own, and read at the video's own times again.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, get_args

import numpy as np

from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.formats.keypoint_files import MIN_SCORE
from diffpose_jax.geometry import normalise_screen
from diffpose_jax.model import Model, Result
from diffpose_jax.people import FilmedPeople, LiftedPerson, LiftedVideo, Track
from diffpose_jax.skeleton import Skeleton, convert_layout, convert_scores
from diffpose_jax.world import (
    Root,
    assume_focal,
    bone_lengths,
    find_floor,
    find_up,
    hold_bone_lengths,
    level_world,
    smooth_path,
    solve_roots,
    standing_height,
)

Smoothing = Literal["none", "root", "all"]
# Frame rate that lifters of sequences are trained at: Human3.6M's, and that of the CMU motion.
TRAINED_FPS = 50.0
# A track that is interrupted for longer is lifted in parts.
LONGEST_GAP = 0.5
UPS = ("camera", "person")


@dataclasses.dataclass(frozen=True)
class LiftOptions:
    """How people are lifted.

    Attributes:
        hypotheses: Poses drawn for each frame.
        aggregation: How one pose is made of them.
        seed: Seed of all noise; None: that of the model.
        focal: Focal length in pixels; None: that of a phone's main camera.
        up: Which way is up: 'camera', where the camera is held level; 'person', along people who stand; or three
            numbers in the camera's frame (x right, y down, z away), such as '0,-0.94,-0.34'.
        height: Height of the people in metres; None: the size that the lifter gives them.
        smooth: Whether a Rauch-Tung-Striebel smoother runs over nothing, the root, or root and poses.
    """

    hypotheses: int = 20
    aggregation: str = "mean"
    seed: int | None = None
    focal: float | None = None
    up: str = "camera"
    height: float | None = None
    smooth: Smoothing = "root"

    def __post_init__(self) -> None:
        if self.focal is not None and not self.focal > 0:
            raise UserError(f"focal: expected a positive number of pixels, found {self.focal}")
        if self.height is not None and not 0.3 < self.height < 3:
            raise UserError(f"height: expected metres, 0.3 to 3, found {self.height}")
        if self.smooth not in get_args(Smoothing):
            raise UserError(f"smooth: expected {', '.join(get_args(Smoothing))}, found {self.smooth!r}")
        if self.up not in UPS:
            parse_up(self.up)


class _Part(NamedTuple):
    """An uninterrupted part of a track.

    Attributes:
        rows: Its rows of the track, `[T]`.
        times: Times of these rows, `[T]` s.
        sampled: Times of what is lifted, `[M]` s.
        keypoints: `[M, J, 2]` pixels, in the lifter's layout.
        scores: `[M, J]`.
    """

    rows: np.ndarray
    times: np.ndarray
    sampled: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray


def lift_people(model: Model, filmed: FilmedPeople, options: LiftOptions = LiftOptions()) -> LiftedVideo:
    """Lifts all people of a video.

    Args:
        model: The trained lifter.
        filmed: The people, as a detector found them.
        options: How.

    Returns:
        The people in 3D; none where the video has none.

    Raises:
        UserError: An aggregation that the model cannot give.
    """
    size = filmed.image_size
    focal = options.focal or assume_focal(size)
    skeleton, rate = model.skeleton, TRAINED_FPS if model.trained.lifter.frames > 1 else None
    parts = [split_track(track, filmed.times, skeleton, rate) for track in filmed.tracks]
    found = _lift_parts(model, filmed, parts, options, focal)
    people = []
    for track, own in zip(filmed.tracks, parts, strict=True):
        results = [found.pop(0) for _ in own]
        people.append(_assemble(track, filmed, own, results, options, focal, skeleton))
    world = level_world(_find_up(people, options.up))
    settings = {
        **({"model": model.name} | model.settings(options.hypotheses, options.aggregation, options.seed)),
        "focal length": f"{focal:.0f} pixels, {'given' if options.focal else 'assumed: a phone main camera'}",
        "up": options.up,
        "height": f"{options.height} m, given" if options.height else "as lifted",
        "smoothing": options.smooth,
        "parts lifted at": f"{rate:g} frames per second" if rate else "the rate of the video",
    }
    return LiftedVideo(filmed.source, size, filmed.times, focal, world, _floor(people, world), tuple(people), settings)


def split_track(track: Track, times: np.ndarray, skeleton: Skeleton, rate: float | None) -> list[_Part]:
    """The uninterrupted parts of a track, in a layout.

    Args:
        track: The track.
        times: Times of the video's frames, `[N]` s.
        skeleton: The layout that they are brought to.
        rate: Frames per second that they are brought to; None: as they are.
    """
    own = np.asarray(times, np.float64)[track.frames]
    keypoints = convert_layout(np.asarray(track.keypoints, np.float64), track.skeleton, skeleton)
    scores = convert_scores(np.asarray(track.scores, np.float32), track.skeleton, skeleton)
    scores = np.where(scores < MIN_SCORE, 0, scores)
    breaks = np.flatnonzero(np.diff(own) > LONGEST_GAP) + 1
    parts = []
    for rows in np.split(np.arange(len(own)), breaks):
        sampled = own[rows] if rate is None else own[rows[0]] + np.arange(_count(own[rows], rate)) / rate
        resampled = resample(keypoints[rows], scores[rows], own[rows], sampled)
        parts.append(_Part(rows, own[rows], sampled, *resampled))
    return parts


def _count(times: np.ndarray, rate: float) -> int:
    return max(1, int(np.ceil((times[-1] - times[0]) * rate)) + 1)


def resample(
    keypoints: np.ndarray, scores: np.ndarray, times: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and scores at other times: in a straight line between two frames that both show a joint.

    Where one of the two does not, the joint is that of the nearer frame, seen or not.

    Args:
        keypoints: `[T, J, 2]`, any unit.
        scores: `[T, J]`, 0 where a joint was not seen.
        times: `[T]` s, ascending.
        wanted: `[M]` s.

    Returns:
        Keypoints `[M, J, 2]` and scores `[M, J]`.
    """
    after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    if len(times) == 1:
        after = np.zeros(len(wanted), int)
    before = np.maximum(after - 1, 0)
    span = np.maximum(times[after] - times[before], 1e-9)
    share = np.clip((wanted - times[before]) / span, 0, 1)[:, None]
    both = (scores[before] > 0) & (scores[after] > 0)
    nearer = np.where(share < 0.5, before[:, None], after[:, None])
    joints = np.arange(scores.shape[1])[None]
    line = keypoints[before] + share[..., None] * (keypoints[after] - keypoints[before])
    level = scores[before] + share * (scores[after] - scores[before])
    return (
        np.where(both[..., None], line, keypoints[nearer, joints]),
        np.where(both, level, scores[nearer, joints]).astype(np.float32),
    )


def _lift_parts(
    model: Model, filmed: FilmedPeople, parts: list[list[_Part]], options: LiftOptions, focal: float
) -> list[Result]:
    """The result of every part, in order, of one call."""
    clips = [
        Clip(
            normalise_screen(part.keypoints, np.asarray(filmed.image_size)).astype(np.float32),
            None,
            None,
            track.name,
            filmed.source,
            fps=_rate(part.sampled),
            scores=part.scores,
        )
        for track, own in zip(filmed.tracks, parts, strict=True)
        for part in own
    ]
    if not clips:
        return []
    result = model.lift(
        ClipSet.build(clips, model.skeleton),
        hypotheses=options.hypotheses,
        aggregation=options.aggregation,
        seed=options.seed,
        focal=2 * focal / filmed.image_size[0],
    )
    ends = np.cumsum([len(clip.keypoints) for clip in clips])
    return [result.rows(slice(end - len(clip.keypoints), end)) for clip, end in zip(clips, ends, strict=True)]


def _rate(times: np.ndarray) -> float:
    return 1 / float(np.median(np.diff(times))) if len(times) > 1 else TRAINED_FPS


def _assemble(
    track: Track, filmed: FilmedPeople, parts: list[_Part], results: list[Result], options: LiftOptions, focal: float,
    skeleton: Skeleton,
) -> LiftedPerson:  # fmt: skip
    """One person: what was lifted, at the times of the track, at one size, with a root."""

    def read(name: str) -> np.ndarray:
        return np.concatenate(
            [_interpolate(getattr(result, name), part) for part, result in zip(parts, results, strict=True)]
        )

    hypotheses, poses, spread = read("hypotheses"), read("poses"), read("spread")
    regions = [None if results[0].radius_90 is None else read(name) for name in ("radius_50", "radius_90")]
    lengths = _both_sides(bone_lengths(hypotheses, skeleton), skeleton)
    scale = 1.0 if options.height is None else options.height / standing_height(lengths, skeleton)
    poses, hypotheses = scale * hold_bone_lengths(poses, lengths, skeleton), scale * hypotheses
    keypoints = convert_layout(np.asarray(track.keypoints, np.float64), track.skeleton, skeleton)
    scores = convert_scores(np.asarray(track.scores, np.float32), track.skeleton, skeleton)
    scores = np.where(scores < MIN_SCORE, 0, scores)
    times = np.asarray(filmed.times, np.float64)[track.frames]
    known = options.height is not None
    root = solve_roots(poses, hypotheses, keypoints, scores, filmed.image_size, focal, known)
    spread, (near, far) = scale * spread, (None if one is None else scale * one for one in regions)
    root, poses, spread = _smooth(root, poses, spread, parts, options.smooth)
    poses, hypotheses, spread = (np.asarray(one, np.float32) for one in (poses, hypotheses, spread))
    frames, position, std = np.asarray(track.frames), *(np.asarray(one, np.float32) for one in root)
    return LiftedPerson(
        track.name, frames, times, skeleton, keypoints, scores > 0, poses, hypotheses, spread, near, far, position, std
    )


def _interpolate(values: np.ndarray, part: _Part) -> np.ndarray:
    """Values `[M, ...]` of what was lifted at the times of the track's rows, `[T, ...]`."""
    if len(part.sampled) == len(part.times) and np.array_equal(part.sampled, part.times):
        return values
    place = np.clip((part.times - part.sampled[0]) * TRAINED_FPS, 0, len(part.sampled) - 1)
    before = np.minimum(place.astype(int), max(0, len(part.sampled) - 2))
    after = np.minimum(before + 1, len(part.sampled) - 1)
    share = (place - before).reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    return values[before] + share * (values[after] - values[before])


def _both_sides(lengths: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Bone lengths with the mean of left and right on both sides."""
    place = {child: index for index, (child, _) in enumerate(skeleton.bones)}
    partner = [place.get(skeleton.flip_order[child], index) for index, (child, _) in enumerate(skeleton.bones)]
    return (lengths + lengths[partner]) / 2


def _smooth(
    root: Root, poses: np.ndarray, spread: np.ndarray, parts: list[_Part], smooth: Smoothing
) -> tuple[Root, np.ndarray, np.ndarray]:
    if smooth == "none":
        return root, poses, spread
    roots = [smooth_path(root.position[part.rows], root.std[part.rows], part.times) for part in parts]
    root = Root(*(np.concatenate(arrays) for arrays in zip(*roots, strict=True)))
    if smooth == "all":
        std = np.repeat(spread[..., None], 3, axis=-1)
        held = [smooth_path(poses[part.rows], std[part.rows], part.times) for part in parts]
        poses = np.concatenate([one.position for one in held])
    return root, poses, spread


def parse_up(text: str) -> np.ndarray:
    """The direction of three numbers with commas, `[3]`, of length 1. Raises UserError for anything else."""
    try:
        up = np.array([float(word) for word in text.split(",")])
    except ValueError:
        up = np.zeros(0)
    if up.shape != (3,) or not np.isfinite(up).all() or not np.linalg.norm(up) > 0:
        raise UserError(f"up: expected {', '.join(UPS)} or three numbers with commas, found {text!r}")
    up = up / np.linalg.norm(up)
    if abs(up[0]) > 0.99:
        raise UserError(f"up: expected a camera that is not rolled by 90 degrees, found {text!r}")
    return up


def _find_up(people: list[LiftedPerson], up: str) -> np.ndarray:
    if up == "person" and people:
        return find_up(np.concatenate([person.poses for person in people]), people[0].skeleton)
    return np.array([0.0, -1.0, 0.0]) if up in UPS else parse_up(up)


def _floor(people: list[LiftedPerson], world: np.ndarray) -> float:
    """The floor under the lowest ankles of anybody, m along the world's z axis; 1.6 m under the camera with nobody."""
    heights = [
        find_floor(((person.poses + person.root[:, None]) @ world[2])[:, _ankles(person.skeleton)]) for person in people
    ]
    return min(heights, default=-1.6)


def _ankles(skeleton: Skeleton) -> list[int]:
    return [joint for joint, name in enumerate(skeleton.joints) if name.endswith("ankle")]
