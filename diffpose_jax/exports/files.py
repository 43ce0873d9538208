"""All files of a lifted video: `save_exports`.

    | format | file | frame |
    | bvh | `poses.bvh` of each person | metres, y up |
    | trc | `poses.trc` of each person | metres, y up |
    | mot | `angles.mot` of each person | degrees |
    | csv | `poses.csv` | metres, z up |
    | npz | `poses.npz` | metres, camera frame, and world, z up |
    | json | `poses.json` | metres, z up |
    | c3d | `poses.c3d` of each person | millimetres, z up |

Of several people, each has a file with their name in it, such as `poses_person_0.bvh`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.exports.angles import summarise_angles
from diffpose_jax.exports.arrays import write_arrays
from diffpose_jax.exports.bvh import write_bvh
from diffpose_jax.exports.c3d import write_c3d
from diffpose_jax.exports.frame_lists import MAX_JSON_VALUES
from diffpose_jax.exports.opensim import write_mot, write_trc
from diffpose_jax.exports.rig import fit_rig, measure_lengths
from diffpose_jax.exports.tables import count_json_values, write_csv, write_json
from diffpose_jax.exports.timing import lay_out_frames
from diffpose_jax.people import LiftedPerson, LiftedVideo
from diffpose_jax.skeleton import H36M_17, convert_layout
from diffpose_jax.whole_files import write_whole

FORMATS = ("bvh", "trc", "mot", "csv", "npz", "json", "c3d")


def save_exports(
    video: LiftedVideo, directory: str | os.PathLike, formats: Collection[str] | None = None
) -> list[Path]:
    """Writes the files that the module's docstring lists, each complete or not at all.

    Args:
        video: The people.
        directory: Where; it is made where there is none.
        formats: Some of `FORMATS`; None: all but C3D, and JSON only up to `MAX_JSON_VALUES` numbers.

    Returns:
        The paths, in the order of `FORMATS`.

    Raises:
        UserError: An unknown format, a directory that cannot be written, a joint layout that has no map to Human3.6M's
            17 joints (BVH, TRC, MOT, C3D), or a library that is not installed (C3D).
    """
    if formats is None:
        formats = [name for name in FORMATS if name != "c3d"]
        if count_json_values(video) > MAX_JSON_VALUES:
            formats.remove("json")
    check_formats(formats)
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: expected a directory that can be written, found {error.strerror}") from error
    paths = []
    for name in FORMATS:
        if name in formats:
            paths += _WRITERS[name](video, directory)
    return paths


def check_formats(formats: Collection[str], where: str = "formats") -> None:
    """Raises UserError, which begins with `where`, if any of the formats is unknown."""
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UserError(f"{where}: expected some of {', '.join(FORMATS)}, found '{unknown[0]}'")


def _save_whole(
    video: LiftedVideo, directory: Path, name: str, write: Callable[[TextIO, LiftedVideo], None]
) -> list[Path]:
    path = directory / name
    with write_whole(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        write(stream, video)
    return [path]


def _save_arrays(video: LiftedVideo, directory: Path) -> list[Path]:
    path = directory / "poses.npz"
    with write_whole(path) as part, part.open("wb") as stream:
        write_arrays(stream, video)
    return [path]


def _save_each(
    video: LiftedVideo, directory: Path, name: str, write: Callable[[Path, LiftedVideo, LiftedPerson], None]
) -> list[Path]:
    """A file of each person."""
    paths = []
    for number, person in enumerate(video.people):
        path = directory / name
        if len(video.people) > 1:
            path = directory / f"{path.stem}_{_file_word(video, number)}{path.suffix}"
        with write_whole(path) as part:
            write(part, video, person)
        paths.append(path)
    return paths


def _file_word(video: LiftedVideo, number: int) -> str:
    """A person's name as part of a file's name; with their number where two names would give the same."""
    words = [re.sub(r"\W+", "_", person.name).strip("_")[:40] for person in video.people]
    word = words[number]
    return word if word and words.count(word) == 1 else f"{word or 'person'}_{number}"


def _find_positions(video: LiftedVideo, person: LiftedPerson) -> np.ndarray:
    """The person in the world as Human3.6M's 17 joints, `[T, 17, 3]` m, z up."""
    return convert_layout(np.asarray(video.in_world(person), np.float64), person.skeleton, H36M_17)


def turn_y_up(positions: np.ndarray) -> np.ndarray:
    """Positions `[..., 3]` with z up in axes with y up: (x, y, z) -> (x, z, -y)."""
    # A quarter turn about x, which keeps left and right; exchanging y and z alone would be a mirror image.
    return np.stack([positions[..., 0], positions[..., 2], -positions[..., 1]], axis=-1)


def _write_bvh(path: Path, video: LiftedVideo, person: LiftedPerson) -> None:
    timeline = lay_out_frames(video, person)
    lengths = measure_lengths(convert_layout(person.hypotheses, person.skeleton, H36M_17))
    rig = fit_rig(timeline.sample(turn_y_up(_find_positions(video, person))), lengths)
    with path.open("w", encoding="utf-8") as stream:
        write_bvh(stream, rig, timeline.frame_time)


def _write_trc(path: Path, video: LiftedVideo, person: LiftedPerson) -> None:
    timeline = lay_out_frames(video, person)
    positions = timeline.sample(turn_y_up(_find_positions(video, person)))
    with path.open("w", encoding="utf-8") as stream:
        write_trc(stream, "poses.trc", positions, timeline.times, timeline.frame_time)


def _write_mot(path: Path, video: LiftedVideo, person: LiftedPerson) -> None:
    timeline = lay_out_frames(video, person)
    # Where frames are missing positions are interpolated, not angles, which may be apart by a whole turn.
    drawn = timeline.sample(person.hypotheses)
    turn = np.asarray(video.world, np.float64).T

    def read(frames: slice) -> np.ndarray:
        return convert_layout(drawn[frames].astype(np.float64) @ turn, person.skeleton, H36M_17)

    mean, std = summarise_angles(read, len(drawn))
    with path.open("w", encoding="utf-8") as stream:
        write_mot(stream, timeline.times, mean, std)


def _write_c3d(path: Path, video: LiftedVideo, person: LiftedPerson) -> None:
    timeline = lay_out_frames(video, person)
    if person.skeleton != H36M_17:
        raise UserError(f"poses.c3d: expected joints of {H36M_17.name}, found {person.skeleton.name}")
    positions = timeline.sample(_find_positions(video, person))
    write_c3d(path, positions, timeline.sample(person.spread), timeline.frame_time)


_WRITERS: dict[str, Callable[[LiftedVideo, Path], list[Path]]] = {
    "bvh": partial(_save_each, name="poses.bvh", write=_write_bvh),
    "trc": partial(_save_each, name="poses.trc", write=_write_trc),
    "mot": partial(_save_each, name="angles.mot", write=_write_mot),
    "csv": partial(_save_whole, name="poses.csv", write=write_csv),
    "npz": _save_arrays,
    "json": partial(_save_whole, name="poses.json", write=write_json),
    "c3d": partial(_save_each, name="poses.c3d", write=_write_c3d),
}
