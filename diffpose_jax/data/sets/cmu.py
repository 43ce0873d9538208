"""The CMU motion capture archive in the Human3.6M layout: real human motion, filmed by Human3.6M's cameras.

An archive of other motion in the same form is read too: a .npz of int16 positions `[T, 17, 3]`, one array for each
clip, z up, and a JSON text `meta` with `fps`, `scale_to_metres`, `splits` `{split: [subjects]}` under any names, and
`clips` `{array: {subject, activity, frames}}`. A folder of the database's own files gives the same clips
(`diffpose_jax.data.sets.cmu_files`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from diffpose_jax.data.cameras import h36m_cameras
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.motion import VALID_OF_CLIPS, Filming, Motion, film_splits, group_motions, hold_out_clips
from diffpose_jax.data.sets.cmu_files import read_cmu_files
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import DAMAGE, open_arrays
from diffpose_jax.skeleton import get_skeleton

# What reading a file that is no archive, or a damaged one, can raise.
# Three small train subjects that between them walk, run, jump, dance, exercise and do everyday things. They share their
# skeleton with no other subject (13, 14 and 91 do), and the large ones (01, 14, 29, 60, 61) stay for training.
VALID_SUBJECTS = ("07", "49", "127")


def load_cmu(
    path: str | os.PathLike,
    *,
    valid_subjects: Collection[str] | None = None,
    test_subjects: Collection[str] | None = None,
    seed: int = 0,
    cameras_per_clip: int = 4,
) -> dict[str, ClipSet]:
    """Read the CMU archive, one of its form, or CMU's files as 2D-3D pairs in Human3.6M's 17 joints, split by subject.

    The cameras stand at a random yaw (a function of the seed and the clip's name) around the person. The action of a
    clip is the archive's coarse activity.

    Args:
        path: The archive, cmu_h36m17.npz, or a folder with the database's .asf and .amc files.
        valid_subjects: Those of the train subjects that make the valid split. None: CMU's `VALID_SUBJECTS` where they
            are among them, otherwise no more than the archive says, or clips of a folder; none: all of them train.
        test_subjects: Subjects that make the test split; None: the archive's own.
        seed: Seed of the cameras.
        cameras_per_clip: How many of Human3.6M's four real cameras film each clip.

    Returns:
        `{split: ClipSet}`.

    Raises:
        UserError: For a file that is not such an archive, and subjects that are not in it or not for training.
    """
    missing: list[str] = []
    if folder := Path(path).is_dir():
        motions, splits, missing = read_cmu_files(Path(path))
    else:
        motions, splits = read_cmu(path)
    splits = _choose_splits(splits, valid_subjects, test_subjects)
    by_split = group_motions(motions, splits)
    of_clips = folder and valid_subjects is None and not by_split["valid"]
    filmed = film_splits(
        hold_out_clips(by_split, seed) if of_clips else by_split, h36m_cameras(), Filming(seed, cameras_per_clip)
    )
    notes = dict.fromkeys(filmed, f"{len(missing)} of CMU's trials are missing: {_shorten(missing)}" if missing else "")
    if of_clips:
        notes["valid"] = "; ".join(filter(None, (VALID_OF_CLIPS, notes["valid"])))
    return {split: dataclasses.replace(clips, note=notes[split]) for split, clips in filmed.items()}


def _choose_splits(
    splits: dict[str, str], valid_subjects: Collection[str] | None, test_subjects: Collection[str] | None
) -> dict[str, str]:
    """The split of every subject, given those of the source; see `load_cmu`."""
    if test_subjects is not None:
        if unknown := sorted(set(test_subjects) - splits.keys()):
            raise UserError(f"test_subjects: expected some of {', '.join(sorted(splits))}, found {', '.join(unknown)}")
        splits = {subject: "train" if split == "test" else split for subject, split in splits.items()}
        splits |= dict.fromkeys(test_subjects, "test")
    train = sorted(subject for subject, split in splits.items() if split == "train")
    if valid_subjects is None:
        valid_subjects = VALID_SUBJECTS if set(VALID_SUBJECTS) < set(train) else ()
    if unknown := sorted(set(valid_subjects) - set(train)):
        raise UserError(f"valid_subjects: expected train subjects ({', '.join(train)}), found {', '.join(unknown)}")
    if valid_subjects and not set(train) - set(valid_subjects):
        raise UserError("valid_subjects: expected some train subjects to remain, found all of them named")
    return splits | dict.fromkeys(valid_subjects, "valid")


def _shorten(trials: list[str]) -> str:
    return ", ".join(trials[:6]) + (", ..." if len(trials) > 6 else "")


def read_cmu(path: str | os.PathLike) -> tuple[list[Motion], dict[str, str]]:
    """Read the motions of the archive (metres, world frame, z up) and the name of every subject's split.

    Raises UserError for a missing or damaged file and for a file that is not such an archive.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected the CMU archive (cmu_h36m17.npz), found no such file")
    try:
        with open_arrays(path) as archive:
            meta = json.loads(str(archive["meta"])) if "meta" in archive else {}
            if not isinstance(meta, dict) or not {"clips", "splits", "fps", "scale_to_metres"} <= meta.keys():
                raise UserError(f"{path}: expected the CMU archive or one of its form, found another kind of .npz file")
            motions = [_motion(path, key, archive[key], meta) for key in meta["clips"]]
            splits = {subject: split for split, subjects in meta["splits"].items() for subject in subjects}
    except DAMAGE as error:
        line = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"{path}: expected the CMU archive, found {type(error).__name__}: {line}") from error
    for motion in motions:
        if motion.subject not in splits:
            raise UserError(f"{path}: expected a split for subject {motion.subject}, found none")
    return motions, splits


def _motion(path: Path, key: str, positions: np.ndarray, meta: dict) -> Motion:
    joints = get_skeleton("h36m17").num_joints
    if positions.ndim != 3 or positions.shape[1:] != (joints, 3) or positions.dtype != np.int16:
        found = f"{positions.dtype} {positions.shape}"
        raise UserError(f"{path}: clip {key}: expected int16 millimetres of shape (T, {joints}, 3), found {found}")
    clip = meta["clips"][key]
    if len(positions) != clip["frames"]:
        raise UserError(f"{path}: clip {key}: expected {clip['frames']} frames, found {len(positions)}")
    metres = positions.astype(np.float32) * np.float32(meta["scale_to_metres"])
    return Motion(metres, name=key, subject=clip["subject"], action=clip["activity"], fps=float(meta["fps"]))
