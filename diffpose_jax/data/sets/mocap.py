"""A folder of motion capture files (ASF/AMC, BVH) as 2D-3D pairs, filmed by Human3.6M's cameras."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffpose_jax.data.cameras import h36m_cameras
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.motion import (
    VALID_OF_CLIPS,
    Filming,
    Motion,
    film_splits,
    group_motions,
    hold_out_clips,
    split_subjects,
)
from diffpose_jax.data.sets.figures import restore_cgspeed, restore_daz, to_h36m17
from diffpose_jax.errors import UserError
from diffpose_jax.formats.articulation import Recording
from diffpose_jax.formats.asf_amc import read_amc, read_asf
from diffpose_jax.formats.bvh import read_bvh

CMU_UNIT = 0.0254 / 0.45  # metres; the length unit of CMU's files and of cgspeed's plain conversions of them
CENTIMETRE = 0.01  # metres; the length unit of most other BVH files


class FileOptions(NamedTuple):
    """What the files themselves do not say."""

    unit: float | None = None  # m, length unit of the BVH files; None: CMU's for cgspeed's plain figures, else 1 cm
    amc_fps: float = 120.0  # frame rate of the AMC files
    # Finds `subject`, and `action` if it has one, at the start of a name. Those of HDM05 begin with `HDM_`.
    name_pattern: str = r"(?:HDM_)?(?P<subject>[^_]+)"
    joint_names: Mapping[str, str] | None = None  # the figures' nodes, see `to_h36m17`; None: a known convention


def load_mocap(
    folder: str | os.PathLike,
    *,
    valid_subjects: Collection[str] | None = None,
    test_subjects: Collection[str] | None = None,
    fps: float = 50.0,
    seed: int = 0,
    cameras_per_clip: int = 4,
    files: FileOptions = FileOptions(),  # noqa: B008 (immutable)
) -> dict[str, ClipSet]:
    """Read every .amc and .bvh below a folder as 2D-3D pairs in Human3.6M's 17 joints, split by subject.

    A trial present in both formats is read from the AMC. Cameras stand as in `load_cmu`.

    Args:
        folder: Where the files are.
        valid_subjects: Subjects of the valid split; None draws them (`split_subjects`), or clips of them where there
            are fewer than three (`hold_out_clips`; the split's note says so).
        test_subjects: Subjects of the test split; None draws them.
        fps: Frames per second to interpolate to.
        seed: Seed of the split and of the cameras.
        cameras_per_clip: How many of Human3.6M's four cameras film each clip.
        files: What the files themselves do not say.

    Returns:
        `{split: ClipSet}`.

    Raises:
        UserError: For files that cannot be used, and options out of their range.
    """
    folder, pattern = Path(folder), _compile_pattern(files.name_pattern)
    for name, value in (("fps", fps), ("amc_fps", files.amc_fps), ("unit", 1.0 if files.unit is None else files.unit)):
        low, high = (0, np.inf) if name == "unit" else (0.1, 100_000)
        if not low <= value < high or not value:
            expected = "a positive number" if name == "unit" else f"{low:g} to {high:g} frames per second"
            raise UserError(f"{name}: expected {expected}, found {value}")
    motions = []
    for path in _find_files(folder):
        match = pattern.match(path.stem)
        if match is None:
            raise UserError(f"{path}: expected a file name that matches {files.name_pattern!r}")
        recording = _read(path, match["subject"], files)
        positions = to_h36m17(recording, path, fps=fps, joint_names=files.joint_names)
        action = match.groupdict().get("action") or "motion"
        motions.append(Motion(positions, str(path.relative_to(folder)), match["subject"], action, fps))
    splits = split_subjects([motion.subject for motion in motions], seed, valid_subjects, test_subjects)
    by_split = group_motions(motions, splits)
    of_clips = valid_subjects is None and not by_split["valid"]
    filmed = film_splits(
        hold_out_clips(by_split, seed) if of_clips else by_split, h36m_cameras(), Filming(seed, cameras_per_clip)
    )
    if of_clips and filmed["valid"].num_clips:
        filmed["valid"] = dataclasses.replace(filmed["valid"], note=VALID_OF_CLIPS)
    return filmed


def _find_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of .amc and .bvh files, found no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".amc", ".bvh"))
    if not files:
        raise UserError(f"{folder}: expected .amc or .bvh files, found none")
    both = {path.with_suffix("") for path in files if path.suffix.lower() == ".amc"}
    return [path for path in files if path.suffix.lower() == ".amc" or path.with_suffix("") not in both]


def _read(path: Path, subject: str, files: FileOptions) -> Recording:
    if path.suffix.lower() == ".amc":
        return read_amc(path, read_asf(_find_skeleton(path, subject)), files.amc_fps)
    recording = read_bvh(path, 1.0)
    plain = {"LeftFingerBase", "Spine1", "Neck1"} <= set(recording.names)
    scale = files.unit or (CMU_UNIT if plain else CENTIMETRE)
    recording = recording._replace(offsets=recording.offsets * scale, translation=recording.translation * scale)
    if plain:
        return restore_cgspeed(recording)
    return restore_daz(recording) if {"lButtock", "leftEye", "rightEye"} <= set(recording.names) else recording


def _find_skeleton(path: Path, subject: str) -> Path:
    """The .asf of a trial: of its own name, its subject's, with which its name begins, or the only one beside it."""
    skeletons = sorted(path.parent.glob("*.[aA][sS][fF]"))
    own = [asf for asf in skeletons if asf.stem in (path.stem, subject) or path.stem.startswith(f"{asf.stem}_")]
    own = own or skeletons
    if len(own) != 1:
        raise UserError(f"{path}: expected its skeleton {subject}.asf beside it, found {len(own)} .asf files")
    return own[0]


def _compile_pattern(name_pattern: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(name_pattern)
    except re.error as error:
        raise UserError(f"name_pattern: expected a regular expression, found {name_pattern!r} ({error})") from error
    if "subject" not in pattern.groupindex:
        raise UserError(f"name_pattern: expected a group (?P<subject>...), found {name_pattern!r}")
    return pattern
