"""What the page is given: arrays that survive base64, people in the world's axes, and a bounded size."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.viz.page.content import describe_video, limit_hypotheses, pack, unpack

from ..lifted_people import lifted_video


def test_positions_survive_base64_to_half_a_millimetre():
    positions = np.random.default_rng(0).uniform(-3, 3, (7, 17, 3))
    np.testing.assert_allclose(unpack(pack(positions, "int16", 0.001)), positions, atol=0.0005001)


@pytest.mark.parametrize("kind", ["int16", "uint16"])
def test_what_is_missing_stays_missing_and_what_is_too_large_is_limited(kind):
    found = unpack(pack(np.array([1.0, np.nan, 1e9, np.inf]), kind, 0.001))
    np.testing.assert_array_equal(np.isnan(found), [False, True, False, True])
    assert found[2] == pytest.approx(np.iinfo(kind).max / 1000, abs=0.002)


@pytest.mark.parametrize("kind", ["uint8", "int32", "float32"])
def test_other_kinds_survive_exactly(kind):
    array = np.array([[0, 1], [1, 200]])
    np.testing.assert_array_equal(unpack(pack(array, kind)), array)


def test_the_page_has_everybody_where_the_world_has_them():
    video, _ = lifted_video()
    for person, described in zip(video.people, describe_video(video)["people"], strict=True):
        root = unpack(described["root"])
        np.testing.assert_allclose(root[:, None] + unpack(described["poses"]), video.in_world(person), atol=0.001)
        hypotheses = root[:, None, None] + unpack(described["hypotheses"])
        np.testing.assert_allclose(hypotheses, video.in_world(person, hypotheses=True), atol=0.001)
        np.testing.assert_allclose(unpack(described["radius90"]), person.radius_90, atol=0.0003)
        np.testing.assert_allclose(unpack(described["keypoints"]), person.keypoints, atol=0.05)
        np.testing.assert_array_equal(unpack(described["frames"]), person.frames)


def test_uncalibrated_people_have_no_regions_and_are_coloured_by_the_spread():
    video, _ = lifted_video()
    bare = video._replace(people=tuple(p._replace(radius_50=None, radius_90=None) for p in video.people))
    described = describe_video(bare)
    person = described["people"][0]
    assert person["radius90"] is None
    assert described["scale"]["label"] == "standard deviation over the hypotheses"
    np.testing.assert_allclose(unpack(person["uncertainty"]), 1000 * video.people[0].spread, atol=0.3)


def test_the_truth_stands_at_the_lifted_root_whether_absolute_or_relative():
    video, truth = lifted_video()
    name = video.people[0].name
    relative = truth[name] - truth[name][:, :1]
    both = [describe_video(video, {name: joints})["people"][0]["truth"] for joints in (truth[name], relative)]
    np.testing.assert_allclose(unpack(both[0]), unpack(both[1]), atol=0.001)
    np.testing.assert_allclose(
        unpack(both[0])[:, 0], unpack(describe_video(video)["people"][0]["poses"])[:, 0], atol=1e-6
    )


def test_truth_of_a_stranger_or_of_another_length_is_refused():
    video, truth = lifted_video()
    with pytest.raises(UserError, match="truth: expected some of person 0, person 1, found 'nobody'"):
        describe_video(video, {"nobody": truth["person 0"]})
    with pytest.raises(UserError, match=r"truth of person 0: expected the shape \(60, 17, 3\), found \(59, 17, 3\)"):
        describe_video(video, {"person 0": truth["person 0"][1:]})


def test_long_videos_keep_fewer_hypotheses_and_then_fewer_frames():
    video, _ = lifted_video(("a",), 60, 20)
    one = 60 * 17 * 3 * 2
    assert limit_hypotheses(video, budget=20 * one) == (20, 1)
    assert limit_hypotheses(video, budget=8 * one) == (8, 1)
    kept, stride = limit_hypotheses(video, budget=one)
    assert stride == 5
    assert kept * one / stride <= one


def test_thinned_frames_keep_their_places(monkeypatch):
    video, _ = lifted_video(("a", "b"), 60)
    monkeypatch.setattr("diffpose_jax.viz.page.content.HYPOTHESES_BYTES", 2 * 60 * 17 * 3 * 2)
    described = describe_video(video)
    stride = described["stride"]
    assert stride > 1
    for person, found in zip(video.people, described["people"], strict=True):
        np.testing.assert_array_equal(unpack(found["frames"]), person.frames[::stride])
        assert found["poses"]["shape"][0] == found["hypotheses"]["shape"][0] == len(person.frames[::stride])


def test_a_video_with_nobody_and_one_without_frames_can_be_described():
    video, _ = lifted_video()
    for empty in (video._replace(people=()), video._replace(people=(), times=np.zeros(0))):
        assert json.dumps(describe_video(empty), allow_nan=False)
