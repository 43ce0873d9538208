"""All people of a video by BlazePose: each is followed from frame to frame, and new ones are looked for at intervals.

The landmark network says where the person it reads will be in the next frame, so that the detector is needed for
people who are not followed yet. It reads 224 x 224 pixels, in which a person of a third of the picture's height is
lost: it is given the whole picture and overlapping squares of it, one and three quarters of its shorter side long. All
of them are searched in the first frame; afterwards the whole picture and a few squares in turn, every quarter of a
second, and the surroundings of whoever was lost.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from diffpose_jax.video.frames import Frame
from diffpose_jax.video.networks import LANDMARKS, MIN_SCORE, BlazePose, Detection, Landmarks
from diffpose_jax.video.regions import Region
from diffpose_jax.video.tracking import Body, Tracker, distinct, is_part

INTERVAL = 0.25  # seconds between two searches
URGENT_INTERVAL = 0.1  # the same while somebody is lost, or nobody is there
TILE_SHARES = (1.0, 0.75)  # sides of the squares that are searched, as shares of the picture's shorter side
_TILES_AT_ONCE = 3
# Regions of the same person have centres, the middles of the hips, that are nearer than this share of their sides:
# about 0.3 m, for a side is some 2.3 m long.
_SAME_REGION = 0.12
_SMALLEST = 16  # pixels: smaller parts of the picture are not searched
_SURROUNDINGS = 1.5  # side of the square around a lost person over that of the region

Box = tuple[int, int, int, int]


class Candidate(NamedTuple):
    """A body in a frame, and the landmarks it was made of, with their region in pixels of the original picture."""

    body: Body
    landmarks: Landmarks


class BlazePoseSearch:
    """Finds the bodies in one frame after the other.

    Args:
        threads: Threads for each network.

    Raises:
        UserError: LiteRT is not installed, or a network is damaged.
    """

    def __init__(self, threads: int = 1):
        self._networks = BlazePose(threads)
        self._regions: dict[int, Region] = {}  # where each person will be, by identity
        self._last_search: float | None = None
        self._last_rescue: float | None = None
        self._turn = 0  # the tile to search next

    def search(self, frame: Frame, tracker: Tracker) -> list[Candidate]:
        """Find the bodies in a frame; no two of the same person.

        Args:
            frame: The frame.
            tracker: Who was there before this frame.
        """
        image = Image.fromarray(frame.image)
        candidates, missing = [], {person.identity for person in tracker.people}
        for person in tracker.followed(frame.time):
            region = self._regions[person.identity]
            moved = region._replace(centre=region.centre + person.expected_shift(frame.time))
            if (found := self._read(image, frame.scale, moved)) is not None:
                candidates.append(found)
                missing.remove(person.identity)
        for detection in self._detect(image, frame, self._places(image.size, frame, missing, bool(candidates))):
            candidates += self._read_new(image, frame.scale, detection.region, candidates)
        return [candidates[index] for index in distinct([candidate.body for candidate in candidates])]

    def follow(self, identities: list[int], candidates: list[Candidate]) -> None:
        """Remember where the people found will be: `identities` are those of the candidates."""
        for identity, candidate in zip(identities, candidates, strict=True):
            self._regions[identity] = candidate.landmarks.next_region

    def _places(self, size: tuple[int, int], frame: Frame, missing: set[int], anybody: bool) -> list[Box]:
        """Which parts of a picture of a size to search in this frame.

        Args:
            size: Width and height of the frame's image.
            frame: The frame.
            missing: Identities of those who were there a while ago and are not now.
            anybody: Whether somebody was followed to this frame.
        """
        squares = tiles(size)
        count = len(squares) if self._last_search is None else min(_TILES_AT_ONCE, len(squares))
        places: list[Box] = []
        if _is_due(frame.time, self._last_search, INTERVAL if anybody else URGENT_INTERVAL):
            places = [(0, 0, *size), *(squares[(self._turn + step) % len(squares)] for step in range(count))]
            self._turn = (self._turn + count) % len(squares)
            self._last_search = frame.time
        if missing and _is_due(frame.time, self._last_rescue, URGENT_INTERVAL):
            around = (self._surroundings(identity, size, frame.scale) for identity in sorted(missing))
            places += [box for box in around if box is not None]
            self._last_rescue = frame.time
        return places

    def _detect(self, image: Image.Image, frame: Frame, places: list[Box]) -> list[Detection]:
        """The people in parts of a picture, best first, with regions in pixels of the original picture."""
        found = [detection for box in places for detection in self._networks.detect(image, box)]
        detections: list[Detection] = []
        for detection in sorted(found, key=lambda each: -each.score):
            original = detection._replace(region=detection.region.scaled(frame.scale))
            if not any(_alike(original.region, other.region) for other in detections):
                detections.append(original)
        return detections

    def _surroundings(self, identity: int, size: tuple[int, int], scale: float) -> Box | None:
        """A square around the place where a person was last; None where it lies outside the picture."""
        region = self._regions[identity].scaled(1 / scale)
        half = region.side * _SURROUNDINGS / 2
        low = np.clip(region.centre - half, 0, size).round().astype(int)
        high = np.clip(region.centre + half, 0, size).round().astype(int)
        if np.any(high - low < _SMALLEST):
            return None
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def _read(self, image: Image.Image, scale: float, region: Region) -> Candidate | None:
        """The body in a region of the original picture; None where the network sees none."""
        landmarks = self._networks.read_landmarks(image, region.scaled(1 / scale))
        if landmarks.score < MIN_SCORE:
            return None
        landmarks = landmarks._replace(region=landmarks.region.scaled(scale))
        keypoints = landmarks.region.to_picture(landmarks.points[:LANDMARKS])
        scores = (landmarks.visibility * landmarks.presence)[:LANDMARKS]
        return Candidate(Body(keypoints, scores), landmarks)

    def _read_new(self, image: Image.Image, scale: float, region: Region, known: list[Candidate]) -> list[Candidate]:
        """The body in the region of a detection, unless it is one of those known or a part of it.

        It is read twice, the second time in the region that the first reading gives.
        """
        for _ in range(2):
            if any(_alike(region, each.landmarks.next_region) for each in known):
                return []
            found = self._read(image, scale, region)
            if found is None:
                return []
            region, body = found.landmarks.next_region, found.body
        same = any(_alike(region, each.landmarks.next_region) or is_part(body, each.body) for each in known)
        return [] if found is None or same else [found]


def tiles(size: tuple[int, int]) -> list[Box]:
    """Overlapping squares of a picture: left, top, right, bottom in pixels.

    Neighbours share at least half of their side, so that a person half as large as a square is within one of them.
    """
    boxes = []
    for share in TILE_SHARES:
        side = max(1, round(min(size) * share))
        lefts, tops = (_steps(length, side) for length in size)
        boxes += [(left, top, left + side, top + side) for top in tops for left in lefts]
    return boxes


def _steps(length: int, side: int) -> list[int]:
    """Where to begin pieces of a side so that they cover a length and overlap by half."""
    count = int(np.ceil((length - side) / (side / 2))) + 1
    return [int(begin) for begin in np.linspace(0, length - side, count).round()]


def _is_due(time: float, last: float | None, interval: float) -> bool:
    """Whether something that was done at a time is to be done again."""
    return last is None or time - last >= interval - 1e-6


def _alike(first: Region, second: Region) -> bool:
    """Whether two regions show the same person."""
    return bool(np.linalg.norm(first.centre - second.centre) < _SAME_REGION * min(first.side, second.side))
