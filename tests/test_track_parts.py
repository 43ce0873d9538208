"""A track between its gaps: split, brought to another frame rate, and read at the video's times again."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.people import Track
from diffpose_jax.skeleton import COCO_17, H36M_17
from diffpose_jax.track_parts import LONGEST_GAP, interpolate, resample, split_track, to_layout


def track(frames, scores=1.0) -> Track:
    """Somebody of whom all joints move to the right by 100 pixels in a second of 25 frames."""
    frames = np.asarray(frames)
    keypoints = np.random.default_rng(0).uniform(0, 50, (1, 17, 2)) + frames[:, None, None] * [4.0, 0.0]
    return Track("person 0", frames, keypoints, np.full((len(frames), 17), scores, np.float32), H36M_17)


TIMES = np.arange(200) / 25


def test_a_track_is_split_where_it_is_interrupted_for_longer_than_the_longest_gap():
    short, long = int(25 * LONGEST_GAP), int(25 * LONGEST_GAP) + 2
    frames = np.r_[0:10, 9 + short : 20 + short, 20 + short + long, 60:70]
    parts = split_track(track(frames), TIMES, H36M_17, None)
    assert [len(part.rows) for part in parts] == [21, 1, 10]
    np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), np.arange(len(frames)))
    for part in parts:
        np.testing.assert_array_equal(part.times, TIMES[frames[part.rows]])
        np.testing.assert_array_equal(part.sampled, part.times)
        np.testing.assert_array_equal(part.keypoints, track(frames).keypoints[part.rows])


def test_gaps_are_measured_in_seconds_whatever_the_frame_rate_does():
    times = np.concatenate([np.arange(20) / 60, 1 + np.arange(20) / 10])
    parts = split_track(track(np.arange(40)), times, H36M_17, 50.0)
    assert [len(part.rows) for part in parts] == [20, 20]
    assert [len(part.sampled) for part in parts] == [17, 96]  # 19/60 s and 1.9 s, 50 times a second


@pytest.mark.parametrize("rate", [None, 50.0])
def test_what_moves_evenly_is_the_same_at_every_rate_and_back_again(rate):
    frames = np.r_[0:8, 11:20]
    own = track(frames)
    (part,) = split_track(own, TIMES, H36M_17, rate)
    assert part.sampled[0] == TIMES[0]
    assert part.sampled[-1] >= part.times[-1] - 1e-9
    steps = np.diff(part.keypoints[:, 0, 0]) / np.diff(part.sampled)
    np.testing.assert_allclose(steps[:-1], 100, rtol=1e-6)  # pixels per second
    np.testing.assert_allclose(interpolate(part.keypoints, part), own.keypoints, atol=1e-6)
    deep = np.broadcast_to(part.keypoints[:, None], (len(part.sampled), 3, 17, 2)).astype(np.float32)
    assert interpolate(deep, part).shape == (len(frames), 3, 17, 2)
    assert interpolate(deep, part).dtype == np.float32


@pytest.mark.parametrize("rate", [None, 50.0])
def test_one_frame_is_a_part(rate):
    (part,) = split_track(track([7]), TIMES, H36M_17, rate)
    assert part.sampled.tolist() == part.times.tolist() == [TIMES[7]]
    np.testing.assert_array_equal(interpolate(part.keypoints, part), part.keypoints)


def test_nobody_has_no_parts():
    assert split_track(track(np.zeros(0, int)), TIMES, H36M_17, 50.0) == []


def test_a_part_in_which_no_joint_was_seen_is_left_out():
    own = track(np.r_[0:5, 50:55, 100:105])
    own.scores[5:10] = 0
    parts = split_track(own, TIMES, H36M_17, 50.0)
    assert [part.rows.tolist() for part in parts] == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]


def test_what_a_detector_says_of_joints_that_it_did_not_see_does_no_harm():
    own = track(np.arange(4))._replace(skeleton=COCO_17)
    ankle, hip = (COCO_17.joints.index(name) for name in ("left_ankle", "left_hip"))
    own.keypoints[:, ankle], own.scores[:, ankle] = np.nan, 0
    own.keypoints[2, hip] = np.nan  # of a joint that is said to be seen
    own.scores[3, hip] = 0.05
    keypoints, scores = to_layout(own, H36M_17)
    assert np.isfinite(keypoints).all()
    unseen = {H36M_17.joints[joint] for joint in np.flatnonzero(scores[2] == 0)}
    assert unseen == {"left_ankle", "left_hip", "pelvis", "spine"}
    np.testing.assert_array_equal(scores[2], scores[3])
    assert np.flatnonzero(scores[0] == 0).tolist() == [H36M_17.joints.index("left_ankle")]


# --- resampling


def test_between_two_frames_that_show_a_joint_it_moves_in_a_straight_line():
    keypoints, scores = np.array([[[0.0, 10]], [[8, 30]]]), np.array([[0.4], [0.8]])
    found, level = resample(keypoints, scores, np.array([1.0, 2.0]), np.array([0.5, 1.0, 1.25, 2.0, 2.4]))
    np.testing.assert_allclose(found[:, 0], [[0, 10], [0, 10], [2, 15], [8, 30], [8, 30]])
    np.testing.assert_allclose(level[:, 0], [0.4, 0.4, 0.5, 0.8, 0.8], rtol=1e-6)


def test_beside_a_frame_that_does_not_show_it_the_nearer_one_decides():
    keypoints, scores = np.array([[[0.0, 10]], [[999, 999]]]), np.array([[0.4], [0.0]])
    found, level = resample(keypoints, scores, np.array([1.0, 2.0]), np.array([1.25, 1.75]))
    np.testing.assert_array_equal(found[0, 0], [0, 10])
    np.testing.assert_allclose(level[:, 0], [0.4, 0])


def test_at_its_own_times_nothing_changes():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 0.1, 30))
    keypoints, scores = rng.normal(size=(30, 17, 2)), np.float32(rng.uniform(size=(30, 17)) > 0.3)
    found, level = resample(keypoints, scores, times, times)
    np.testing.assert_allclose(found, keypoints, atol=1e-12)
    np.testing.assert_array_equal(level, scores)


def test_one_frame_is_all_there_is():
    keypoints, scores = np.ones((1, 17, 2)), np.ones((1, 17))
    found, level = resample(keypoints, scores, np.array([3.0]), np.array([3.0, 3.02]))
    np.testing.assert_array_equal(found, np.ones((2, 17, 2)))
    np.testing.assert_array_equal(level, np.ones((2, 17)))
