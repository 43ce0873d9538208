"""The Human3.6M loader on files of the published form, made here with the real cameras."""

from __future__ import annotations

import contextlib

import jax
import numpy as np
import pytest

from diffpose_jax import geometry
from diffpose_jax.data.cameras import H36M_SUBJECTS, h36m_cameras
from diffpose_jax.data.sets.human36m import JOINTS_17_OF_32, load_human36m
from diffpose_jax.data.sets.videopose3d import camera_pairs
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import COCO_17, H36M_16, H36M_17

ACTIONS = ("Walking", "Walking 1", "Directions", "SittingDown 2")
SYMMETRY_17 = [list(H36M_17.left), list(H36M_17.right)]


def rotate(quaternion, points):
    """Rotates by the matrix of a unit quaternion (w, x, y, z), in float64 and without the library."""
    w, x, y, z = quaternion.astype(np.float64)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return points @ (np.eye(3) + 2 * w * cross + 2 * cross @ cross).T


@pytest.fixture(scope="module")
def filmed():
    """Ten frames of every recording, of which the mocap keeps the first ones."""
    rng = np.random.default_rng(0)
    scatter = rng.normal(0, 0.3, (len(H36M_SUBJECTS), len(ACTIONS), 10, 32, 3))
    return (np.array([0.2, 0.5, 0.9]) + scatter).astype(np.float32)


@pytest.fixture(scope="module")
def world(filmed):
    return {
        subject: {action: filmed[s, a, : 5 + a] for a, action in enumerate(ACTIONS)}
        for s, subject in enumerate(H36M_SUBJECTS)
    }


@pytest.fixture(scope="module")
def pixels(filmed):
    """What the four cameras see, two frames longer than the mocap, as the real files often are."""

    @jax.jit
    def see(positions, camera):
        return geometry.project(geometry.world_to_camera(positions, camera), camera)

    content = {}
    for positions, subject in zip(filmed[..., JOINTS_17_OF_32, :], H36M_SUBJECTS, strict=True):
        cameras = h36m_cameras(subject)
        keypoints = np.asarray(see(np.repeat(positions[None], 4, axis=0), cameras))
        views = geometry.denormalise_screen(keypoints, cameras.size)
        content[subject] = {name: [*views[:, a, : 7 + a]] for a, name in enumerate(ACTIONS)}
    return content


def reshaped(pixels, change):
    return {s: {a: [change(view) for view in views] for a, views in actions.items()} for s, actions in pixels.items()}


@pytest.fixture
def folder(tmp_path, world, pixels):
    np.savez_compressed(tmp_path / "data_3d_h36m.npz", positions_3d=world)

    def write(name, content, **metadata):
        np.savez_compressed(tmp_path / f"data_2d_h36m_{name}.npz", positions_2d=content, **metadata)
        return tmp_path

    write("gt", pixels, metadata={"num_joints": 17, "keypoints_symmetry": SYMMETRY_17})
    return tmp_path, write


def test_the_standard_split_and_the_labels(folder, world):
    splits = load_human36m(folder[0])
    assert {split: set(clips.subject) for split, clips in splits.items()} == {
        "train": {"S1", "S5", "S6", "S7"},
        "valid": {"S8"},
        "test": {"S9", "S11"},
    }
    train = splits["train"]
    assert train.num_clips == 4 * 4 * 4
    assert set(train.action) == {"Walking", "Directions", "SittingDown"}
    assert set(train.fps) == {50.0}
    frames = sum(len(positions) for positions in world["S1"].values())
    assert train.num_frames == 4 * 4 * frames


def test_all_five_training_subjects_train_where_none_is_held_out(folder):
    splits = load_human36m(folder[0], valid_subjects=())
    assert set(splits["train"].subject) == {"S1", "S5", "S6", "S7", "S8"}
    assert splits["valid"].num_frames == 0


def test_the_corrupt_recording_is_left_out(folder):
    test = load_human36m(folder[0])["test"]
    directions = [subject for subject, action in zip(test.subject, test.action, strict=True) if action == "Directions"]
    assert directions == ["S9"] * 4


def test_poses_are_the_mocap_seen_from_each_subjects_own_camera(folder, world):
    test = load_human36m(folder[0])["test"]
    for index in range(test.num_clips):
        clip = test.clip(index)
        camera = Camera(*(field[clip.camera] for field in test.cameras))
        back = rotate(camera.rotation, (clip.poses + clip.root[:, None]).astype(np.float64)) + camera.translation
        candidates = [positions[:, JOINTS_17_OF_32] for positions in world[clip.subject].values()]
        assert min(np.abs(back - c).max() for c in candidates if len(c) == len(back)) < 2e-6
        assert (clip.poses[:, 0] == 0).all()


def test_keypoints_are_the_projection_of_pose_and_root(folder):
    train = load_human36m(folder[0])["train"]
    seen = geometry.project(train.poses + train.root[:, None], train.frame_camera())
    np.testing.assert_allclose(np.asarray(seen), train.keypoints, atol=2e-6)


def test_pairs_of_one_camera_cut_the_surplus_of_the_detections(world, pixels):
    camera = Camera(*(field[0] for field in h36m_cameras("S1")))
    keypoints, poses, root = camera_pairs(
        world["S1"]["Walking"][:, JOINTS_17_OF_32], pixels["S1"]["Walking"][0], camera
    )
    assert (keypoints.shape, poses.shape, root.shape) == ((5, 17, 2), (5, 17, 3), (5, 3))
    x, y = pixels["S1"]["Walking"][0][3, 7]
    np.testing.assert_allclose(keypoints[3, 7], [x / 1000 * 2 - 1, y / 1000 * 2 - 1.002], atol=1e-6)


def test_sixteen_joint_files_without_metadata_give_the_sixteen_joint_layout(folder, pixels):
    path, write = folder
    write("hr", reshaped(pixels, lambda view: np.delete(view, 9, axis=1)))
    found, full = load_human36m(path, detections="hr")["valid"], load_human36m(path)["valid"]
    assert found.skeleton == H36M_16
    np.testing.assert_array_equal(found.keypoints, np.delete(full.keypoints, 9, axis=1))
    np.testing.assert_array_equal(found.poses, np.delete(full.poses, 9, axis=1))
    dropped = load_human36m(path, layout="h36m16")["valid"]
    np.testing.assert_array_equal(dropped.keypoints, found.keypoints)
    np.testing.assert_array_equal(dropped.poses, found.poses)


def test_the_name_cpn_and_confidences(folder, pixels):
    path, write = folder
    scored = reshaped(pixels, lambda view: np.concatenate([view, np.full_like(view[..., :1], 0.25)], axis=-1))
    write("cpn_ft_h36m_dbb", scored, metadata={"num_joints": 17, "keypoints_symmetry": SYMMETRY_17})
    found = load_human36m(path, detections="cpn")["test"]
    np.testing.assert_array_equal(found.keypoints, load_human36m(path)["test"].keypoints)
    np.testing.assert_array_equal(found.scores, np.full(found.keypoints.shape[:2], 0.25))


def test_coco_detections_are_told_by_their_sides_and_converted(folder, pixels):
    path, write = folder
    write("detectron", pixels, metadata={"num_joints": 17, "keypoints_symmetry": [COCO_17.left, COCO_17.right]})
    found = load_human36m(path, detections="detectron")["test"]
    hips = [COCO_17.joints.index(side + "_hip") for side in ("left", "right")]
    gt = load_human36m(path)["test"]
    np.testing.assert_allclose(found.keypoints[:, 0], gt.keypoints[:, hips].mean(axis=1), atol=1e-6)


def damaged(pixels, change):
    copy = {subject: dict(actions) for subject, actions in pixels.items()}
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.pop("S7"), "found no S7"),
        (lambda p: p["S5"].pop("Walking 1"), "expected keypoints of S5/Walking 1, found none"),
        (
            lambda p: p["S5"].update({"Walking": p["S5"]["Walking"][:3]}),
            "S5/Walking: expected keypoints of 4 cameras, found 3",
        ),
        (
            lambda p: p["S5"].update({"Walking": [v[:4] for v in p["S5"]["Walking"]]}),
            "S5/Walking, camera 0: expected at least 5 frames as in the 3D file, found 4",
        ),
        (
            lambda p: p["S5"].update({"Walking": [np.full_like(v, np.nan) for v in p["S5"]["Walking"]]}),
            "S5/Walking, camera 0: expected finite numbers",
        ),
        (
            lambda p: p["S5"].update({"Walking": [v[:, :16] for v in p["S5"]["Walking"]]}),
            "expected shape (frames, 17, 2), found (7, 16, 2)",
        ),
    ],
)
def test_damaged_2d_files_are_told_in_one_line(folder, pixels, change, said):
    path, write = folder
    write("bad", damaged(pixels, change))
    with pytest.raises(UserError) as refused:
        load_human36m(path, detections="bad")
    assert said in str(refused.value)
    assert "data_2d_h36m_bad.npz" in str(refused.value)


METADATA = (7, "text", None, [], {}, {"keypoints_symmetry": 3}, {"keypoints_symmetry": [[1], "x"]},
            {"keypoints_symmetry": [None, None]}, {"keypoints_symmetry": [[10**30], [0.5]]},
            {"keypoints_symmetry": [[[1]], {}]}, {"keypoints_symmetry": {"left": 1}})  # fmt: skip


@pytest.mark.parametrize("metadata", METADATA, ids=str)
def test_pickled_metadata_of_any_kind_are_read_or_told_in_one_line(folder, pixels, metadata):
    path, write = folder
    write("odd", pixels, metadata=np.array(metadata, object))
    with contextlib.suppress(UserError):
        load_human36m(path, detections="odd")


@pytest.mark.parametrize("pickled", [7, "text", None, [], {"S9": 7}, {"S9": {"Walking": 7}}, {"S9": {"Walking": [7]}}],
                         ids=str)  # fmt: skip
def test_pickled_keypoints_of_another_kind_are_told_in_one_line(folder, pixels, pickled):
    path, write = folder
    content = {**pixels, **pickled} if isinstance(pickled, dict) else pickled
    write("odd", np.array(content, object))
    with pytest.raises(UserError, match="odd"):
        load_human36m(path, detections="odd")


def test_unknown_layouts_missing_files_and_wrong_options(folder, pixels, tmp_path):
    path, write = folder
    write("odd", reshaped(pixels, lambda view: view[:, :14]))
    with pytest.raises(UserError, match=r"expected 17 joints of h36m17 or 16 joints of h36m16 or .* coco17, found 14"):
        load_human36m(path, detections="odd")
    with pytest.raises(UserError, match="found detections gt, odd"):
        load_human36m(path, detections="sh")
    with pytest.raises(UserError, match="found no such folder"):
        load_human36m(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data_3d_h36m.npz: expected VideoPose3D's 3D file"):
        load_human36m(tmp_path / "empty")
    for subjects in (("S9",), ("S1", "S5", "S6", "S7", "S8")):
        with pytest.raises(UserError, match="valid_subjects: expected some, not all, of S1"):
            load_human36m(path, valid_subjects=subjects)
    with pytest.raises(UserError, match="layout: expected h36m17 or h36m16"):
        load_human36m(path, layout="coco17")
