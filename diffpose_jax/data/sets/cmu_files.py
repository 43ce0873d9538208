"""The CMU database's own files, `subjects/16/16.asf`, `16_31.amc`, cut and moved as the clips of `cmu_h36m17.npz` are.

`cmu_clips.csv` lists those clips: trial (with a letter for its later parts), activity, first frame and frames at 50 Hz,
and the height of the floor in the file's coordinates in millimetres. A frame in which a joint moves faster than 14 m/s
or is accelerated by more than 600 m/s^2 ended a part there; parts of less than a second were left out.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffpose_jax.data.motion import Motion
from diffpose_jax.data.sets.figures import TOE_HEIGHT, pose_h36m17
from diffpose_jax.errors import UserError
from diffpose_jax.formats.asf_amc import read_amc, read_asf

FPS = 50.0
TEST_SUBJECTS = ("05", "06", "08", "09", "10", "27", "32", "135")
# The archive has the angles of these subjects on the skeleton of another.
SKELETON_OF = {"13": "14", "91": "14"}
# Recorded at 60 Hz; should a copy of the database have them at 120 Hz, as all others, they are read so.
_SLOW_SUBJECTS = ("60", "61")
_UNEVEN_SUBJECTS = ("01", "03")  # on a playground and on uneven terrain: left at the height of the file


class CmuClip(NamedTuple):
    """A clip of the archive: part of a trial, in frames of 50 Hz."""

    name: str  # '16_31', '05_05b'
    subject: str
    trial: str  # '05_05'
    activity: str
    start: int
    frames: int
    floor: float | None  # m; None where the archive has the motion on a figure that is not the subject's


def list_clips() -> list[CmuClip]:
    """The clips of the archive, by subject and trial."""
    table = resources.files("diffpose_jax.data.sets").joinpath("cmu_clips.csv").read_text(encoding="utf-8")
    return [
        CmuClip(
            row["clip"],
            row["clip"].partition("_")[0],
            row["clip"].rstrip("bcdef"),
            row["activity"],
            int(row["start"]),
            int(row["frames"]),
            int(row["floor_mm"]) / 1000 if row["floor_mm"] else None,
        )
        for row in csv.DictReader(table.splitlines())
    ]


def read_cmu_files(folder: Path) -> tuple[list[Motion], dict[str, str], list[str]]:
    """Read the archive's clips from the database's files, which may lie anywhere below a folder.

    Returns the motions (metres, world frame, z up, rounded to millimetres as the archive is), the split of every
    subject read, and the trials that are not there. Raises UserError where none is there, a skeleton is missing or a
    trial is too short.
    """
    files = {path.name.lower(): path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".asf", ".amc")}
    clips: dict[str, list[CmuClip]] = {}
    for clip in list_clips():
        clips.setdefault(clip.trial, []).append(clip)
    motions = []
    missing = [trial for trial in clips if f"{trial}.amc" not in files]
    if len(missing) == len(clips):
        raise UserError(
            f"{folder}: expected CMU's files, such as subjects/16/16.asf and 16_31.amc, found none of the archive's "
            f"{len(clips)} trials among {len(files)} .asf and .amc files"
        )
    for trial, parts in clips.items():
        if trial not in missing:
            skeleton = f"{SKELETON_OF.get(parts[0].subject, parts[0].subject)}.asf"
            if skeleton not in files:
                raise UserError(f"{files[f'{trial}.amc']}: expected its skeleton {skeleton} in {folder}, found none")
            motions += _read_trial(files[f"{trial}.amc"], files[skeleton], parts)
    subjects = dict.fromkeys(motion.subject for motion in motions)
    return motions, {name: "test" if name in TEST_SUBJECTS else "train" for name in subjects}, missing


def _read_trial(amc: Path, asf: Path, parts: Sequence[CmuClip]) -> list[Motion]:
    """The clips of one trial."""
    recording = read_amc(amc, read_asf(asf))
    end = max(clip.start + clip.frames for clip in parts)
    rates = (120.0, 60.0) if parts[0].subject in _SLOW_SUBJECTS else (120.0,)
    held = [(rate, int((len(recording.angles) - 1) / rate * FPS + 1e-6) + 1) for rate in rates]
    fitting = [rate for rate, frames in held if frames >= end]
    if not fitting:
        raise UserError(f"{amc}: expected {end / FPS:.2f} s of motion, found {held[-1][1] / FPS:.2f} s")
    pose, toes = pose_h36m17(recording._replace(frame_time=1.0 / fitting[0]), amc, fps=FPS)
    floor = toes - TOE_HEIGHT
    if parts[0].floor is not None:
        # The table has whole millimetres; what is measured here is finer where the two agree.
        rounding = 0.0 if parts[0].subject in _UNEVEN_SUBJECTS else 0.0005
        floor = float(np.clip(floor, parts[0].floor - rounding, parts[0].floor + rounding))
    motions = []
    for clip in parts:
        own = pose[clip.start : clip.start + clip.frames]
        metres = (own - [*own[0, 0, :2], floor]).astype(np.float32)
        millimetres = np.round(metres * 1000).astype(np.int16)
        positions = millimetres.astype(np.float32) * np.float32(0.001)
        motions.append(Motion(positions, clip.name, clip.subject, clip.activity, FPS))
    return motions
