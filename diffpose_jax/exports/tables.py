"""People of a video as a table (.csv) and as a stream of frames (.json); world frame, metres, z up, floor at 0."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from diffpose_jax.exports.frame_lists import round_numbers, write_frame_lists
from diffpose_jax.people import LiftedPerson, LiftedVideo

COLUMNS = ("frame", "time", "person", "joint", "x", "y", "z", "std", "radius_50", "radius_90", "seen", "u", "v")
JSON_FORMAT = "diffpose_jax people 1"


def write_csv(stream: TextIO, video: LiftedVideo) -> None:
    """Writes one row per person, frame and joint: seconds, metres and, in `u` and `v`, pixels; empty: not known."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for person in video.people:
        positions = video.in_world(person)
        for index, (frame, time) in enumerate(zip(person.frames, person.times, strict=True)):
            for joint, name in enumerate(person.skeleton.joints):
                writer.writerow([
                    int(frame), f"{time:.6f}", person.name, name,
                    *(f"{value:.5f}" for value in positions[index, joint]),
                    f"{person.spread[index, joint]:.5f}",
                    _number(person.radius_50, index, joint), _number(person.radius_90, index, joint),
                    int(person.seen[index, joint]),
                    *(f"{value:.2f}" for value in person.keypoints[index, joint]),
                ])  # fmt: skip


def _number(radius: np.ndarray | None, frame: int, joint: int) -> str:
    return "" if radius is None else f"{radius[frame, joint]:.5f}"


def count_json_values(video: LiftedVideo) -> int:
    """About how many numbers the JSON file of a video holds."""
    return sum(person.hypotheses.size + 4 * person.poses.size for person in video.people)


def write_json(stream: TextIO, video: LiftedVideo) -> None:
    """Writes everything, frame by frame."""
    header: dict[str, Any] = {
        "format": JSON_FORMAT,
        "source": video.source,
        "image_size": [int(size) for size in video.image_size],
        "focal": float(video.focal),
        "world": round_numbers(video.world, 8),
        "floor": round(float(video.floor), 5),
        "units": {"positions": "metres", "std": "metres", "times": "seconds", "keypoints": "pixels"},
        "frame_of_positions": "world: x level, z up, the floor at z = 0; `world` rotates the camera's axes to it",
        "settings": video.settings,
        "times": round_numbers(video.times, 6),
    }
    write_frame_lists(stream, header, "people", ((_describe(one), _frames(video, one)) for one in video.people))


def _describe(person: LiftedPerson) -> dict[str, Any]:
    skeleton = person.skeleton
    return {"name": person.name, "layout": skeleton.name, "joints": skeleton.joints, "parents": skeleton.parents}


def _frames(video: LiftedVideo, person: LiftedPerson) -> Iterator[dict[str, Any]]:
    return (_frame(video, _take(person, index)) for index in range(len(person.frames)))


def _take(person: LiftedPerson, index: int) -> LiftedPerson:
    """One frame of a person."""
    parts: dict[str, Any] = {
        name: value[index : index + 1] for name, value in person._asdict().items() if isinstance(value, np.ndarray)
    }
    return person._replace(**parts)


def _frame(video: LiftedVideo, person: LiftedPerson) -> dict[str, Any]:
    """What the JSON file says of one frame of a person."""
    found: dict[str, Any] = {
        "frame": int(person.frames[0]),
        "time": round(float(person.times[0]), 6),
        "positions": round_numbers(video.in_world(person)[0], 4),
        "std": round_numbers(person.spread[0], 4),
        "seen": person.seen[0].tolist(),
        "keypoints": round_numbers(person.keypoints[0], 2),
        "root_std": round_numbers(person.root_std[0], 4),
        "hypotheses": round_numbers(video.in_world(person, hypotheses=True)[0], 4),
    }
    for name, radius in (("radius_50", person.radius_50), ("radius_90", person.radius_90)):
        if radius is not None:
            found[name] = round_numbers(radius[0], 4)
    return found
