"""People in the frames of a detector become people in time: identities, clips, gaps.

Who is who is what the tool's own tracking says. Detections without an identity are followed by the overlap of their
boxes: in every frame the pairs of a person and a detection that overlap most are joined first, those without overlap if
their middles are closer than half their size. Somebody who was not seen for `PATIENCE` frames is somebody else after.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.detections import Detections
from diffpose_jax.formats.image_sizes import check_image_size, choose_image_size
from diffpose_jax.formats.keypoint_files import DEFAULT_FPS, MIN_SCORE, KeypointClip

PATIENCE = 15  # frames
MAX_PEOPLE = 500  # in a frame
# A person whom the tool follows through a longer absence comes back in another clip, so that a clip is not mostly gaps.
LONGEST_GAP = 100  # frames
_SPARSE = 8  # times as many frames as detections: then every absence of as many frames ends a clip


class Reading(NamedTuple):
    """What the caller says of a keypoint file, and what counts as seen.

    Attributes:
        layout: Name of the joint order, where the file does not say or is of another layout than its tool's.
        image_size: Width and height in pixels, where the file does not say.
        fps: Frames per second, where the file does not say.
        min_score: A joint of a lower score, or of 0, was not seen; `MIN_SCORE` if None.
        joint_names: The joints of arrays in the order of no layout, for files of this package's own form.
    """

    layout: str | None = None
    image_size: tuple[float, float] | None = None
    fps: float | None = None
    min_score: float | None = None
    joint_names: tuple[str, ...] | None = None

    @property
    def least_score(self) -> float:
        """The lowest score of a joint that was seen."""
        return MIN_SCORE if self.min_score is None else self.min_score


def make_clips(where: str, found: Detections, subject: str, reading: Reading) -> list[KeypointClip]:
    """The clips of all people that a detector found, in the order in which they appear.

    Args:
        where: What an error names.
        found: The detections.
        subject: Name of the person; of several people each has their identity added.
        reading: What the caller says.

    Raises:
        UserError: The image's size is known to nobody, or is not that of the picture; no joint was seen.
    """
    if reading.joint_names is not None:
        raise UserError(f"{where}: expected no joint_names, found some for a file that names its joints itself")
    size = choose_image_size(where, found.image_size, reading.image_size)
    fps = next((rate for rate in (found.fps, reading.fps) if rate is not None), DEFAULT_FPS)
    if not 0 < fps < np.inf:
        raise UserError(f"{where}: expected a positive fps, found {fps:g}")
    keypoints = found.keypoints * size if found.normalised else found.keypoints
    scores = np.ones(keypoints.shape[:2]) if found.scores is None else np.nan_to_num(found.scores)
    seen = np.isfinite(keypoints).all(axis=-1) & (scores >= reading.least_score) & (scores > 0)
    if not seen.any():
        raise UserError(
            f"{where}: expected joints that were seen (finite, score of at least {reading.least_score:g}), found none "
            f"of a person, scores of {scores.max():.3g} at most"
        )
    check_image_size(where, size, keypoints[seen])
    keypoints, scores = np.where(seen[..., None], keypoints, 0.0), np.where(seen, scores, 0.0)
    people = _gather(where, found, keypoints, scores)
    # Where the tool gives no scores and nothing is missing, none are known.
    plain = found.scores is None and bool(seen.all())
    clips = []
    for name, rows in people.items():
        for piece in _split(found.frames[rows]):
            own = rows[piece]
            clip = _fill(found, keypoints[own], scores[own], found.frames[own], plain)
            who = subject if len(people) == 1 else f"{subject}-{name}"
            clips.append(clip._replace(image_size=size, fps=float(fps), subject=who))
    return clips


def _gather(where: str, found: Detections, keypoints: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each person by name, one row a frame, frames ascending; without rows that show nothing."""
    best = scores.sum(axis=1)
    order = [int(row) for row in np.argsort(found.frames, kind="stable") if best[row] > 0]
    names: list[str | None] = list(found.identities)
    lost = np.array([row for row in order if names[row] is None], np.int64)
    word = "untracked " if len(lost) < len(order) else ""
    boxes = _find_boxes(keypoints[lost], scores[lost] > 0)
    for row, track in zip(lost, _follow(where, found.frames[lost], boxes), strict=True):
        names[row] = f"{word}{track}"
    people: dict[str, list[int]] = {}
    for row in order:
        rows = people.setdefault(str(names[row]), [])
        if not rows or found.frames[rows[-1]] != found.frames[row]:
            rows.append(row)
        elif best[row] > best[rows[-1]]:  # the same person twice in a frame
            rows[-1] = row
    return {name: np.array(rows) for name, rows in people.items()}


def _find_boxes(keypoints: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The boxes `[K, 4]` (x0, y0, x1, y1) of what was seen of people `[K, J, 2]`."""
    low = np.where(seen[..., None], keypoints, np.inf).min(axis=1, initial=np.inf)
    high = np.where(seen[..., None], keypoints, -np.inf).max(axis=1, initial=-np.inf)
    return np.concatenate([low, high], axis=-1)


def _follow(where: str, frames: np.ndarray, boxes: np.ndarray) -> list[int]:
    """The index of a person for each of K boxes `[K, 4]` in ascending frames `[K]`."""
    tracks: list[int] = []
    last: dict[int, tuple[int, np.ndarray]] = {}  # frame and box of everybody still followed
    started = 0
    for group in np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames)) + 1) if len(frames) else []:
        frame, here = int(frames[group[0]]), boxes[group]
        if len(group) > MAX_PEOPLE:
            raise UserError(f"{where}: expected at most {MAX_PEOPLE} people in frame {frame}, found {len(group)}")
        last = {track: state for track, state in last.items() if frame - state[0] <= PATIENCE}
        known = list(last)
        joined: dict[int, int] = {}
        if known:
            affinity = _measure_affinity(np.stack([last[track][1] for track in known]), here)
            for flat in np.argsort(-affinity, axis=None, kind="stable"):
                row, column = divmod(int(flat), len(group))
                if affinity[row, column] <= 0 or len(joined) == min(affinity.shape):
                    break
                if column not in joined and known[row] not in joined.values():
                    joined[column] = known[row]
        for column in range(len(group)):
            if column not in joined:
                joined[column], started = started, started + 1
            tracks.append(joined[column])
            last[joined[column]] = frame, here[column]
    return tracks


def _measure_affinity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How well boxes `[N, 4]` and `[M, 4]` fit, `[N, M]`: intersection over union, or below 0.1 by their distance."""
    a, b = first[:, None], second[None]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    shared, areas = sides.prod(axis=-1), [np.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (a, b)]
    overlap = shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)
    size = np.maximum(*((x[..., 2:] - x[..., :2]).max(axis=-1) for x in (a, b)))
    apart = np.linalg.norm(a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:], axis=-1) / 2
    return np.where(overlap >= 0.1, overlap, 0.1 * (1 - apart / np.maximum(0.5 * size, 1e-9)))


def _split(frames: np.ndarray) -> list[np.ndarray]:
    """The rows of each clip of a person in ascending frames `[K]`: long absences end one."""
    gaps = np.diff(frames)
    total = int(np.minimum(gaps, LONGEST_GAP).sum())
    longest = LONGEST_GAP if total <= _SPARSE * len(frames) + 1000 else _SPARSE
    return np.split(np.arange(len(frames)), np.flatnonzero(gaps > longest) + 1)


def _fill(
    found: Detections, keypoints: np.ndarray, scores: np.ndarray, frames: np.ndarray, plain: bool
) -> KeypointClip:
    """A clip of all frames from a person's first to their last; in those that lack them no joint was seen."""
    first, count = int(frames[0]), int(frames[-1] - frames[0]) + 1
    whole = np.zeros((count, *keypoints.shape[1:])), np.zeros((count, *scores.shape[1:]))
    whole[0][frames - first], whole[1][frames - first] = keypoints, scores
    known = None if plain and count == len(frames) else whole[1]
    return KeypointClip(whole[0], known, np.zeros(2), found.skeleton, DEFAULT_FPS, "", "keypoints", first)
