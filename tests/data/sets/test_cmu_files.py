"""CMU's own files give the clips of the archive that was made of them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffpose_jax.data.sets.cmu import VALID_SUBJECTS, load_cmu, read_cmu
from diffpose_jax.data.sets.cmu_files import SKELETON_OF, TEST_SUBJECTS, list_clips, read_cmu_files
from diffpose_jax.errors import UserError

SHARED = Path(__file__).parents[3] / "../shared/data"
SAMPLES = SHARED / "raw_samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared motion capture samples are not here")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A folder as the database has it, with two of its trials and one that is in no archive."""
    folder = tmp_path / "subjects" / "16"
    folder.mkdir(parents=True)
    for name in ("16.asf", "16_31.amc", "16_35.amc"):
        shutil.copy(SAMPLES / name, folder / name)
    shutil.copy(SAMPLES / "16_35.amc", folder / "16_99.amc")
    return tmp_path


@needs_samples
def test_the_files_give_the_clips_of_the_archive_to_a_millimetre(database: Path):
    motions, splits, missing = read_cmu_files(database)
    archive = {motion.name: motion for motion in read_cmu(SHARED / "cmu_h36m17.npz")[0]}
    assert [motion.name for motion in motions] == ["16_31", "16_35"]
    assert splits == {"16": "train"}
    assert {"01_01", "135_11"} <= set(missing)
    for motion in motions:
        same = archive[motion.name]
        assert (motion.subject, motion.action, motion.fps) == (same.subject, same.action, same.fps)
        # Both are rounded to millimetres: a coordinate in five thousand falls to the other side.
        assert np.abs(motion.positions - same.positions).max() < 0.0011
        assert (motion.positions == same.positions).mean() > 0.999


@needs_samples
def test_part_of_the_database_is_split_as_the_archive_and_says_what_is_missing(database: Path):
    splits = load_cmu(database, cameras_per_clip=1)
    assert {split: clips.num_clips for split, clips in splits.items()} == {"train": 1, "valid": 1, "test": 0}
    assert "306 of CMU's trials are missing: 01_01," in splits["train"].note
    assert splits["valid"].note.startswith("made of other clips of the people in train")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared CMU archive is not here")
def test_the_table_lists_the_archive(tmp_path: Path):
    motions, splits = read_cmu(SHARED / "cmu_h36m17.npz")
    clips = {clip.name: clip for clip in list_clips()}
    assert {(m.name, m.subject, m.action, len(m.positions)) for m in motions} == {
        (clip.name, clip.subject, clip.activity, clip.frames) for clip in clips.values()
    }
    assert {subject for subject, split in splits.items() if split == "test"} == set(TEST_SUBJECTS)


def test_parts_of_a_trial_follow_each_other():
    clips = list_clips()
    assert len(clips) == 324
    assert sum(clip.frames for clip in clips) == 182_740
    assert len({clip.trial for clip in clips}) == 308
    for before, after in itertools.pairwise(clips):
        if before.trial == after.trial:
            assert after.start >= before.start + before.frames
    assert {*VALID_SUBJECTS, *TEST_SUBJECTS, *SKELETON_OF} < {clip.subject for clip in clips}


@needs_samples
def test_files_that_cannot_give_a_clip_are_clear_errors(database: Path):
    folder = database / "subjects" / "16"
    lines = (folder / "16_35.amc").read_text().splitlines()
    (folder / "16_35.amc").write_text("\n".join(lines[: len(lines) // 2 // 30 * 30]) + "\n")
    (folder / "16_31.amc").unlink()
    with pytest.raises(UserError, match=r"16_35.amc: expected 1.36 s of motion, found 0.\d+ s|line for every bone"):
        read_cmu_files(database)
    (folder / "16.asf").unlink()
    with pytest.raises(UserError, match=r"expected its skeleton 16\.asf in .*, found none"):
        read_cmu_files(database)
    (folder / "16_35.amc").unlink()
    with pytest.raises(UserError, match=r"expected CMU's files, such as .* among 1 \.asf and \.amc files"):
        read_cmu_files(database)
