"""Identities: they last while people walk, cross, leave and come back, and nobody takes over another's."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.video.tracking import Body, Tracker, distinct, is_part, keypoint_distance

SHAPE = np.random.default_rng(0).uniform(0, 1, (17, 2)) * [60, 160]


def body(x: float, y: float = 200.0, size: float = 1.0, scores: float = 1.0) -> Body:
    """A body of 60 x 160 pixels whose middle is at x, y."""
    return Body((SHAPE - [30, 80]) * size + [x, y], np.full(17, scores))


def follow(tracker: Tracker, frames: list[list[Body]], fps: float = 30.0, start: float = 0.0) -> list[list[int]]:
    return [tracker.update(bodies, start + index / fps) for index, bodies in enumerate(frames)]


def test_people_who_walk_keep_their_identities_whatever_the_order():
    frames = [[body(100 + 4 * step), body(500 - 4 * step)][:: 1 if step % 2 else -1] for step in range(20)]
    found = follow(Tracker(), frames)
    assert {tuple(sorted(ids)) for ids in found} == {(0, 1)}
    assert all(ids == found[step % 2] for step, ids in enumerate(found))
    assert found[0] == found[1][::-1]


def test_the_largest_of_the_first_frame_is_person_0():
    assert Tracker().update([body(100), body(400, size=1.5)], 0.0) == [1, 0]


def test_two_who_cross_keep_their_identities():
    frames = [[body(100 + 6 * step), body(400 - 6 * step, 230)] for step in range(50)]
    found = follow(Tracker(), frames)
    assert found[-1] == found[0]


def test_two_who_cross_keep_their_identities_when_one_hides_the_other():
    frames = []
    for step in range(50):
        front, back = body(100 + 6 * step), body(400 - 6 * step, 230)
        frames.append([front] if abs(front.keypoints[0, 0] - back.keypoints[0, 0]) < 45 else [front, back])
    found = follow(Tracker(), frames)
    assert {tuple(ids) for ids in found if len(ids) == 2} == {tuple(found[0])}
    assert {ids[0] for ids in found if len(ids) == 1} == {found[0][0]}


def test_who_leaves_and_comes_back_soon_near_by_is_the_same():
    tracker = Tracker()
    follow(tracker, [[body(600), body(100 - 5 * step)] for step in range(10)])
    follow(tracker, [[body(600)]] * 30, start=10 / 30)
    assert tracker.update([body(600), body(60)], 41 / 30) == [0, 1]


@pytest.mark.parametrize("returning", [body(1500), body(60, size=2.5)], ids=["far away", "much larger"])
def test_who_turns_up_elsewhere_or_in_another_size_is_somebody_else(returning):
    tracker = Tracker()
    follow(tracker, [[body(600), body(100)]] * 5)
    follow(tracker, [[body(600)]] * 10, start=5 / 30)
    assert tracker.update([body(600), returning], 16 / 30) == [0, 2]


def test_after_a_while_the_lost_are_forgotten():
    tracker = Tracker()
    tracker.update([body(100)], 0.0)
    assert tracker.update([body(100)], 3.5) == [1]


def test_who_is_hidden_does_not_become_the_bystander():
    """The man at 300 is lost for some frames, while a bystander is found who stands behind him all the time."""
    tracker = Tracker()
    follow(tracker, [[body(300), body(380, 160, 0.5)]] * 5)
    hidden = follow(tracker, [[body(380, 160, 0.5)]] * 5, start=5 / 30)
    assert hidden == [[1]] * 5
    assert tracker.update([body(380, 160, 0.5), body(305)], 10 / 30) == [1, 0]


def test_a_body_found_twice_is_one():
    half = Body(body(100).keypoints, np.r_[np.ones(8), np.zeros(9)])
    assert distinct([body(100), half, body(102), body(160)]) == [0, 3]


def test_two_who_stand_close_are_two():
    assert distinct([body(100), body(140)]) == [0, 1]
    assert keypoint_distance(body(100), body(140)) == pytest.approx(40 / (np.ptp(SHAPE[:, 1]) + 1), rel=1e-6)


def test_bodies_without_common_keypoints_cannot_be_compared():
    assert keypoint_distance(body(100), body(100, scores=0.0)) == float("inf")


def test_a_small_body_within_the_box_of_another_is_a_part_of_it():
    assert is_part(body(100, size=0.5), body(100))
    assert not is_part(body(180, size=0.5), body(100))
    assert not is_part(body(100, size=0.9), body(100))


def test_joints_that_were_not_seen_do_not_count():
    keypoints = body(100).keypoints.copy()
    keypoints[10:] = np.nan
    seen = Body(keypoints, np.r_[np.ones(10), np.zeros(7)])
    assert np.isfinite(seen.box).all()
    assert follow(Tracker(), [[seen]] * 3) == [[0]] * 3


def test_a_single_keypoint_can_be_followed():
    point = Body(np.array([[50.0, 60.0]]), np.ones(1))
    assert follow(Tracker(), [[point]] * 3) == [[0]] * 3
