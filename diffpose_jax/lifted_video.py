"""People of a video, lifted: tracks of 2D keypoints become people in 3D, in the camera's frame and in a world.

Each uninterrupted part of a track is lifted as a clip of its own (`track_parts`), all of them in one call.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import normalise_screen
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.mixtures.packing import pack_mixture
from diffpose_jax.model import Model, Result
from diffpose_jax.people import FilmedPeople, LiftedPerson, LiftedVideo, Track
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.track_parts import TRAINED_FPS, Part, interpolate, split_track, to_layout
from diffpose_jax.world import (
    Root,
    add_height_spread,
    assume_focal,
    bone_lengths,
    find_floor,
    find_up,
    hold_bone_lengths,
    level_world,
    scale_to_height,
    smooth_path,
    solve_roots,
)

Smoothing = Literal["none", "root", "all"]
UPS = ("camera", "person")


@dataclasses.dataclass(frozen=True)
class LiftOptions:
    """How people are lifted.

    Attributes:
        hypotheses: Poses drawn for each frame.
        aggregation: How one pose is made of them.
        seed: Seed of all noise; None: that of the model.
        focal: Focal length in pixels; None: by the metadata of the file, else that of a phone's main camera.
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
        if self.focal is not None and not 0 < self.focal < np.inf:
            raise UserError(f"focal: expected a positive number of pixels, found {self.focal}")
        if self.height is not None and not 0.3 < self.height < 3:
            raise UserError(f"height: expected metres, 0.3 to 3, found {self.height}")
        if self.smooth not in get_args(Smoothing):
            raise UserError(f"smooth: expected {', '.join(get_args(Smoothing))}, found {self.smooth!r}")
        if self.up not in UPS:
            parse_up(self.up)


def lift_people(model: Model, filmed: FilmedPeople, options: LiftOptions = LiftOptions()) -> LiftedVideo:
    """Lifts all people of a video, in the frames around which a joint of the lifter's layout was seen.

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
    focal = options.focal or filmed.focal or assume_focal(size)
    skeleton, rate = model.skeleton, TRAINED_FPS if model.trained.lifter.frames > 1 else None
    parts = [split_track(track, filmed.times, skeleton, rate) for track in filmed.tracks]
    found = _lift_parts(model, filmed, parts, options, focal)
    people = []
    for track, own in zip(filmed.tracks, parts, strict=True):
        results = [found.pop(0) for _ in own]
        if own:
            people.append(_assemble(track, filmed, own, results, options, focal, skeleton))
    world = level_world(_find_up(people, options.up))
    settings = {
        **({"model": model.name} | model.settings(options.hypotheses, options.aggregation, options.seed)),
        "focal length": f"{focal:.0f} pixels, {_name_source(options, filmed)}",
        "up": options.up,
        "height": f"{options.height} m, given" if options.height else "as lifted",
        "smoothing": options.smooth,
        "parts lifted at": f"{rate:g} frames per second" if rate else "the rate of the video",
    }
    return LiftedVideo(filmed.source, size, filmed.times, focal, world, _floor(people, world), tuple(people), settings)


def _name_source(options: LiftOptions, filmed: FilmedPeople) -> str:
    if options.focal:
        return "given"
    return "by the metadata of the file" if filmed.focal else "assumed: a phone main camera"


def _lift_parts(
    model: Model, filmed: FilmedPeople, parts: list[list[Part]], options: LiftOptions, focal: float
) -> list[Result]:
    """The result of every part, in order, of one call."""
    clips = [
        _make_clip(model, filmed, track, part) for track, own in zip(filmed.tracks, parts, strict=True) for part in own
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


def _make_clip(model: Model, filmed: FilmedPeople, track: Track, part: Part) -> Clip:
    """What the model is given of a part: normalised keypoints and scores, and mixtures where it needs them."""
    points = normalise_screen(part.keypoints, np.asarray(filmed.image_size)).astype(np.float32)
    mixture = None
    if model.needs_mixtures:
        if track.mixture is None:
            raise UserError(
                f"{model.name}: expected a detector with heatmaps, found keypoints alone in {filmed.source}"
            )
        if model.trained.lifter.frames > 1:
            raise UserError(f"{model.name}: expected a lifter of single frames to give heatmaps of a video to")
        mixture = pack_mixture(Mixture(*(np.asarray(field)[part.rows] for field in track.mixture)), points)
    fps = _rate(part.sampled)
    detected = track.skeleton.marked_in_pictures
    return Clip(
        points, None, None, track.name, filmed.source, fps=fps, scores=part.scores, mixture=mixture, detected=detected
    )


def _rate(times: np.ndarray) -> float:
    return 1 / float(np.median(np.diff(times))) if len(times) > 1 else TRAINED_FPS


def _assemble(
    track: Track, filmed: FilmedPeople, parts: list[Part], results: list[Result], options: LiftOptions, focal: float,
    skeleton: Skeleton,
) -> LiftedPerson:  # fmt: skip
    """One person: what was lifted, at the times of the track, at one size, with a root."""

    def read(name: str) -> np.ndarray:
        return np.concatenate(
            [interpolate(getattr(result, name), part) for part, result in zip(parts, results, strict=True)]
        )

    hypotheses, poses, spread = read("hypotheses"), read("poses"), read("spread")
    regions = [None if results[0].radius_90 is None else read(name) for name in ("radius_50", "radius_90")]
    # Of the hypotheses: the bones of their mean are too short where they disagree.
    lengths = _both_sides(bone_lengths(hypotheses, skeleton), skeleton)
    known = options.height is not None
    scale = 1.0 if options.height is None else scale_to_height(lengths, skeleton, options.height)
    lengths, hypotheses, spread = scale * lengths, scale * hypotheses, scale * spread
    near, far = (None if one is None else scale * one for one in regions)
    poses = hold_bone_lengths(scale * poses, lengths, skeleton)
    rows = np.concatenate([part.rows for part in parts])
    frames, (keypoints, scores) = np.asarray(track.frames)[rows], (one[rows] for one in to_layout(track, skeleton))
    times = np.asarray(filmed.times, np.float64)[frames]
    root = solve_roots(poses, hypotheses, keypoints, scores, filmed.image_size, focal)
    root = root if options.smooth == "none" else _smooth(root, parts)
    # What heights leave open is the same in every frame: no smoothing makes it smaller.
    root = root if known else add_height_spread(root)
    if options.smooth == "all":
        smooth = _smooth(Root(poses, hypotheses.std(axis=1)), parts)
        poses = hold_bone_lengths(smooth.position, lengths, skeleton)
    poses, hypotheses, spread = (np.asarray(one, np.float32) for one in (poses, hypotheses, spread))
    position, std = (np.asarray(one, np.float32) for one in root)
    return LiftedPerson(
        track.name, frames, times, skeleton, keypoints, scores > 0, poses, hypotheses, spread, near, far, position, std
    )


def _both_sides(lengths: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Bone lengths with the mean of left and right on both sides."""
    place = {child: index for index, (child, _) in enumerate(skeleton.bones)}
    partner = [place.get(skeleton.flip_order[child], index) for index, (child, _) in enumerate(skeleton.bones)]
    return (lengths + lengths[partner]) / 2


def _smooth(path: Root, parts: list[Part]) -> Root:
    """Paths over the rows of all parts, each part smoothed by itself."""
    ends = np.cumsum([len(part.rows) for part in parts])
    smoothed = [
        smooth_path(path.position[end - len(part.rows) : end], path.std[end - len(part.rows) : end], part.times)
        for part, end in zip(parts, ends, strict=True)
    ]
    return Root(*(np.concatenate(arrays) for arrays in zip(*smoothed, strict=True)))


def parse_up(text: str) -> np.ndarray:
    """The direction of three numbers with commas, `[3]`, of length 1. Raises UserError for anything else."""
    try:
        up = np.array([float(word) for word in text.split(",")])
    except ValueError:
        up = np.zeros(0)
    if up.shape != (3,) or not np.isfinite(up).all() or not np.linalg.norm(up) > 0:
        raise UserError(f"up: expected {', '.join(UPS)} or three numbers with commas, found {text!r}")
    return up / np.linalg.norm(up)


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
