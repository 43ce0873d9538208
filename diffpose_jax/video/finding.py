"""From a video to its people: `find_people`, and `PeopleFinder` for frames that come one by one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from absl import logging

from diffpose_jax.errors import UserError
from diffpose_jax.people import FilmedPeople, Track
from diffpose_jax.skeleton import BLAZEPOSE_33, Skeleton
from diffpose_jax.video.blazepose import BlazePoseSearch
from diffpose_jax.video.detectors import Detector, detect_bodies, detector_layout, get_detector
from diffpose_jax.video.frames import Frame, open_frames
from diffpose_jax.video.joints import HeatmapMixtures
from diffpose_jax.video.sides import settle_sides
from diffpose_jax.video.tracking import Body, Tracker

SHORTEST = 0.2  # seconds: who is found in fewer frames is taken for a mistake of the detector

People = Literal["all", "largest"] | str | int


def find_people(
    source: str | os.PathLike,
    people: People = "all",
    detector: str | Detector | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    *,
    heatmaps: bool = True,
    threads: int = 1,
) -> FilmedPeople:
    """Find the people in a video, follow them, and give each joint's keypoints.

    Args:
        source: A video, an image, a folder of images, or a camera (`camera:0`).
        people: 'all'; 'largest', the one who fills most of the picture over the whole video; or the identity of one,
            such as 'person 1' or 1. Identities count those who were found, in the order of their first frame.
        detector: Another detector than BlazePose, or its import path.
        progress: Called with the number of frames done, and how many there are, or None where the file does not say.
        heatmaps: Whether to fit mixtures to BlazePose's heatmaps.
        threads: Threads for each of BlazePose's networks.

    Returns:
        The people. No tracks where nobody was found.

    Raises:
        UserError: The source cannot be read, a package is missing, or there is no person of that identity.
    """
    chosen = get_detector(detector) if isinstance(detector, str) else detector
    frames = open_frames(source)
    finder = PeopleFinder(frames.image_size, chosen, heatmaps=heatmaps, threads=threads)
    for done, frame in enumerate(frames, 1):
        finder.update(frame)
        if progress is not None:
            progress(done, frames.expected)
    if frames.damaged:
        logging.warning("%s: %d damaged parts could not be decoded and were left out", frames.source, frames.damaged)
    tracks = choose(finder.finish(), people)
    return FilmedPeople(frames.source, frames.image_size, np.array(finder.times), tracks, frames.focal)


class PeopleFinder:
    """The people of a video whose frames come one by one, as from a camera.

    Args:
        image_size: Width and height of the upright picture in pixels.
        detector: Another detector than BlazePose.
        heatmaps: Whether to fit mixtures to BlazePose's heatmaps.
        threads: Threads for each of BlazePose's networks.
        remember: Whether to keep what was found, which grows with every frame, for `finish`.

    Attributes:
        times: Times of the frames so far, in seconds; empty where nothing is kept.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        detector: Detector | None = None,
        *,
        heatmaps: bool = True,
        threads: int = 1,
        remember: bool = True,
    ):
        self.times: list[float] = []
        self.skeleton = BLAZEPOSE_33 if detector is None else detector_layout(detector)
        self._image_size = image_size
        self._detector = detector
        self._search = BlazePoseSearch(threads) if detector is None else None
        self._heatmaps = heatmaps and detector is None
        self._remember = remember
        self._tracker = Tracker()
        self._records: dict[int, _Record] = {}

    def update(self, frame: Frame) -> dict[int, Body]:
        """Find the people in the next frame: bodies by identity, in pixels of the original picture."""
        if self._search is None:
            assert self._detector is not None
            bodies = detect_bodies(self._detector, frame)
            identities = self._tracker.update(bodies, frame.time)
        else:
            candidates = self._search.search(frame, self._tracker)
            bodies = [candidate.body for candidate in candidates]
            identities = self._tracker.update(bodies, frame.time)
            self._search.follow(identities, candidates)
        found = dict(zip(identities, bodies, strict=True))
        if not self._remember:
            return found
        self.times.append(frame.time)
        for index, identity in enumerate(identities):
            record = self._records.setdefault(identity, _Record())
            record.add(frame.index, bodies[index])
            if self._heatmaps:
                record.mixtures = record.mixtures or HeatmapMixtures(self._image_size)
                record.mixtures.add(candidates[index].landmarks)
        return found

    def finish(self) -> tuple[Track, ...]:
        """The tracks of all who were found for long enough, in the order of their first frame.

        Left and right are settled over each track (`sides`).
        """
        step = float(np.median(np.diff(self.times))) if len(self.times) > 1 else SHORTEST
        fewest = min(len(self.times), max(1, round(SHORTEST / max(step, 1e-6))))
        lasting = [record for _, record in sorted(self._records.items()) if len(record.frames) >= fewest]
        times = np.array(self.times)
        tracks = (record.track(f"person {number}", self.skeleton) for number, record in enumerate(lasting))
        return tuple(settle_sides(track, times) for track in tracks)


@dataclass
class _Record:
    """What was found of one person so far."""

    frames: list[int] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    mixtures: HeatmapMixtures | None = None

    def add(self, index: int, body: Body) -> None:
        self.frames.append(index)
        self.keypoints.append(np.asarray(body.keypoints, np.float32))
        self.scores.append(np.asarray(body.scores, np.float32))

    def track(self, name: str, skeleton: Skeleton) -> Track:
        """All of it as arrays."""
        keypoints, scores = np.array(self.keypoints), np.array(self.scores)
        mixture = None if self.mixtures is None else self.mixtures.finish()
        return Track(name, np.array(self.frames), keypoints, scores, skeleton, mixture)


def choose(tracks: tuple[Track, ...], people: People = "all") -> tuple[Track, ...]:
    """The tracks that a user asks for: 'all', 'largest', or an identity such as 'person 1' or 1.

    Raises `UserError` where nobody has that identity.
    """
    if people == "all" or (people == "largest" and not tracks):
        return tracks
    if people == "largest":
        return (max(tracks, key=_filled),)
    name = f"person {people}" if str(people).isdigit() else people
    found = tuple(track for track in tracks if track.name == name)
    if not found:
        known = ", ".join(track.name for track in tracks) or "nobody"
        raise UserError(f"people: expected 'all', 'largest' or one of {known}, found {people!r}")
    return found


def _filled(track: Track) -> float:
    """How much of the picture a person fills, summed over the frames: the areas of the boxes of their keypoints."""
    boxes = [Body(*pair).box for pair in zip(track.keypoints, track.scores, strict=True)]
    return float(sum(np.prod(box[2:] - box[:2]) for box in boxes))
