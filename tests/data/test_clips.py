"""ClipSet: what goes in comes out, and a clip that cannot be used is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import COCO_17, H36M_16, H36M_17

from .random_clips import cameras, clip, mixtures


@pytest.fixture
def splits() -> dict[str, ClipSet]:
    return {
        "train": ClipSet.build([clip(5), clip(1, "S5", "sit", 1, seed=1)], H36M_17, cameras()),
        "valid": ClipSet.build([clip(3, "S8", seed=2)], H36M_17, cameras()),
        "test": ClipSet.build([clip(4, "S9", camera=-1, seed=3)._replace(poses=None, root=None, scores=None)], H36M_17),
    }


def test_clips_lie_end_to_end_and_come_back_as_they_were():
    parts = [clip(5), clip(1, "S5", "sit", 1, seed=1), clip(7, "S6", seed=2)]
    whole = ClipSet.build(parts, H36M_17, cameras())
    np.testing.assert_array_equal(whole.clip_start, [0, 5, 6])
    np.testing.assert_array_equal(whole.frame_clip(), [0] * 5 + [1] + [2] * 7)
    for number, part in enumerate(parts):
        for one, other in zip(whole.clip(number), part, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_clip_that_marks_no_frames_is_valid_throughout_and_of_unknown_activity():
    marked = clip(3)._replace(valid_frame=np.array([True, False, True]), activity=np.array([2, 2, 7]))
    whole = ClipSet.build([marked, clip(2, "S5")], H36M_17, cameras(), "3D targets: annot3")
    np.testing.assert_array_equal(whole.valid_frame, [True, False, True, True, True])
    np.testing.assert_array_equal(whole.activity, [2, 2, 7, 0, 0])
    chosen = whole.select([1, 0])
    np.testing.assert_array_equal(chosen.valid_frame, [True, True, True, False, True])
    assert chosen.note == whole.note
    assert whole.to_layout(H36M_16).valid_frame is whole.valid_frame
    assert ClipSet.build([clip(2)], H36M_17, cameras()).valid_frame is None


def test_a_selection_holds_its_clips_in_the_order_asked_for(splits):
    chosen = splits["train"].select([1, 0])
    assert chosen.subject == ("S5", "S1")
    np.testing.assert_array_equal(chosen.poses[0], splits["train"].poses[5])
    np.testing.assert_array_equal(chosen.clip_start, [0, 1])
    assert splits["train"].select([]).num_frames == 0


def test_two_sets_are_joined_and_what_has_no_scores_was_seen_for_certain(splits):
    exact = ClipSet.build([clip(2, "S7", seed=5)._replace(scores=None)], H36M_17, cameras())
    both = exact.join(splits["valid"])
    assert both.subject == ("S7", "S8")
    np.testing.assert_array_equal(both.keypoints[2:], splits["valid"].keypoints)
    np.testing.assert_array_equal(both.scores[:2], 1)
    np.testing.assert_array_equal(both.scores[2:], splits["valid"].scores)
    assert exact.join(exact).scores is None


def test_every_frame_knows_the_camera_of_its_clip(splits):
    train = dataclasses.replace(
        splits["train"], cameras=cameras()._replace(focal=np.array([[1, 1], [2, 2]], np.float32))
    )
    np.testing.assert_array_equal(train.frame_camera().focal[:, 0], [1, 1, 1, 1, 1, 2])
    assert splits["test"].frame_camera() is None


def test_another_layout_keeps_the_place_of_every_shared_joint():
    original = ClipSet.build([clip(6)], H36M_17, cameras())
    fewer = original.to_layout(H36M_16)
    kept = [H36M_17.joints.index(joint) for joint in H36M_16.joints]
    np.testing.assert_array_equal(fewer.keypoints, original.keypoints[:, kept])
    np.testing.assert_allclose(
        fewer.poses + fewer.root[:, None], (original.poses + original.root[:, None])[:, kept], atol=1e-6
    )


def test_the_root_moves_with_a_layout_that_is_rooted_elsewhere():
    coco = clip(6)
    original = ClipSet.build([coco], COCO_17)
    converted = original.to_layout(H36M_17)
    hips = [COCO_17.joints.index(side) for side in ("left_hip", "right_hip")]
    pelvis = (original.poses + original.root[:, None])[:, hips].mean(axis=1)
    np.testing.assert_allclose(converted.root, pelvis, atol=1e-6)
    np.testing.assert_array_equal(converted.poses[:, 0], 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": np.zeros((0, 17, 2)), "poses": None, "root": None, "scores": None}, "at least one frame"),
        ({"keypoints": np.zeros((4, 16, 2))}, r"keypoints of shape \(4, 17, 2\).*found \(4, 16, 2\)"),
        ({"poses": np.zeros((3, 17, 3))}, r"poses of shape \(4, 17, 3\)"),
        ({"root": np.zeros((4, 2))}, r"root of shape \(4, 3\)"),
        ({"scores": np.zeros((4,))}, r"scores of shape \(4, 17\)"),
        ({"valid_frame": np.ones(5, bool)}, r"valid_frame of shape \(4,\)"),
        ({"poses": np.where(np.arange(4)[:, None, None] < 2, 0, np.nan) * np.ones((4, 17, 3))}, "poses.*frame 2"),
        ({"keypoints": np.full((4, 17, 2), np.inf)}, "keypoints.*NaN or infinity first in frame 0"),
    ],
)
def test_a_clip_that_cannot_be_used_is_named(change, message):
    with pytest.raises(UserError, match=f"clip S1/walk: .*{message}"):
        ClipSet.build([clip(4)._replace(**change)], H36M_17)


def test_mixtures_go_with_their_frames_through_selection_and_another_layout():
    parts = [clip(5)._replace(mixture=mixtures(5)), clip(2, "S5", seed=1)._replace(mixture=mixtures(2, seed=1))]
    whole = ClipSet.build(parts, H36M_17, cameras())
    assert whole.mixture.dtype == np.float16
    np.testing.assert_array_equal(whole.select([1]).mixture, parts[1].mixture)
    np.testing.assert_array_equal(whole.to_layout(H36M_16).mixture, np.delete(whole.mixture, 9, axis=1))


def test_a_clip_without_mixtures_leaves_the_set_without():
    assert ClipSet.build([clip(5)._replace(mixture=mixtures(5)), clip(2, "S5")], H36M_17).mixture is None


def test_mixtures_are_left_out_where_a_joint_is_made_of_several():
    coco = ClipSet.build([clip(3)._replace(mixture=mixtures(3), poses=None, root=None)], COCO_17)
    assert coco.to_layout(H36M_17).mixture is None


def test_mixtures_of_another_form_are_refused():
    with pytest.raises(UserError, match="expected mixture of shape"):
        ClipSet.build([clip(3)._replace(mixture=mixtures(3)[..., :5])], H36M_17)
    parts = [clip(3)._replace(mixture=mixtures(3)), clip(3)._replace(mixture=mixtures(3, 2))]
    with pytest.raises(UserError, match="one number of components"):
        ClipSet.build(parts, H36M_17)


def test_visibility_goes_with_its_frames_and_a_joint_made_of_several_has_that_of_the_worst():
    hip = COCO_17.joints.index("left_hip")
    pelvis, head = (H36M_17.joints.index(name) for name in ("pelvis", "head_top"))
    codes = np.zeros((5, 17), np.uint8)
    codes[1, hip], codes[2, hip] = 1, 2
    part = clip(5)._replace(visibility=codes)
    whole = ClipSet.build([part, part._replace(visibility=None)], COCO_17)
    np.testing.assert_array_equal(whole.select([1, 0]).visibility, [*np.zeros_like(codes), *codes])
    found = whole.to_layout(H36M_17).visibility
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[:5, H36M_17.joints.index("left_hip")], [0, 1, 2, 0, 0])
    np.testing.assert_array_equal(found[:5, pelvis], [0, 1, 2, 0, 0])
    assert (found[5:] == 0).all()
    assert (found[:5, head] == 0).all()
