"""Baselines against independent references."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.evaluation.baselines import mean_pose, nearest_neighbour, nearest_neighbours, normalise_keypoints
from diffpose_jax.skeleton import get_skeleton


def clipset(rng: np.random.Generator, frames: int) -> ClipSet:
    poses = rng.normal(size=(frames, 17, 3)).astype(np.float32)
    keypoints = rng.normal(size=(frames, 17, 2)).astype(np.float32)
    return ClipSet.build([Clip(keypoints, poses, None, "S1", "walk")], get_skeleton("h36m17"))


def test_the_mean_pose_is_the_mean():
    train = clipset(np.random.default_rng(0), 50)
    np.testing.assert_allclose(mean_pose(train), train.poses.astype(np.float64).mean(0), rtol=1e-5)


def test_the_nearest_neighbours_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    train, queries = clipset(rng, 1300), clipset(rng, 77).keypoints
    centred = [k - k[:, :1] for k in (train.keypoints.astype(np.float64), queries.astype(np.float64))]
    known, asked = ((c / np.linalg.norm(c, axis=(1, 2), keepdims=True)).reshape(len(c), -1) for c in centred)
    _, nearest = NearestNeighbors(n_neighbors=5).fit(known).kneighbors(asked)
    np.testing.assert_array_equal(nearest_neighbour(train, queries, batch_size=8), train.poses[nearest[:, 0]])
    np.testing.assert_array_equal(nearest_neighbours(train, queries, 5, batch_size=40), train.poses[nearest])


def test_there_are_no_more_neighbours_than_frames():
    train = clipset(np.random.default_rng(0), 3)
    found = nearest_neighbours(train, train.keypoints[:1], 20)[0]
    np.testing.assert_array_equal(np.sort(found.sum(axis=(1, 2))), np.sort(train.poses.sum(axis=(1, 2))))


def test_place_and_size_of_a_person_in_the_image_do_not_matter():
    rng = np.random.default_rng(0)
    train = clipset(rng, 60)
    moved = train.keypoints[:20] * 0.3 + np.array([0.4, -0.1], np.float32)
    np.testing.assert_array_equal(nearest_neighbour(train, moved), train.poses[:20])
    np.testing.assert_allclose(normalise_keypoints(moved), normalise_keypoints(train.keypoints[:20]), atol=1e-6)


def test_a_large_training_split_is_thinned_evenly():
    train = clipset(np.random.default_rng(0), 60)
    found = nearest_neighbour(train, train.keypoints[:9], max_train_frames=20)
    np.testing.assert_array_equal(found[::3], train.poses[[0, 3, 6]])
