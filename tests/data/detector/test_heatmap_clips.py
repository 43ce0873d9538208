"""A set seen through simulated heatmaps errs like detections, says what was visible, and has points to fit to."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.heatmap_clips import detect_in_heatmaps, draw_heatmap_points, regroup
from diffpose_jax.data.detector.keypoint_noise import add_keypoint_noise
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17

from .walking import PIXELS, walking


def clipset(lengths=(250, 200), poses=True) -> ClipSet:
    clips = []
    for number, length in enumerate(lengths):
        keypoints, pose = walking(length, 0.4 + number)
        clips.append(Clip(keypoints, pose if poses else None, None, f"S{number}", "walking"))
    return ClipSet.build(clips, H36M_17)


def test_keypoints_of_heatmaps_err_like_simulated_detections():
    exact = clipset((2000, 2000))
    found, detected = detect_in_heatmaps(exact, 3), add_keypoint_noise(exact, 3)
    error, reference = (np.linalg.norm(one.keypoints - exact.keypoints, axis=-1) * PIXELS for one in (found, detected))
    assert 0.75 < error.mean() / reference.mean() < 1.15
    np.testing.assert_allclose(error.mean(axis=0), reference.mean(axis=0), rtol=0.35)
    assert np.quantile(error, 0.99) > 4 * np.median(error)  # heavy-tailed
    stronger = detect_in_heatmaps(exact, 3, strength=2.0)
    assert 1.7 < np.linalg.norm(stronger.keypoints - exact.keypoints, axis=-1).mean() * PIXELS / error.mean() < 2.3


def test_a_set_seen_through_heatmaps_says_what_was_seen():
    exact = clipset()
    found, again, other = (detect_in_heatmaps(exact, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(found.keypoints, again.keypoints)
    assert np.abs(found.keypoints - other.keypoints).max() > 1e-3
    assert found.visibility.shape == found.scores.shape == exact.keypoints.shape[:2]
    assert 0.02 < (found.visibility == 1).mean() < 0.5
    error = np.linalg.norm(found.keypoints - exact.keypoints, axis=-1)
    assert error[found.visibility == 1].mean() > 1.5 * error[found.visibility == 0].mean()
    np.testing.assert_array_equal(found.poses, exact.poses)
    with pytest.raises(UserError, match="expected a data set with 3D poses"):
        detect_in_heatmaps(clipset(poses=False), 0)
    with pytest.raises(UserError, match="expected a strength above 0, found 0"):
        detect_in_heatmaps(exact, 0, strength=0.0)


def test_points_belong_to_the_frames_and_do_not_depend_on_the_chunk():
    exact = clipset()
    parts, others = ({int(n): p for f, ps in draw_heatmap_points(exact, 1, num_points=64, chunk=size) for n, p in
                      zip(f, np.asarray(ps), strict=True)} for size in (64, 100))  # fmt: skip
    assert list(parts) == list(range(450))
    points = np.stack([parts[n] for n in range(450)])
    np.testing.assert_allclose(points, np.stack([others[n] for n in range(450)]), atol=1e-6)
    found = detect_in_heatmaps(exact, 1)
    calm = found.visibility == 0
    gap = np.linalg.norm(np.median(points, axis=2) - found.keypoints, axis=-1)
    assert np.median(gap[calm]) * PIXELS < 2
    assert np.abs(points[1:] - points[:-1]).max() > 0.01  # frames have their own draws


def test_groups_hold_everything_in_order():
    parts = [np.arange(first, first + size) for first, size in ((0, 3), (3, 7), (10, 1))]
    assert [group.tolist() for group in regroup(parts, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
