"""Left and right are put back where a detector exchanged them, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.people import Track
from diffpose_jax.skeleton import COCO_17, H36M_17
from diffpose_jax.video.sides import exchanged_frames, settle_sides

SKELETON = COCO_17
FLIP = list(SKELETON.flip_order)


def figure(degrees: np.ndarray) -> np.ndarray:
    """Keypoints `[T, 17, 2]` of a person of 170 pixels, turned by angles `[T]` from facing the camera."""
    heights = {"ankle": 0, "knee": 50, "hip": 90, "wrist": 85, "elbow": 110, "shoulder": 140, "ear": 162, "eye": 165}
    widths = {"ankle": 10, "knee": 11, "hip": 15, "wrist": 28, "elbow": 25, "shoulder": 20, "ear": 7, "eye": 3}
    keypoints = np.zeros((len(degrees), SKELETON.num_joints, 2))
    for index, joint in enumerate(SKELETON.joints):
        side, _, part = joint.rpartition("_")
        x = {"left": 1, "right": -1}.get(side, 0) * widths.get(part, 0)
        keypoints[:, index] = np.stack(
            [300 + x * np.cos(np.radians(degrees)), np.full(len(degrees), 300.0 - heights.get(part, 160))], axis=-1
        )
    return keypoints


def exchanged(keypoints: np.ndarray, fps: float) -> list[int]:
    times = np.arange(len(keypoints)) / fps
    return np.flatnonzero(exchanged_frames(keypoints, np.ones(keypoints.shape[:2]), times, SKELETON)).tolist()


@pytest.mark.parametrize("wrong", [[5], [0, 1, 2], list(range(20, 40)), [3, 4, 9, 57, 58, 59]])
def test_frames_in_which_sides_jump_are_put_back(wrong):
    keypoints = figure(np.zeros(60))
    keypoints[wrong] = keypoints[wrong][:, FLIP]
    assert exchanged(keypoints, fps=30) == wrong


@pytest.mark.parametrize("fps", [10, 30, 60])
def test_a_person_who_turns_round_is_left_alone(fps):
    seconds = np.arange(0, 4, 1 / fps)
    assert exchanged(figure(180 * seconds.clip(1, 2) - 180), fps) == []


def test_a_person_who_spins_is_left_alone():
    assert exchanged(figure(360 * np.arange(0, 3, 1 / 30)), 30) == []


def test_a_mistake_while_a_person_turns_is_put_back():
    keypoints = figure(180 * np.arange(0, 2, 1 / 30))
    keypoints[2:6] = keypoints[2:6][:, FLIP]
    assert exchanged(keypoints, 30) == [2, 3, 4, 5]


def test_frames_far_apart_say_nothing_of_each_other():
    keypoints = figure(np.array([0.0, 180.0, 0.0]))
    assert exchanged(keypoints, fps=1) == []


def test_one_frame_is_left_alone():
    assert exchanged(figure(np.zeros(1)), 30) == []


def test_scores_and_mixtures_change_sides_too():
    keypoints = figure(np.zeros(9))
    scores = np.linspace(0.5, 1, 17) * np.ones((9, 1))
    means = np.arange(17.0)[None, :, None, None] * np.ones((9, 17, 1, 2))
    mixture = Mixture(np.ones((9, 17, 1)), means, np.ones((9, 17, 1, 2)))
    right = Track("person 0", np.arange(9), keypoints, scores, SKELETON, mixture)
    wrong = right._replace(keypoints=keypoints.copy(), scores=scores.copy())
    wrong.keypoints[4], wrong.scores[4] = keypoints[4, FLIP], scores[4, FLIP]
    turned = means.copy()
    turned[4] = means[4, list(H36M_17.flip_order)]
    wrong = wrong._replace(mixture=mixture._replace(means=turned))
    settled = settle_sides(wrong, np.arange(9) / 30)
    np.testing.assert_array_equal(settled.keypoints, right.keypoints)
    np.testing.assert_array_equal(settled.scores, right.scores)
    np.testing.assert_array_equal(settled.mixture.means, means)
