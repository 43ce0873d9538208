"""Sampling a split: the same figures on one device and on eight, whatever the batch size and the stride."""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax import parallel
from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.jobs import predict_clips, reprojection_errors
from diffpose_jax.geometry import Camera, project
from diffpose_jax.lifters.base import Aux, Lifter
from diffpose_jax.skeleton import get_skeleton

SKELETON = get_skeleton("h36m17")


@lru_cache
def toy_lifter(frames: int = 1, noise: float = 0.05) -> Lifter:
    """Truth times a weight, plus noise that derives from key, hypothesis and example's index as the contract asks.

    A cheap hash in place of jax.random: compiling threefry for every test would take most of their time.
    """

    def sample(variables, key, batch, num_hypotheses):
        shape = (num_hypotheses, *batch.poses.shape)
        index = jnp.broadcast_to(batch.index.astype(jnp.uint32)[None, :, None, None, None], shape)
        mixed = index * jnp.uint32(0x9E3779B1) + jax.random.key_data(key)[-1]
        for axis in (0, 2, 3, 4):  # hypothesis, frame, joint, coordinate
            mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA6B) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
        drawn = (mixed >> 16).astype(jnp.float32) / 32768 - 1
        poses = variables["weight"] * batch.poses[None] + noise * drawn
        return poses - poses[..., :1, :]

    return Lifter(
        lambda key, batch: {"weight": jnp.float32(1)},
        lambda variables, key, batch: (jnp.float32(0), Aux({}, {})),
        sample,
        SKELETON,
        frames,
    )


VARIABLES = {"weight": np.float32(1.0)}


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    rng = np.random.default_rng(0)
    cameras = Camera(
        *(
            np.stack([np.array(row, np.float32)] * 2)
            for row in ([2.3, 2.2], [0.02, 0.03], [-0.2, 0.2, 0], [0, 0], [1, 0, 0, 0], [0] * 3, [1000, 1000])
        )
    )
    parts = []
    for number, length in enumerate([13, 5, 30]):
        poses = (rng.normal(size=(length, 17, 3)) * 0.3).astype(np.float32)
        poses[:, 0] = 0
        root = np.tile(np.array([0.2, -0.1, 5.0], np.float32), (length, 1))
        camera = number % 2
        seen = project(jnp.asarray(poses + root[:, None]), Camera(*(field[camera] for field in cameras)))
        parts.append(Clip(np.asarray(seen), poses, root, f"S{number}", "walk", camera))
    return ClipSet.build(parts, SKELETON, cameras)


def on_devices(monkeypatch, count: int) -> None:
    devices = jax.local_devices()[:count]
    monkeypatch.setattr(parallel.jax, "local_devices", lambda: devices)
    monkeypatch.setattr(parallel.jax, "local_device_count", lambda: count)


@pytest.mark.parametrize("frames", [1, 9])
def test_one_and_eight_devices_give_the_same_poses(clips, monkeypatch, frames):
    assert jax.local_device_count() == 8
    names = ("first", "mean", "reprojection", "oracle_best_joint")
    options = {"num_hypotheses": 3, "aggregations": names, "batch_size": 3}
    lifter = toy_lifter(frames)
    many, frames_of_many = predict_clips(lifter, VARIABLES, clips, **options)
    on_devices(monkeypatch, 1)
    one, frames_of_one = predict_clips(lifter, VARIABLES, clips, **options)
    np.testing.assert_array_equal(frames_of_one, frames_of_many)
    for name in names:
        np.testing.assert_allclose(one[name], many[name], atol=1e-6)


@pytest.mark.parametrize(("frames", "batch_size"), [(1, 1), (1, 4), (9, 1), (9, 1000)])
def test_padding_of_ids_and_windows_leaves_no_trace(clips, frames, batch_size):
    poses, numbers = predict_clips(
        toy_lifter(frames, noise=0), VARIABLES, clips, num_hypotheses=2, aggregations=("mean",), batch_size=batch_size
    )
    np.testing.assert_array_equal(numbers, np.arange(clips.num_frames))
    np.testing.assert_allclose(poses["mean"], clips.poses, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 9])
def test_a_stride_takes_a_subset_of_the_same_figures(clips, frames):
    options = {"num_hypotheses": 3, "aggregations": ("first", "mean")}
    every, numbers = predict_clips(toy_lifter(frames), VARIABLES, clips, **options)
    some, chosen = predict_clips(toy_lifter(frames), VARIABLES, clips, stride=4, **options)
    expected = [start + i for start, length in zip([0, 13, 18], [13, 5, 30], strict=True) for i in range(0, length, 4)]
    np.testing.assert_array_equal(chosen, expected)
    for name in some:
        np.testing.assert_allclose(some[name], every[name][np.searchsorted(numbers, chosen)], atol=1e-6)


def test_all_hypotheses_come_back_and_agree_with_what_is_made_of_them(clips):
    lifter = toy_lifter()
    poses, _ = predict_clips(
        lifter, VARIABLES, clips, num_hypotheses=7, aggregations=("all", "first", "mean", "joint_median", "oracle_best")
    )
    every = poses["all"]
    assert every.shape == (clips.num_frames, 7, 17, 3)
    np.testing.assert_allclose(every[:, 0], poses["first"], atol=1e-6)
    np.testing.assert_allclose(every.mean(axis=1), poses["mean"], atol=1e-6)
    np.testing.assert_allclose(np.median(every, axis=1), poses["joint_median"], atol=1e-6)
    errors = np.linalg.norm(every - clips.poses[:, None], axis=-1).mean(-1)
    best = every[np.arange(len(every)), errors.argmin(axis=1)]
    np.testing.assert_allclose(best, poses["oracle_best"], atol=1e-6)


def test_hypotheses_do_not_depend_on_how_many_are_drawn(clips):
    few, _ = predict_clips(toy_lifter(), VARIABLES, clips, num_hypotheses=2, aggregations=("all",))
    many, _ = predict_clips(toy_lifter(), VARIABLES, clips, num_hypotheses=6, aggregations=("all",))
    np.testing.assert_allclose(many["all"][:, :2], few["all"], atol=1e-6)


def test_the_true_pose_reprojects_onto_its_keypoints_without_its_root(clips):
    camera = Camera(*(np.stack([field[0]] * 5) for field in clips.cameras))
    wrong = clips.poses[:5] + np.eye(17, dtype=np.float32)[None, 3, :, None] * 0.3
    hypotheses = jnp.asarray(np.stack([clips.poses[:5], wrong]))[:, :, None]
    errors = reprojection_errors(hypotheses, jnp.asarray(clips.keypoints[:5, None]), camera)
    np.testing.assert_allclose(errors[0], 0, atol=2e-5)
    assert np.all(np.argmax(np.asarray(errors[1]), axis=-1) == 3)


def test_reprojection_needs_cameras(clips):
    blind = ClipSet.build([clips.clip(0)._replace(camera=-1)], SKELETON)
    with pytest.raises(UserError, match="known cameras"):
        predict_clips(toy_lifter(), VARIABLES, blind, num_hypotheses=2, aggregations=("reprojection",))


def test_an_unknown_aggregation_is_named(clips):
    with pytest.raises(UserError, match="found 'best'"):
        predict_clips(toy_lifter(), VARIABLES, clips, num_hypotheses=2, aggregations=("best",))


def test_progress_ends_when_all_is_done(clips):
    seen = []
    predict_clips(
        toy_lifter(), VARIABLES, clips, num_hypotheses=1, aggregations=("mean",), batch_size=2, progress=seen.append
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) > 1
