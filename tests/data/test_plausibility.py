"""Keypoints unlike those of training are told in a line each; those like them are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.plausibility import (
    FILE,
    KeypointRecord,
    find_oddities,
    load_record,
    measure_keypoints,
    save_record,
)
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17

SIDES = list(H36M_17.flip_order)


@pytest.fixture(scope="module")
def splits() -> dict[str, ClipSet]:
    return load_synthetic(seed=0, subjects=6, frames=100)


@pytest.fixture(scope="module")
def record(splits) -> KeypointRecord:
    return measure_keypoints(splits["train"])


def changed(clips: ClipSet, change) -> ClipSet:
    return dataclasses.replace(clips, keypoints=change(clips.keypoints).astype(np.float32))


def shrink(keypoints: np.ndarray) -> np.ndarray:
    middle = keypoints.mean(axis=1, keepdims=True)
    return middle + (keypoints - middle) / 3


def test_people_like_those_of_training_raise_no_word(splits, record):
    for clips in splits.values():
        assert find_oddities(clips, record) == []
    for index in range(0, splits["valid"].num_clips, 4):
        assert find_oddities(splits["valid"].select([index]), record) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda k: k + np.array([0.9, 0]), "the person stands at x "),
        (shrink, "the person's size is 0.0"),
        (lambda k: -k, "in training that was rare (y up in the file?)"),
        (lambda k: k[:, SIDES], "left and right seem to be exchanged: verdict -0."),
        (lambda k: k[:, np.random.default_rng(0).permutation(17)], "the joints do not make a person"),
    ],
    ids=["shift", "third", "upside_down", "exchanged", "scrambled"],
)
def test_what_no_training_showed_is_told_with_figures(splits, record, change, said):
    lines = find_oddities(changed(splits["valid"], change), record)
    assert any(said in line for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_a_long_arm_is_told_by_its_name(splits, record):
    elbow = H36M_17.joints.index("left_elbow")

    def stretch(keypoints):
        keypoints = keypoints.copy()
        keypoints[:, elbow : elbow + 2] += 2.5 * (keypoints[:, elbow] - keypoints[:, elbow - 1])[:, None]
        return keypoints

    lines = find_oddities(changed(splits["valid"], stretch), record)
    assert any("left_elbow" in line or "do not make a person" in line for line in lines)


def test_where_a_view_looks_at_the_person_position_and_size_do_not_count(splits, record):
    moved = changed(splits["valid"], lambda k: shrink(k) + np.array([0.9, 0]))
    assert len(find_oddities(moved, record)) == 2
    assert find_oddities(moved, record, placed=False) == []


def test_hidden_joints_do_not_count(splits, record):
    clips = splits["valid"]
    scores = np.ones(clips.keypoints.shape[:2], np.float32)
    scores[:, 5:7] = 0
    hidden = dataclasses.replace(clips, scores=scores)
    rubbish = np.where(scores[..., None] > 0, clips.keypoints, 9.0).astype(np.float32)
    assert find_oddities(hidden, record) == []
    assert find_oddities(dataclasses.replace(hidden, keypoints=rubbish), record) == []


def test_poses_have_proportions_but_not_beside_a_detectors_keypoints(splits, record, tmp_path):
    assert record.proportions is not None
    save_record(record, tmp_path)
    assert load_record(tmp_path).proportions == record.proportions
    detected = measure_keypoints(dataclasses.replace(splits["valid"], detected=True))
    assert detected.proportions is None
    save_record(detected, tmp_path)
    assert load_record(tmp_path).proportions is None


def test_a_record_is_kept_in_a_work_directory(record, tmp_path):
    assert load_record(tmp_path) is None
    save_record(record, tmp_path)
    for name, part in load_record(tmp_path)._asdict().items():
        np.testing.assert_array_equal(part, getattr(record, name))
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UserError, match=FILE):
        load_record(tmp_path)
