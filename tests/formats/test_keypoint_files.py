"""Keypoint files of both formats give the same arrays; a mistake is told in one line, and nothing is executed."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffpose_jax.errors import UserError
from diffpose_jax.formats.keypoint_files import read_keypoint_file
from diffpose_jax.skeleton import COCO_17

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


@settings(max_examples=15, deadline=None)
@given(pixels=hnp.arrays(np.float64, (2, 17, 2), elements=st.floats(3, 1000)))
def test_both_formats_mean_the_same(pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    np.savez(folder / "a.npz", keypoints=pixels, image_size=SIZE, layout="coco17")
    (folder / "a.json").write_text(json.dumps({"keypoints": pixels.tolist(), "image_size": SIZE, "layout": "coco17"}))
    (first,), (second,) = read_keypoint_file(folder / "a.npz"), read_keypoint_file(folder / "a.json")
    np.testing.assert_array_equal(first.keypoints, pixels)
    np.testing.assert_array_equal(second.keypoints, pixels)
    assert first.skeleton == second.skeleton == COCO_17
    assert first.image_size.tolist() == second.image_size.tolist() == SIZE


GOOD = {"keypoints": person(), "image_size": SIZE, "layout": "h36m17"}
WITH_INFINITY = person()
WITH_INFINITY[1, 3, 0] = np.inf


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keypoints": None}, "expected 'keypoints', found image_size, layout"),
        ({"keypoints": person(joints=16)}, "expected 17 joints in layout h36m17, found 16 (layouts of 16: h36m16)"),
        ({"keypoints": person(joints=14)}, "found 14 (layouts of 14: none)"),
        ({"keypoints": WITH_INFINITY}, "expected finite keypoints, found inf at index [1, 3, 0]"),
        ({"keypoints": np.full((4, 17, 2), np.nan)}, "expected joints that were seen (finite, score of at least 0.1)"),
        ({"scores": np.full((4, 17), 0.04)}, "found none of a person, scores of 0.04 at most"),
        ({"keypoints": np.zeros((0, 17, 2))}, None),
        ({"keypoints": person() / 1000}, "expected keypoints in pixels"),
        ({"keypoints": np.zeros((4, 17, 5))}, "expected keypoints of shape [T, J, 2 or 3], found [4, 17, 5]"),
        ({"keypoints": np.zeros(4)}, "expected keypoints of 2 or 3 or 4 dimensions, found shape [4]"),
        ({"image_size": None}, "expected 'image_size' as [width, height] in pixels, found none"),
        ({"image_size": [0, 1080]}, "expected image_size as [width, height]"),
        ({"image_size": [1920, 1080, 3]}, "expected image_size as [width, height]"),
        ({"layout": None}, "expected the name of a layout, found none (layouts of 17 joints: h36m17"),
        ({"layout": "openpose25"}, "expected a layout of h36m17"),
        ({"layout": 17}, "expected text as layout"),
        ({"scores": np.ones((4, 16))}, "expected scores of shape [4, 17], found [4, 16]"),
        ({"scores": -np.ones((4, 17))}, "expected scores of 0 or more, found -1"),
        ({"fps": 0}, "expected a positive fps, found 0"),
        ({"fps": "fast"}, "expected a number as fps"),
        ({"frame_rate": 30}, "expected the keys keypoints, image_size"),
    ],
)
def test_mistakes_are_told_in_one_line(write, suffix, change, said):
    entries = {key: value for key, value in (GOOD | change).items() if value is not None}
    path = write(suffix, **entries)
    with pytest.raises(UserError) as refused:
        read_keypoint_file(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    # An empty list has lost its inner dimensions in JSON.
    assert (said or ("at least one frame" if suffix == ".npz" else "dimensions, found shape [0]")) in message


def _missing(kind: str) -> dict:
    """An ankle that was not seen in frame 1, said in one of the ways there are."""
    keypoints, scores = person().tolist(), np.ones((4, 17)).tolist()
    if kind in ("nan", "null"):
        keypoints[1][3] = [float("nan")] * 2 if kind == "nan" else [None, None]
    elif kind == "null joint":
        keypoints[1][3] = None
    elif kind == "half":
        keypoints[1][3][1] = None
    elif kind == "origin":
        keypoints[1][3], scores[1][3] = [0, 0], 0
    else:
        scores[1][3] = {"score 0": 0, "low score": 0.099, "no score": None}[kind]
    return GOOD | {"keypoints": keypoints, "scores": scores}


@pytest.mark.parametrize("kind", ["null", "null joint", "half", "origin", "score 0", "low score", "no score"])
def test_every_way_to_say_that_a_joint_was_not_seen_means_the_same(write, kind):
    (expected,) = read_keypoint_file(write(".json", **_missing("nan")))
    (found,) = read_keypoint_file(write(".json", **_missing(kind)))
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert np.argwhere(found.scores == 0).tolist() == [[1, 3]]
    assert np.isfinite(found.keypoints).all()


def test_a_whole_frame_may_be_null_and_scores_need_not_be_given(write):
    keypoints = person().tolist()
    keypoints[2] = None
    (clip,) = read_keypoint_file(write(".json", **(GOOD | {"keypoints": keypoints})))
    assert (clip.scores[2] == 0).all()
    assert (np.delete(clip.scores, 2, axis=0) == 1).all()
    (whole,) = read_keypoint_file(write(".json", **GOOD))
    assert whole.scores is None


def test_the_caller_may_set_the_threshold_but_a_score_of_zero_is_never_seen(write):
    scores = np.linspace(0, 0.66, 68).reshape(4, 17)
    path = write(".npz", **GOOD, scores=scores)
    for threshold in (0.0, 0.1, 0.5):
        (clip,) = read_keypoint_file(path, min_score=threshold)
        np.testing.assert_array_equal(clip.scores > 0, (scores >= threshold) & (scores > 0))


def test_a_layout_that_contradicts_the_file_is_refused(write):
    with pytest.raises(UserError, match="expected layout coco17 as asked for, found h36m17 in the file"):
        read_keypoint_file(write(".npz", **GOOD), layout="coco17")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "expected JSON"),
        ("a.json", "[]", "expected at least one clip"),
        ("a.json", "[3]", "expected an object with keypoints"),
        (
            "a.json",
            '{"keypoints": [[[1, 2], [3]]], "image_size": [9, 9], "layout": "h36m17"}',
            "lists of unequal length",
        ),
        ("a.json", '{"keypoints": [[[1, null]]], "image_size": [9, 9], "layout": "h36m17"}', "found 1"),
        ("a.npz", "{}", "expected an .npz file, found a damaged one"),
        ("a.csv", "1,2", "expected a keypoint file (.npz or .json), found suffix '.csv'"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as refused:
        read_keypoint_file(tmp_path / name)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.json: expected a keypoint file, found no such file"):
        read_keypoint_file(tmp_path / "nowhere.json")


class Command:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


def test_a_hostile_member_is_refused_and_runs_nothing(write, tmp_path):
    sentinel = tmp_path / "sentinel"
    hostile = np.array([Command(f"touch {sentinel}")], dtype=object)
    with pytest.raises(UserError, match=r"member 'layout': refused: .* the forbidden global '\w+.system'"):
        read_keypoint_file(write(".npz", **(GOOD | {"layout": hostile})))
    assert not sentinel.exists()
