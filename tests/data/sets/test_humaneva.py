"""The HumanEva-I loader on files of the published form."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

from diffpose_jax.data.sets.humaneva import EXTRINSICS, humaneva_cameras, load_humaneva
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import COCO_17, HUMANEVA_15

SYMMETRY = [list(HUMANEVA_15.left), list(HUMANEVA_15.right)]
SUBJECTS = [f"{part}/{subject}" for part in ("Train", "Validate") for subject in ("S1", "S2", "S3")]
PIECES = {"Walking 1 chunk0": 20, "Walking 1 chunk2": 5, "ThrowCatch 1 chunk1": 1, "Box 1 chunk0": 10}


def rotate_back(quaternion, points):
    """Rotates by the inverse of a unit quaternion (w, x, y, z), in float64 and without the library."""
    w, x, y, z = np.asarray(quaternion, np.float64)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return points @ (np.eye(3) + 2 * w * cross + 2 * cross @ cross)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    stage = np.array([0.1, -0.2, 1.0])
    return {
        subject: {
            piece: (stage + rng.normal(0, 0.3, (frames, 15, 3))).astype(np.float32) for piece, frames in PIECES.items()
        }
        for subject in SUBJECTS
    }


@pytest.fixture(scope="module")
def pixels(world):
    rng = np.random.default_rng(1)
    content = {
        subject: {
            piece: [rng.uniform(50, 450, (len(positions), 15, 2)).astype(np.float32) for _ in range(3)]
            for piece, positions in pieces.items()
        }
        for subject, pieces in world.items()
    }
    unlabelled = {"Walking 1 chunk1": [rng.uniform(50, 450, (4, 15, 2)), None, None]}
    return {"Unlabeled/Train/S1": unlabelled, **content}


@pytest.fixture
def folder(tmp_path, world, pixels):
    np.savez_compressed(tmp_path / "data_3d_humaneva15.npz", positions_3d=world)

    def write(name, content, symmetry=SYMMETRY):
        metadata = {"layout_name": "humaneva15", "num_joints": 15, "keypoints_symmetry": symmetry}
        np.savez_compressed(tmp_path / f"data_2d_humaneva15_{name}.npz", positions_2d=content, metadata=metadata)
        return tmp_path

    write("gt", pixels)
    return tmp_path, write


def test_validate_is_the_test_split_and_valid_ends_every_training_piece(folder):
    splits = load_humaneva(folder[0], valid_share=0.2)
    frames = {split: clips.num_frames for split, clips in splits.items()}
    # Of 20, 5, 1 and 10 frames 4, 1, 0 and 2 are held out, for three subjects and three cameras.
    assert frames == {"train": 9 * (16 + 4 + 1 + 8), "valid": 9 * (4 + 1 + 2), "test": 9 * 36}
    for clips in splits.values():
        assert set(clips.subject) == {"S1", "S2", "S3"}
        assert clips.skeleton == HUMANEVA_15
        assert set(clips.fps.tolist()) == {60.0}
        assert clips.cameras is None
        assert set(clips.camera.tolist()) == {-1}
    assert set(splits["test"].action) == {"Walking", "ThrowCatch", "Box"}


def test_all_of_the_training_part_trains_at_a_share_of_0(folder):
    splits = load_humaneva(folder[0], valid_share=0.0)
    assert (splits["train"].num_frames, splits["valid"].num_frames) == (9 * 36, 0)


def test_only_the_actions_that_are_asked_for_are_read(folder):
    everything, walking = load_humaneva(folder[0]), load_humaneva(folder[0], actions=["Walking"])
    for split, clips in walking.items():
        assert set(clips.action) == {"Walking"}
        assert clips.num_clips == everything[split].action.count("Walking")
    with pytest.raises(UserError, match=r"actions: expected some of .*Walking.*, found Dancing"):
        load_humaneva(folder[0], actions=["Walking", "Dancing"])


def test_valid_continues_where_train_stops(folder, pixels):
    splits = load_humaneva(folder[0], valid_share=0.2)
    together = np.concatenate([splits["train"].clip(0).keypoints, splits["valid"].clip(0).keypoints])
    x, y = np.moveaxis(pixels["Train/S1"]["Walking 1 chunk0"][0], -1, 0)
    np.testing.assert_allclose(together, np.stack([x / 320 - 1, y / 320 - 0.75], axis=-1), atol=1e-6)


def test_poses_are_seen_from_each_subjects_cameras(folder, world):
    test = load_humaneva(folder[0])["test"]
    number = 0
    for subject in ("S1", "S2", "S3"):
        for positions in world[f"Validate/{subject}"].values():
            for quaternion, place in EXTRINSICS[subject]:
                clip = test.clip(number)
                expected = rotate_back(quaternion, positions - np.array(place) / 1000)
                np.testing.assert_allclose(clip.poses + clip.root[:, None], expected, atol=5e-6)
                np.testing.assert_array_equal(clip.poses[:, 0], 0)
                number += 1
    assert number == test.num_clips


def test_people_stand_upright_in_front_of_all_cameras(folder):
    test = load_humaneva(folder[0])["test"]
    assert test.root[:, 2].min() > 2
    for subject in EXTRINSICS:
        for quaternion, place in EXTRINSICS[subject]:
            feet_and_head = rotate_back(quaternion, np.array([[0, 0, 0.0], [0, 0, 1.7]]) - np.array(place) / 1000)
            assert feet_and_head[1, 1] < feet_and_head[0, 1] - 1.5


def test_cameras_without_lenses_are_not_mistaken_for_calibrated_ones():
    cameras = humaneva_cameras("S2")
    np.testing.assert_array_equal(cameras.size, [[640, 480]] * 3)
    np.testing.assert_array_equal(cameras.focal, 0)


def test_coco_detections_are_converted(folder, pixels):
    path, write = folder
    rng = np.random.default_rng(2)
    coco = {
        subject: {
            piece: [rng.uniform(0, 480, (len(views[0]) + 2, 17, 3)) for _ in range(3)]
            for piece, views in pieces.items()
        }
        for subject, pieces in pixels.items()
    }
    write("detectron_pt_coco", coco, [COCO_17.left, COCO_17.right])
    test = load_humaneva(path, detections="detectron_pt_coco")["test"]
    hips = [COCO_17.joints.index(side + "_hip") for side in ("left", "right")]
    first = coco["Validate/S1"]["Walking 1 chunk0"][0][:20]
    pelvis = first[:, hips, :2].mean(axis=1) / 320 - [1, 0.75]
    np.testing.assert_allclose(test.clip(0).keypoints[:, 0], pelvis, atol=1e-6)
    knee = first[:, COCO_17.joints.index("left_knee"), 2]
    np.testing.assert_allclose(test.clip(0).scores[:, HUMANEVA_15.joints.index("left_knee")], knee, rtol=1e-6)


def damaged(pixels, change):
    copy = {subject: dict(pieces) for subject, pieces in pixels.items()}
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.pop("Train/S2"), "found no Train/S2"),
        (lambda p: p["Train/S2"].pop("Box 1 chunk0"), "Box 1 chunk0: expected keypoints of 3 cameras, found none"),
        (lambda p: p["Train/S2"].update({"Box 1 chunk0": [1, 2]}), "expected keypoints of 3 cameras, found 2"),
        (lambda p: p["Train/S2"].update({"Box 1 chunk0": 7}), "expected keypoints of 3 cameras, found int"),
        (
            lambda p: p["Train/S2"].update({"Box 1 chunk0": [None] * 3}),
            "Train/S2/Box 1 chunk0, camera 0: expected shape (frames, 15, 2), found none",
        ),
        (
            lambda p: p["Validate/S3"].update({"Box 1 chunk0": [np.ones((9, 15, 2))] * 3}),
            "expected at least 10 frames as in the 3D file, found 9",
        ),
        (
            lambda p: p["Validate/S3"].update({"Box 1 chunk0": [np.full((10, 15, 2), np.nan)] * 3}),
            "expected finite numbers",
        ),
    ],
)
def test_damaged_2d_files_are_told_in_one_line(folder, pixels, change, said):
    path, write = folder
    write("bad", damaged(pixels, change))
    with pytest.raises(UserError) as refused:
        load_humaneva(path, detections="bad")
    assert said in str(refused.value)
    assert "data_2d_humaneva15_bad.npz" in str(refused.value)


SYMMETRIES = (3, "text", None, [], [[1], "x"], [None, None], [[10**30], [0.5]], [[[1]], {}], {"left": 1})


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=str)
def test_pickled_metadata_of_any_kind_are_read_or_told_in_one_line(folder, pixels, symmetry):
    path, write = folder
    write("odd", pixels, symmetry)
    with contextlib.suppress(UserError):
        load_humaneva(path, detections="odd")


class Command:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


def test_hostile_truncated_and_missing_files_and_wrong_options(folder, tmp_path):
    path, _ = folder
    with pytest.raises(UserError, match="found detections gt"):
        load_humaneva(path, detections="cpn")
    for share in (-0.1, 1.0):
        with pytest.raises(UserError, match="valid_share: expected a share from 0 to below 1"):
            load_humaneva(path, valid_share=share)
    with pytest.raises(UserError, match="found no such folder"):
        load_humaneva(tmp_path / "nowhere")
    two_d = path / "data_2d_humaneva15_gt.npz"
    two_d.write_bytes(two_d.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"humaneva15_gt.npz: expected an .npz file, found a damaged one"):
        load_humaneva(path)
    sentinel = tmp_path / "sentinel"
    np.savez(path / "data_3d_humaneva15.npz", positions_3d=np.array({"Train/S1": Command(f"touch {sentinel}")}))
    with pytest.raises(UserError, match="refused: its pickle holds the forbidden global"):
        load_humaneva(path)
    assert not sentinel.exists()
