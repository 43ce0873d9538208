"""Joints that were not seen are filled in from other frames or from the body, whatever stood in their place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.gaps import BRIDGE_SCORE, bridge_scores, describe_gaps, fill_gaps, measure_gaps
from diffpose_jax.data.windows import device_clips
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17, SKELETONS

LEFT = {name: H36M_17.joints.index(f"left_{name}") for name in ("hip", "knee", "ankle", "wrist")}
RIGHT = {name: H36M_17.joints.index(f"right_{name}") for name in ("hip", "knee", "ankle", "wrist")}


def moving(lengths=(6,), seed=0) -> ClipSet:
    """Clips in which every joint moves in a straight line at its own speed, all seen."""
    rng = np.random.default_rng(seed)

    def clip(length: int) -> Clip:
        start, speed = rng.normal(size=(2, 1, 17, 2))
        keypoints = (start + 0.1 * speed * np.arange(length)[:, None, None]).astype(np.float32)
        return Clip(keypoints, None, None, "S", f"a{length}", fps=10.0, scores=np.ones((length, 17), np.float32))

    return ClipSet.build([clip(length) for length in lengths], H36M_17)


def hide(clips: ClipSet, frames, joints, rubbish=7.0) -> ClipSet:
    scores, keypoints = clips.scores.copy(), clips.keypoints.copy()
    where = np.ix_(np.atleast_1d(frames), np.atleast_1d(joints))
    scores[where], keypoints[where] = 0, rubbish
    return dataclasses.replace(clips, scores=scores, keypoints=keypoints)


def test_between_frames_that_show_it_a_joint_moves_in_a_straight_line_and_at_the_ends_it_stays():
    clips = moving((6, 4))
    filled = fill_gaps(hide(clips, [2, 3], LEFT["knee"]))
    np.testing.assert_allclose(filled.keypoints, clips.keypoints, atol=1e-5)
    filled = fill_gaps(hide(clips, [0, 1, 5, 6], LEFT["knee"])).keypoints[:, LEFT["knee"]]
    expected = clips.keypoints[[2, 2, 2, 3, 4, 4, 7, 7, 8, 9], LEFT["knee"]]
    np.testing.assert_allclose(filled, expected, atol=1e-5)  # never across two clips


def test_what_stands_in_the_place_of_a_missing_keypoint_does_not_matter():
    clips = moving((6, 4))
    for joints in ([LEFT["knee"], LEFT["ankle"]], list(range(8)), list(range(16))):
        one, other = (fill_gaps(hide(clips, range(10), joints, rubbish)) for rubbish in (0.0, -3e5))
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        seen = one.seen
        np.testing.assert_array_equal(one.keypoints[seen], clips.keypoints[seen])


def test_a_leg_that_no_frame_shows_is_parallel_to_the_other():
    clips = moving()
    filled = fill_gaps(hide(clips, range(6), [LEFT["knee"], LEFT["ankle"]])).keypoints
    for end, start in (("knee", "hip"), ("ankle", "knee")):
        left, right = (filled[:, side[end]] - filled[:, side[start]] for side in (LEFT, RIGHT))
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_a_hip_that_no_frame_shows_is_opposite_to_the_other():
    filled = fill_gaps(hide(moving(), range(6), [LEFT["hip"], LEFT["knee"]])).keypoints
    np.testing.assert_allclose(filled[:, LEFT["hip"]] - filled[:, 0], filled[:, 0] - filled[:, RIGHT["hip"]], atol=1e-5)


def test_where_neither_leg_is_shown_both_hang_down_the_torso():
    clips = moving()
    legs = [side[name] for side in (LEFT, RIGHT) for name in ("knee", "ankle")]
    filled = fill_gaps(hide(clips, range(6), legs)).keypoints
    torso = filled[:, [0, LEFT["hip"], RIGHT["hip"]]].mean(1) - filled[
        :, [H36M_17.joints.index(name) for name in ("thorax", "left_shoulder", "right_shoulder")]
    ].mean(1)
    np.testing.assert_allclose(filled[:, LEFT["knee"]] - filled[:, LEFT["hip"]], 0.9 * torso, atol=1e-4)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_one_joint_is_enough_in_every_layout(skeleton):
    for joint in range(skeleton.num_joints):
        keypoints = np.full((2, skeleton.num_joints, 2), np.nan, np.float32)
        keypoints[:, joint] = 0.3
        filled = fill_gaps(ClipSet.build([Clip(keypoints, None, None, "S", "a")], skeleton)).keypoints
        assert np.isfinite(filled).all()


def test_a_clip_of_which_nothing_was_seen_is_refused():
    clips = moving((3, 4))
    with pytest.raises(
        UserError, match="clip S/a4: expected a joint of h36m17 that was seen in some frame, found none"
    ):
        fill_gaps(hide(clips, range(3, 7), range(17)))


def test_a_gap_is_as_far_as_the_nearest_frame_that_shows_the_joint():
    clips = hide(hide(moving((6, 4)), [2, 3, 4, 6], LEFT["knee"]), range(6, 10), LEFT["wrist"])
    gaps = measure_gaps(clips)
    np.testing.assert_allclose(gaps[:, LEFT["knee"]], [0, 0, 0.1, 0.2, 0.1, 0, 0.1, 0, 0, 0], atol=1e-6)
    assert np.isinf(gaps[6:, LEFT["wrist"]]).all()
    assert gaps.sum(where=~np.isinf(gaps)) == pytest.approx(0.5)


def test_one_line_says_how_many_were_filled_in_and_how():
    clips = moving((6, 4))
    assert describe_gaps(clips) == ""
    assert fill_gaps(clips) is clips
    line = describe_gaps(hide(hide(clips, [2, 3], LEFT["knee"]), range(6, 10), LEFT["wrist"]))
    assert line == (
        "6 of 170 joints (3.5%) were not seen (left_wrist, left_knee): 2 filled in from other frames, 4 from the "
        "rest of the body"
    )


def test_a_joint_that_is_gone_for_a_moment_counts_as_seen_with_less_confidence():
    """Nine frames at 50 per second: three are missing between two, then two at the clip's end; below, six in a row."""
    clips = dataclasses.replace(moving((9, 9)), fps=np.array([50.0, 50.0], np.float32))
    knee, ankle = LEFT["knee"], LEFT["ankle"]
    hidden = hide(hide(clips, [1, 2, 3, 7, 8], knee), range(10, 16), ankle)
    hidden.scores[4, knee] = 0.5
    scores = bridge_scores(hidden)
    np.testing.assert_allclose(scores[:9, knee], [1, *[BRIDGE_SCORE * 0.5] * 3, 0.5, 1, 1, 0, 0])
    assert not scores[10:16, ankle].any()
    np.testing.assert_array_equal(scores[hidden.seen], hidden.scores[hidden.seen])
    on_device = device_clips(hidden)
    np.testing.assert_allclose(on_device.scores, scores, atol=1e-6)
    # What was seen stays what was seen: reports, factors and gaps go by that.
    assert not hidden.seen[1:4, knee].any()
    assert (measure_gaps(hidden)[1:4, knee] > 0).all()


def test_a_slow_recording_bridges_fewer_frames():
    clips = hide(moving((6,)), [2], LEFT["knee"])
    assert bridge_scores(clips)[2, LEFT["knee"]] == 0  # at 10 frames per second the two are 0.2 s apart
    assert bridge_scores(moving()) is not None
