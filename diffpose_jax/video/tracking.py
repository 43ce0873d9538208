"""Who is who from frame to frame: bodies are assigned to people by where they are and how they moved.

Appearance plays no part. A person is expected where their last movement takes them, and a body is theirs if it overlaps
with that place. A person who was not found for a while may turn up again near to where they were lost, of about the
same size; after `MEMORY` seconds they are somebody new.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.video.networks import overlap

SEEN = 0.3  # score from which a keypoint says where a body is
MEMORY = 3.0  # seconds after which a person who was not found is forgotten
_FOLLOWED = 0.25  # seconds within which a body has to overlap with the place where a person is expected
_MIN_OVERLAP = 0.2  # of a body with that place
_SAME_DISTANCE = 0.1  # of a body's size: keypoints nearer than that are those of one person
# How far away a lost person may turn up, in body sizes: at once, more with every second (a fast run), and at most.
_REACH, _REACH_SPEED, _MAX_REACH = 0.5, 2.0, 2.5
_MAX_GROWTH = 2.0  # factor by which the box of a lost person may have changed: who crouches is half as tall
_INERTIA = 0.1  # seconds over which velocities are averaged, and seconds that a movement is expected to go on
_SIZE_INERTIA = 0.5  # seconds over which sizes are averaged
# A box that lies within another by this share, and is smaller by that factor, is a part of the same person.
_INSIDE, _SMALLER = 0.8, 0.75


class Body(NamedTuple):
    """The keypoints of one person in one frame.

    Attributes:
        keypoints: `[J, 2]` pixels.
        scores: `[J]`, 0 where a joint was not seen.
    """

    keypoints: np.ndarray
    scores: np.ndarray

    @property
    def box(self) -> np.ndarray:
        """Left, top, right, bottom `[4]` of the keypoints that were seen, or of all where fewer than three were.

        A keypoint is a pixel wide, so that no box is empty.
        """
        seen = self.scores >= SEEN
        keypoints = self.keypoints[seen] if seen.sum() >= 3 else self.keypoints[np.isfinite(self.keypoints).all(axis=1)]
        return np.concatenate([keypoints.min(axis=0) - 0.5, keypoints.max(axis=0) + 0.5])


class Person:
    """What the tracker knows of one person: the last body, when it was, and how it moved."""

    def __init__(self, identity: int, body: Body, time: float):
        self.identity, self.body, self.time = identity, body, time
        self.velocity = np.zeros(2)  # of the middle of the box, pixels per second
        self.size = _size(body.box)  # pixels, averaged

    def expected_shift(self, time: float) -> np.ndarray:
        """How far `[2]` (pixels) the person is expected to have moved since they were last found."""
        return self.velocity * min(time - self.time, _INERTIA)

    def observe(self, body: Body, time: float) -> None:
        """Take over a body that was found."""
        gap = max(time - self.time, 1e-6)
        moved = (_middle(body.box) - _middle(self.body.box)) / gap
        # Exponential average; after a long gap the old velocity counts for nothing, and the move says little.
        share = min(1.0, gap / _INERTIA)
        self.velocity = np.zeros(2) if gap > _FOLLOWED else (1 - share) * self.velocity + share * moved
        self.size += min(1.0, gap / _SIZE_INERTIA) * (_size(body.box) - self.size)
        self.body, self.time = body, time


class Tracker:
    """The people of a video so far. `update` is called with the bodies of one frame after the other."""

    def __init__(self) -> None:
        self.people: list[Person] = []  # those who are followed or remembered
        self._count = 0

    def followed(self, time: float) -> list[Person]:
        """Those who were found a moment ago."""
        return [person for person in self.people if time - person.time <= _FOLLOWED]

    def update(self, bodies: list[Body], time: float) -> list[int]:
        """Assign the bodies of a frame, no two of one person (`distinct`), to people: an identity for each.

        Args:
            bodies: Of this frame.
            time: Of this frame, in seconds; it must not fall.
        """
        self.people = [person for person in self.people if time - person.time <= MEMORY]
        identities = [-1] * len(bodies)
        for person, index in self._match(bodies, time):
            person.observe(bodies[index], time)
            identities[index] = person.identity
        # The largest comes first, so that the one in front is person 0.
        for index in sorted(range(len(bodies)), key=lambda index: -_size(bodies[index].box)):
            if identities[index] < 0:
                self.people.append(Person(self._count, bodies[index], time))
                identities[index] = self._count
                self._count += 1
        return identities

    def _match(self, bodies: list[Body], time: float) -> list[tuple[Person, int]]:
        """Pairs of people and bodies: first those who are followed, then those who were lost."""
        followed = self.followed(time)
        lost = [person for person in self.people if person not in followed]
        pairs = _best_pairs([[_follows(person, body, time) for body in bodies] for person in followed])
        matched = [(followed[row], column) for row, column in pairs]
        free = [index for index in range(len(bodies)) if index not in {index for _, index in matched}]
        # Somebody followed who has no body in this frame may have jumped farther than the overlap allows.
        taken = {person.identity for person, _ in matched}
        lost += [person for person in followed if person.identity not in taken]
        pairs = _best_pairs([[_returns(person, bodies[index], time) for index in free] for person in lost])
        return matched + [(lost[row], free[column]) for row, column in pairs]


def _follows(person: Person, body: Body, time: float) -> float:
    """How well a body fits where a person is expected: overlap of boxes and nearness of keypoints, 0 for not at all."""
    shift = person.expected_shift(time)
    share = float(overlap(person.body.box + np.tile(shift, 2), body.box))
    if share < _MIN_OVERLAP:
        return 0.0
    distance = keypoint_distance(person.body._replace(keypoints=person.body.keypoints + shift), body)
    return share + float(np.exp(-((distance / (2 * _SAME_DISTANCE)) ** 2)))


def _returns(person: Person, body: Body, time: float) -> float:
    """How plausible it is that a body is a person who was lost: 1 for the same place, 0 for out of reach."""
    before, now = person.size, _size(body.box)
    if not 1 / _MAX_GROWTH <= now / max(before, 1e-9) <= _MAX_GROWTH:
        return 0.0
    reach = min(_REACH + _REACH_SPEED * (time - person.time), _MAX_REACH) * max(before, now)
    away = np.linalg.norm(_middle(body.box) - _middle(person.body.box) - person.expected_shift(time))
    return max(0.0, 1 - float(away) / reach)


def distinct(bodies: list[Body]) -> list[int]:
    """Indices of bodies without those that have the keypoints of an earlier one."""
    kept: list[int] = []
    for index, body in enumerate(bodies):
        if all(keypoint_distance(bodies[other], body) > _SAME_DISTANCE for other in kept):
            kept.append(index)
    return kept


def is_part(body: Body, other: Body) -> bool:
    """Whether a body that nobody was followed to is only a part of another: much smaller and within its box."""
    box, around = body.box, other.box
    shared = np.clip(np.minimum(box[2:], around[2:]) - np.maximum(box[:2], around[:2]), 0, None)
    inside = np.prod(shared) / max(float(np.prod(box[2:] - box[:2])), 1e-9)
    return bool(inside > _INSIDE and _size(box) < _SMALLER * _size(around))


def keypoint_distance(first: Body, second: Body) -> float:
    """How far apart the nearest third of the keypoints is that both bodies show, as a share of the smaller one's size.

    Half a body that was found a second time, or one with left and right exchanged, has its other keypoints elsewhere;
    of two people who overlap in the picture hardly any keypoints of the same name coincide. It is inf where no
    keypoint is in both.
    """
    seen = (first.scores >= SEEN) & (second.scores >= SEEN)
    if not seen.any():
        return float("inf")
    distances = np.linalg.norm(first.keypoints[seen] - second.keypoints[seen], axis=-1)
    return float(np.quantile(distances, 1 / 3) / max(min(_size(first.box), _size(second.box)), 1e-9))


def _best_pairs(fits: list[list[float]]) -> list[tuple[int, int]]:
    """The pairs (row, column) with the greatest sum of fits, none of which is 0."""
    if not fits or not fits[0]:
        return []
    from scipy.optimize import linear_sum_assignment

    matrix = np.array(fits)
    rows, columns = linear_sum_assignment(-matrix)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if matrix[row, column] > 0]


def _middle(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _size(box: np.ndarray) -> float:
    return float(np.max(box[2:] - box[:2]))
