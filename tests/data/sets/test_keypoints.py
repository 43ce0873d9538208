"""A user's keypoints become normalised image units in the lifter's layout."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffpose_jax.data.sets.keypoints import load_keypoints, read_keypoints
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import COCO_17, H36M_16, H36M_17

SIZE = [1920, 1080]


def person(frames=4, joints=17, seed=0):
    return np.random.default_rng(seed).uniform(100, 900, (frames, joints, 2))


@pytest.fixture
def write(tmp_path):
    def write(suffix, **entries):
        path = tmp_path / f"walk{suffix}"
        if suffix == ".npz":
            np.savez(path, **entries)
        else:
            plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in entries.items()}
            path.write_text(json.dumps(plain))
        return path

    return write


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_pixels_become_normalised_image_units(write, suffix):
    pixels = person()
    path = write(suffix, keypoints=pixels, image_size=SIZE, layout="h36m17", fps=30, subject="Ada", action="walk")
    clips = read_keypoints(path)
    x, y = pixels[2, 5]
    np.testing.assert_allclose(clips.keypoints[2, 5], [x / 1920 * 2 - 1, y / 1920 * 2 - 1080 / 1920], atol=1e-6)
    assert (clips.subject, clips.action, clips.fps.tolist()) == (("Ada",), ("walk",), [30.0])
    assert (clips.poses, clips.root, clips.cameras, clips.scores) == (None, None, None, None)
    assert clips.skeleton == H36M_17


def test_coco_joints_come_out_under_their_own_names(write):
    pixels = person()
    clips = read_keypoints(write(".npz", keypoints=pixels, image_size=[1000, 1000], layout="coco17"))
    for name in ("left_knee", "right_wrist", "left_shoulder"):
        found = clips.keypoints[:, H36M_17.joints.index(name)]
        np.testing.assert_allclose(found, pixels[:, COCO_17.joints.index(name)] / 500 - 1, atol=1e-6)
    hips = pixels[:, [COCO_17.joints.index("left_hip"), COCO_17.joints.index("right_hip")]].mean(axis=1)
    np.testing.assert_allclose(clips.keypoints[:, 0], hips / 500 - 1, atol=1e-6)


def test_a_constructed_joint_is_as_sure_as_its_least_sure_part(write):
    scores = np.full((4, 17), 0.9)
    scores[:, COCO_17.joints.index("left_hip")] = 0.2
    keypoints = np.concatenate([person(), scores[..., None]], axis=-1)
    for entries in ({"keypoints": keypoints}, {"keypoints": person(), "scores": scores}):
        clips = read_keypoints(write(".npz", image_size=SIZE, layout="coco17", **entries))
        pelvis, knee = H36M_17.joints.index("pelvis"), H36M_17.joints.index("left_knee")
        np.testing.assert_allclose(clips.scores[:, [pelvis, knee]], [[0.2, 0.9]] * 4)


def test_a_constructed_joint_was_not_seen_if_one_of_its_parts_was_not(write):
    keypoints = person()
    keypoints[2, COCO_17.joints.index("left_hip")] = np.nan
    clips = read_keypoints(write(".npz", keypoints=keypoints, image_size=SIZE, layout="coco17"))
    missing = [H36M_17.joints[joint] for joint in np.flatnonzero(clips.scores[2] == 0)]
    assert missing == ["pelvis", "left_hip", "spine"]
    assert clips.seen[[0, 1, 3]].all()
    assert np.isfinite(clips.keypoints).all()


def test_a_recording_without_scores_beside_one_with_them_was_seen(tmp_path):
    entry = {"keypoints": person().tolist(), "image_size": SIZE, "layout": "h36m17"}
    (tmp_path / "two.json").write_text(json.dumps([entry, entry | {"scores": np.full((4, 17), 0.5).tolist()}]))
    np.testing.assert_array_equal(
        read_keypoints(tmp_path / "two.json").scores, np.repeat([1, 0.5], 4 * 17).reshape(8, 17)
    )


def test_persons_lists_and_single_images_become_clips(write, tmp_path):
    two = np.stack([person(seed=1), person(seed=2)])
    clips = read_keypoints(write(".npz", keypoints=two, image_size=SIZE, layout="h36m17", scores=two[..., 0] / 1000))
    assert clips.subject == ("walk-0", "walk-1")
    np.testing.assert_allclose(clips.scores, two[..., 0].reshape(8, 17) / 1000, atol=1e-6)

    entry = {"keypoints": person()[0].tolist(), "image_size": SIZE, "layout": "h36m17"}
    (tmp_path / "list.json").write_text(json.dumps([entry, entry | {"subject": "Bea"}]))
    clips = read_keypoints(tmp_path / "list.json")
    assert clips.clip_length.tolist() == [1, 1]
    assert clips.subject == ("list-0", "Bea")


def test_the_caller_may_name_the_layout_and_the_target(write):
    path = write(".npz", keypoints=person(), image_size=SIZE)
    found = load_keypoints(path, layout="h36m17", target=H36M_16)["test"]
    assert found.skeleton == H36M_16
    full = read_keypoints(path, layout="h36m17")
    np.testing.assert_array_equal(found.keypoints, np.delete(full.keypoints, 9, axis=1))


def test_joints_in_the_order_of_no_layout_can_be_named(write):
    order = np.random.default_rng(1).permutation(17)
    pixels, scores = person(), np.full((4, 17), 0.9)
    names = [COCO_17.joints[index] for index in order]
    path = write(".json", keypoints=pixels[:, order], image_size=SIZE, scores=scores)
    named = load_keypoints(path, joint_names=names)["test"]
    known = read_keypoints(write(".npz", keypoints=pixels, image_size=SIZE, scores=scores, layout="coco17"))
    np.testing.assert_allclose(named.keypoints, known.keypoints, atol=1e-6)
    np.testing.assert_allclose(named.scores, known.scores)


def test_a_joint_that_no_name_means_is_left_out_and_one_without_a_name_was_not_seen(write):
    names = ["tail" if name == "left_wrist" else name for name in COCO_17.joints]
    clips = read_keypoints(write(".npz", keypoints=person(), image_size=SIZE), joint_names=names)
    assert (clips.scores[:, H36M_17.joints.index("left_wrist")] == 0).all()
    assert (clips.scores[:, H36M_17.joints.index("right_wrist")] == 1).all()


@pytest.mark.parametrize(
    ("names", "entries", "message"),
    [
        (COCO_17.joints[:16], {}, "expected 16 joints in keypoints as named, found 17"),
        (COCO_17.joints, {"layout": "coco17"}, "expected joint_names or a layout, found both"),
        (["x"] * 17, {}, "expected joints named such as left_hip"),
    ],
)
def test_names_that_do_not_fit_are_refused(write, names, entries, message):
    with pytest.raises(UserError, match=message):
        read_keypoints(write(".npz", keypoints=person(), image_size=SIZE, **entries), joint_names=names)
