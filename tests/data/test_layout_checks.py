"""Mistakes planted in the keypoints of walking people are named; people as they are raise no word."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from diffpose_jax.data.layout_checks import find_mistakes
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.formats.keypoint_files import KeypointClip
from diffpose_jax.skeleton import BLAZEPOSE_33, COCO_17, H36M_17, MPI_INF_3DHP_17, Skeleton, convert_layout

SIZE = np.array([1000.0, 1000.0])


@pytest.fixture(scope="module")
def people() -> list[KeypointClip]:
    """People of eight kinds of motion in pixels of a square picture."""
    clips = load_synthetic(seed=0, subjects=4, frames=60)["train"]
    pixels = (np.asarray(clips.keypoints, np.float64) + 1) * 500
    bounds = zip(clips.clip_start, clips.clip_length, strict=True)
    return [KeypointClip(pixels[a : a + n], None, SIZE, H36M_17, 50.0, "", "") for a, n in bounds if n >= 30]


def as_layout(clip: KeypointClip, skeleton: Skeleton) -> KeypointClip:
    """The clip in a layout that has its joints under other indices; faces lie at neck and head."""
    names = {"neck": "thorax", "head": "neck_nose", "left_eye": "head_top", "right_eye": "head_top"}
    joints = [H36M_17.joints.index(names.get(name, name if name in H36M_17.joints else "neck_nose"))
              for name in skeleton.joints]  # fmt: skip
    return clip._replace(keypoints=clip.keypoints[:, joints], skeleton=skeleton)


def change(clips: list[KeypointClip], how) -> list[KeypointClip]:
    return [clip._replace(keypoints=how(clip.keypoints)) for clip in clips]


def test_people_as_they_are_raise_no_word(people):
    for clip in people:
        assert find_mistakes([clip]) == []
    assert find_mistakes(people) == []


def test_hidden_joints_and_part_of_a_person_raise_no_word(people):
    for missing in ([1, 2, 3, 4, 5, 6], [11, 12, 13], list(range(7, 17))):
        scores = np.ones(people[0].keypoints.shape[:2])
        scores[:, missing] = 0
        rubbish = np.where(scores[..., None] > 0, people[0].keypoints, 5000.0)
        assert find_mistakes([people[0]._replace(keypoints=rubbish, scores=scores)]) == []


@pytest.mark.parametrize(("true", "named"), [(H36M_17, COCO_17), (COCO_17, H36M_17), (MPI_INF_3DHP_17, H36M_17)])
def test_another_layout_is_named(people, true, named):
    clips = [as_layout(clip, true)._replace(skeleton=named) for clip in people]
    (line,) = find_mistakes(clips)
    assert f"the joints fit {true.name} better than {named.name}" in line


def test_an_unknown_order_of_joints_is_no_person(people):
    orders = [np.random.default_rng(seed).permutation(17) for seed in range(10)]
    found = [find_mistakes(change(people, lambda k, order=order: k[:, order])) for order in orders]
    assert all(len(lines) >= 1 for lines in found)
    assert all("another order of joints" in lines[0] for lines in found)


def test_layouts_of_other_detectors_raise_no_word(people):
    for skeleton in (COCO_17, BLAZEPOSE_33):
        assert find_mistakes([as_layout(clip, skeleton) for clip in people]) == []


def test_y_up_is_named(people):
    (line,) = find_mistakes(change(people, lambda k: np.stack([k[..., 0], 1000 - k[..., 1]], axis=-1)))
    assert "y up in the file" in line


def test_frames_and_people_exchanged_is_named(people):
    crowd = np.stack([clip.keypoints[:30] for clip in people[:4]])
    crowd[..., 0] += np.arange(4)[:, None, None] * 200 - 300
    right = [people[0]._replace(keypoints=person) for person in crowd]
    wrong = [people[0]._replace(keypoints=person) for person in np.swapaxes(crowd, 0, 1)]
    assert find_mistakes(right) == []
    assert "frames and people seem to be exchanged" in find_mistakes(wrong)[0]


def test_sides_that_are_exchanged_in_some_frames_are_named(people):
    def exchange(keypoints):
        keypoints = keypoints.copy()
        keypoints[10:20] = keypoints[10:20][:, list(H36M_17.flip_order)]
        return keypoints

    # From the side both legs lie in one place, so that not every clip shows it.
    facing = [clip for clip in people if np.abs(clip.keypoints[:, 11, 0] - clip.keypoints[:, 14, 0]).min() > 12]
    assert len(facing) >= 3
    for clip in facing:
        (line,) = find_mistakes(change([clip], exchange))
        assert "left and right are exchanged between neighbouring frames 2 times in" in line


def test_another_picture_than_that_of_the_keypoints_is_named(people):
    small = [clip._replace(image_size=np.array([520.0, 520.0])) for clip in people]
    assert "of the joints lie outside the image of 520 x 520" in find_mistakes(small)[-1]
    wide = change(people, lambda k: np.stack([k[..., 0] * 1.5, k[..., 1] * 0.6], axis=-1))
    portrait = [clip._replace(image_size=np.array([600.0, 1500.0])) for clip in wide]
    assert "width and height exchanged" in find_mistakes(portrait)[-1]


def test_constructed_joints_of_seventeen_come_from_the_right_places(people):
    # The maps of detectors' layouts put what Human3.6M has and they have not where it belongs.
    clip = as_layout(people[0], COCO_17)
    made = convert_layout(clip.keypoints, COCO_17, H36M_17)
    assert np.abs(made[:, 0] - people[0].keypoints[:, 0]).max() < 2
    assert dataclasses.is_dataclass(clip.skeleton)
