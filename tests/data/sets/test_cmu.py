"""The CMU archive: its splits, its units, and that 2D and 3D belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffpose_jax import geometry
from diffpose_jax.data.sets.cmu import VALID_SUBJECTS, load_cmu, read_cmu
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17

ARCHIVE = Path(__file__).parents[3] / "../shared/data/cmu_h36m17.npz"
STANDING = {
    "pelvis": (0, 0, 900),
    "hip": (0, 110, 850),
    "knee": (0, 110, 470),
    "ankle": (0, 110, 80),
    "spine": (0, 0, 1010),
    "thorax": (0, 0, 1300),
    "neck_nose": (40, 0, 1480),
    "head_top": (0, 0, 1600),
    "shoulder": (0, 180, 1330),
    "elbow": (0, 220, 1070),
    "wrist": (0, 230, 820),
}


def standing_pose() -> np.ndarray:
    """Someone facing x, `[17, 3]` millimetres, z up; left is +y."""
    pose = np.array(
        [
            STANDING[joint.split("_", 1)[-1] if "_" in joint and joint.split("_")[0] in ("left", "right") else joint]
            for joint in H36M_17.joints
        ]
    )
    pose[list(H36M_17.right), 1] *= -1
    return pose


def write_archive(path: Path, **changes: object) -> Path:
    """A tiny archive of three subjects, two clips each, who stand and drift."""
    drift = np.arange(20)[:, None, None] * np.array([10, 5, 0])
    clips = {f"{subject}_{trial}": (standing_pose() + drift).astype(np.int16) for subject in "abc" for trial in "12"}
    meta = {
        "fps": 50,
        "scale_to_metres": 0.001,
        "splits": {"train": ["a", "b"], "test": ["c"]},
        "clips": {key: {"subject": key[0], "activity": "stand", "frames": 20} for key in clips},
    }
    if isinstance(changes.get("meta", {}), dict):
        changes = {**changes, "meta": json.dumps(meta | changes.get("meta", {}))}
    np.savez(path, **(clips | changes))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "cmu.npz")


def test_subjects_never_cross_splits_and_every_clip_is_seen_by_four_cameras(archive: Path):
    splits = load_cmu(archive, valid_subjects=["b"])
    assert {name: set(clips.subject) for name, clips in splits.items()} == {
        "train": {"a"},
        "valid": {"b"},
        "test": {"c"},
    }
    for clips in splits.values():
        assert clips.num_frames == 2 * 4 * 20
        assert sorted(clips.camera.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert set(clips.fps) == {50.0}
        assert clips.skeleton is H36M_17


def test_keypoints_are_the_projection_of_the_pose_and_people_stand_upright(archive: Path):
    clips = load_cmu(archive, valid_subjects=["b"])["train"]
    points = clips.poses + clips.root[:, None]
    np.testing.assert_allclose(geometry.project(points, clips.frame_camera()), clips.keypoints, atol=1e-6)
    np.testing.assert_array_equal(clips.poses[:, 0], 0)
    head, ankle = H36M_17.joints.index("head_top"), H36M_17.joints.index("left_ankle")
    assert (clips.keypoints[:, head, 1] < clips.keypoints[:, ankle, 1] - 0.4).all()
    bones = np.array(
        [np.linalg.norm(clips.poses[:, child] - clips.poses[:, parent], axis=-1) for child, parent in H36M_17.bones]
    )
    world = standing_pose() / 1000
    expected = [np.linalg.norm(world[child] - world[parent]) for child, parent in H36M_17.bones]
    np.testing.assert_allclose(bones, np.broadcast_to(np.array(expected)[:, None], bones.shape), atol=1e-5)


def test_the_view_depends_on_the_seed_and_the_clip_but_not_on_the_split(archive: Path):
    first, other = load_cmu(archive, valid_subjects=["b"]), load_cmu(archive, valid_subjects=["a"])
    np.testing.assert_array_equal(first["train"].keypoints, other["valid"].keypoints)
    assert np.abs(first["train"].clip(0).poses - first["train"].clip(4).poses).max() > 0.01
    assert np.abs(load_cmu(archive, valid_subjects=["b"], seed=1)["test"].poses - first["test"].poses).max() > 0.01


def test_fewer_cameras_give_fewer_clips(archive: Path):
    assert load_cmu(archive, valid_subjects=["b"], cameras_per_clip=1)["test"].num_clips == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": json.dumps({"fps": 50})}, "expected the CMU archive or one of its form"),
        ({"a_1": np.zeros((20, 16, 3), np.int16)}, r"clip a_1: .* found int16 \(20, 16, 3\)"),
        ({"a_1": np.zeros((7, 17, 3), np.int16)}, "clip a_1: expected 20 frames, found 7"),
        ({"a_1": np.array([{"os": "system"}], dtype=object)}, "expected the CMU archive, found ValueError"),
        ({"meta": {"splits": {"train": ["a", "b"]}}}, "split for subject c"),
    ],
)
def test_a_file_that_is_not_the_archive_is_refused_in_one_line(tmp_path: Path, changes: dict, message: str):
    path = write_archive(tmp_path / "bad.npz", **changes)
    with pytest.raises(UserError, match=message) as error:
        read_cmu(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_truncated_file_is_refused(archive: Path):
    with pytest.raises(UserError, match="no such file"):
        read_cmu(archive.with_name("absent.npz"))
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(UserError, match="expected the CMU archive"):
        read_cmu(archive)


def test_valid_subjects_come_from_the_train_subjects(archive: Path):
    with pytest.raises(UserError, match=r"valid_subjects: expected train subjects \(a, b\), found c"):
        load_cmu(archive, valid_subjects=["c"])
    with pytest.raises(UserError, match="some train subjects to remain"):
        load_cmu(archive, valid_subjects=["a", "b"])


def subjects_of(splits: dict) -> dict[str, set[str]]:
    return {name: set(clips.subject) for name, clips in splits.items() if clips.num_clips}


def test_all_train_subjects_train_where_no_valid_ones_are_named(archive: Path):
    assert subjects_of(load_cmu(archive, valid_subjects=[])) == {"train": {"a", "b"}, "test": {"c"}}
    assert subjects_of(load_cmu(archive)) == {"train": {"a", "b"}, "test": {"c"}}  # CMU's three are not here


def test_an_archive_of_this_form_may_have_other_splits(tmp_path: Path):
    trial = write_archive(
        tmp_path / "trial.npz", meta={"name": "another laboratory", "splits": {"trial": ["a", "b", "c"]}}
    )
    assert subjects_of(load_cmu(trial)) == {"trial": {"a", "b", "c"}}
    assert subjects_of(load_cmu(trial, test_subjects=["b"])) == {"trial": {"a", "c"}, "test": {"b"}}


def test_test_subjects_are_those_that_are_named(archive: Path):
    found = subjects_of(load_cmu(archive, test_subjects=["a"], valid_subjects=["b"]))
    assert found == {"train": {"c"}, "valid": {"b"}, "test": {"a"}}
    with pytest.raises(UserError, match="test_subjects: expected some of a, b, c, found d"):
        load_cmu(archive, test_subjects=["d"])


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.is_file(), reason="the shared CMU archive is not here")
def test_the_real_archive_splits_as_documented():
    splits = load_cmu(ARCHIVE, cameras_per_clip=1)
    assert set(splits["valid"].subject) == set(VALID_SUBJECTS)
    assert len(set(splits["train"].subject)) == 11
    assert set(splits["test"].subject) == {"05", "06", "08", "09", "10", "27", "32", "135"}
    frames = {name: clips.num_frames for name, clips in splits.items()}
    # 182,740 frames, of which under one in a hundred leaves the image.
    assert 181_000 < sum(frames.values()) <= 182_740
    assert 21_700 < frames["test"] <= 21_788
    mean_pose_error = np.linalg.norm(splits["test"].poses - splits["train"].poses.mean(0), axis=-1).mean()
    assert mean_pose_error == pytest.approx(0.212, abs=0.004)
