"""Sampling a split: the same figures on one device and on eight, whatever the batch size and the stride."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax import parallel
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import device_clips, end_aligned_windows
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import reprojection_errors
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.jobs import Job, predict_windows, spread_windows, strided_frames
from diffpose_jax.geometry import Camera, project
from diffpose_jax.lifters.base import Lifter, Sampling
from diffpose_jax.skeleton import Skeleton, get_skeleton

SKELETON = get_skeleton("h36m17")


@dataclasses.dataclass(frozen=True)
class ToyLifter(Lifter):
    """Truth times a weight, plus noise that derives from key, hypothesis and example's index as the contract asks.

    A cheap hash in place of jax.random: compiling threefry for every test would take most of their time.
    """

    frames: int = 1
    noise: float = 0.05
    skeleton: Skeleton = SKELETON

    def sample(self, variables, key, batch, sampling):
        shape = (sampling.hypotheses, *batch.poses.shape)
        index = jnp.broadcast_to(batch.index.astype(jnp.uint32)[None, :, None, None, None], shape)
        mixed = index * jnp.uint32(0x9E3779B1) + jax.random.key_data(key)[-1]
        for axis in (0, 2, 3, 4):  # hypothesis, frame, joint, coordinate
            mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA6B) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
        drawn = (mixed >> 16).astype(jnp.float32) / 32768 - 1
        poses = variables["weight"] * batch.poses[None] + self.noise * drawn
        return poses - poses[..., :1, :]


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


def lift(lifter: Lifter, clips: ClipSet, frames: np.ndarray, outputs: tuple[str, ...], hypotheses: int = 3, **job: Any):
    return predict_frames("test", lifter, VARIABLES, clips, frames, Job(Sampling(hypotheses), outputs, **job))


def lift_all(lifter: Lifter, clips: ClipSet, outputs: tuple[str, ...], hypotheses: int = 3, **job: Any):
    return lift(lifter, clips, np.arange(clips.num_frames), outputs, hypotheses, **job)


@pytest.mark.parametrize("frames", [1, 9])
def test_one_and_eight_devices_give_the_same_poses(clips, monkeypatch, frames):
    assert jax.local_device_count() == 8
    names = ("first", "mean", "reprojection", "oracle_best_joint")
    many = lift_all(ToyLifter(frames), clips, names, batch_size=3)
    on_devices(monkeypatch, 1)
    one = lift_all(ToyLifter(frames), clips, names, batch_size=3)
    for name in names:
        np.testing.assert_allclose(one[name], many[name], atol=1e-6)


@pytest.mark.parametrize(("frames", "batch_size"), [(1, 1), (1, 4), (9, 1), (9, 1000)])
def test_padding_of_ids_and_windows_leaves_no_trace(clips, frames, batch_size):
    lifter, job = ToyLifter(frames, noise=0), Job(Sampling(2), ("mean",), batch_size)
    windows = end_aligned_windows(clips, frames)
    poses, indices = predict_windows(lifter, VARIABLES, device_clips(clips), windows, job)
    np.testing.assert_array_equal(indices, np.arange(clips.num_frames))
    np.testing.assert_allclose(poses["mean"], clips.poses, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 9])
def test_a_stride_takes_a_subset_of_the_same_figures(clips, frames):
    chosen = strided_frames(clips, 4)
    every = lift_all(ToyLifter(frames), clips, ("first", "mean"))
    some = lift(ToyLifter(frames), clips, chosen, ("first", "mean"))
    for name in some:
        np.testing.assert_allclose(some[name], every[name][chosen], atol=1e-6)


def test_strided_frames_are_every_nth_of_each_clip_from_a_drawn_one(clips):
    for seed in range(5):
        chosen = strided_frames(clips, 4, seed)
        for start, length in zip([0, 13, 18], [13, 5, 30], strict=True):
            own = chosen[(chosen >= start) & (chosen < start + length)] - start
            np.testing.assert_array_equal(own, np.arange(own[0], length, 4))
            assert own[0] < 4
    np.testing.assert_array_equal(strided_frames(clips, 1), np.arange(48))
    np.testing.assert_array_equal(strided_frames(clips, 4), strided_frames(clips, 4))
    assert any(not np.array_equal(strided_frames(clips, 4, seed), strided_frames(clips, 4)) for seed in (1, 2, 3))


def test_every_frame_is_strided_to_as_often_as_any_other(clips):
    """Also at a stride that is longer than most clips, where first frames were most of what is measured."""
    counts = np.zeros(clips.num_frames)
    for seed in range(2000):
        counts[strided_frames(clips, 20, seed)] += 1
    np.testing.assert_allclose(counts / 2000, 1 / 20, atol=0.02)
    # A set that is shorter than the stride has one frame all the same.
    assert all(len(strided_frames(clips, 10_000, seed)) == 1 for seed in range(5))


def test_windows_spread_over_a_set_lie_anywhere_in_their_clips(clips):
    """Of clips of one length, where evenly spread frames could all be the same one of each."""
    same = ClipSet.build([clips.clip(2)] * 40, SKELETON)
    within = np.asarray(spread_windows(ToyLifter(), same, 40).start) % 30
    assert np.bincount(within, minlength=30).max() <= 3


def test_averages_over_flips_are_estimates_and_never_samples(clips):
    def spread_of(name: str, flip: str, lifter: Lifter) -> float:
        """The standard deviation of an output from the truth, m."""
        job, frames = Job(Sampling(4, flip=flip), ("first", "mean", "all")), np.arange(clips.num_frames)
        found = predict_frames("test", lifter, VARIABLES, clips, frames, job)
        np.testing.assert_array_equal(found["first"], found["all"][:, 0])
        return float(np.std(found[name] - clips.poses))

    class Certain(ToyLifter):
        stochastic = False

    # A mean of two samples has 0.7 of their spread.
    for name, lifter, ratio in (("mean", ToyLifter(), 0.7), ("first", ToyLifter(), 1.0), ("first", Certain(), 0.7)):
        found, plain = (spread_of(name, flip, lifter) for flip in ("average", "none"))
        assert found / plain == pytest.approx(ratio, abs=0.1)


def test_all_hypotheses_come_back_and_agree_with_what_is_made_of_them(clips):
    poses = lift_all(ToyLifter(), clips, ("all", "first", "mean", "joint_median", "oracle_best"), hypotheses=7)
    every = poses["all"]
    assert every.shape == (clips.num_frames, 7, 17, 3)
    np.testing.assert_allclose(every[:, 0], poses["first"], atol=1e-6)
    np.testing.assert_allclose(every.mean(axis=1), poses["mean"], atol=1e-6)
    np.testing.assert_allclose(np.median(every, axis=1), poses["joint_median"], atol=1e-6)
    errors = np.linalg.norm(every - clips.poses[:, None], axis=-1).mean(-1)
    best = every[np.arange(len(every)), errors.argmin(axis=1)]
    np.testing.assert_allclose(best, poses["oracle_best"], atol=1e-6)


def test_hypotheses_do_not_depend_on_how_many_are_drawn(clips):
    few, many = (lift_all(ToyLifter(), clips, ("all",), hypotheses=count)["all"] for count in (2, 6))
    np.testing.assert_allclose(many[:, :2], few, atol=1e-6)


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
        lift_all(ToyLifter(), blind, ("reprojection",))


def test_an_unknown_aggregation_is_named(clips):
    with pytest.raises(UserError, match="found 'best'"):
        lift_all(ToyLifter(), clips, ("best",))


def test_progress_ends_when_all_is_done(clips):
    shares: list[float] = []
    job, windows = Job(Sampling(), ("mean",), batch_size=2), end_aligned_windows(clips, 1)
    predict_windows(ToyLifter(), VARIABLES, device_clips(clips), windows, job, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) > 1


def test_equal_lifters_and_other_temperatures_share_what_was_compiled(clips, monkeypatch):
    traced: list[Sampling] = []

    def sample(self, variables, key, batch, sampling):
        traced.append(sampling)
        return batch.poses[None] * sampling.temperature

    monkeypatch.setattr(ToyLifter, "sample", sample)
    for temperature in (1.0, 2.0):
        job = Job(Sampling(temperature=temperature), ("first",))
        found = predict_frames("test", ToyLifter(noise=7), VARIABLES, clips, np.arange(clips.num_frames), job)
        np.testing.assert_allclose(found["first"], temperature * clips.poses, rtol=1e-6)
    assert len(traced) == 1
    lift_all(ToyLifter(noise=8), clips, ("first",))
    assert len(traced) == 2
