"""Windows that overlap: every frame has a pose, nothing steps at their borders, and hypotheses keep their spread."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import overlapping_windows
from diffpose_jax.evaluation import chosen_frames
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.frame_blocks import lift_blocks
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.overlapping import blends_windows
from diffpose_jax.lifters.base import Lifter, Sampling
from diffpose_jax.skeleton import H36M_17

LENGTHS = (30, 7, 4)
FRAMES = 8


@dataclasses.dataclass(frozen=True)
class Drifting(Lifter):
    """A lifter of windows that is right in their middle and wrong by up to `drift` metres at their ends, plus noise."""

    drift: float = 0.0
    noise: float = 0.0
    frames: int = FRAMES
    skeleton = H36M_17

    def sample(self, variables, key, batch, sampling):
        place = jnp.linspace(-1, 1, self.frames)[None, None, :, None, None]
        # A constant: compiling jax.random would take most of the time.
        noise = np.random.default_rng(0).standard_normal((sampling.hypotheses, 1, self.frames, 17, 3), np.float32)
        return batch.poses[None] + self.drift * place + self.noise * noise


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    """People who stand still."""
    pose = np.random.default_rng(0).normal(0, 0.3, (1, 17, 3)).astype(np.float32)
    pose -= pose[:, :1]
    parts = [np.repeat(pose, length, axis=0) for length in LENGTHS]
    return ClipSet.build([Clip(part[..., :2], part, None, "a", "stand") for part in parts], H36M_17)


def job(hypotheses: int = 2, noise: str = "clip", outputs: tuple[str, ...] = ("all", "mean")) -> Job:
    return Job(Sampling(hypotheses, noise=noise), outputs, 5)


def lift(lifter: Lifter, clips: ClipSet, given: Job) -> dict[str, np.ndarray]:
    """All frames in one block."""
    (block,) = lift_blocks("x", lifter, {}, clips, given, 1000)
    return block.outputs


def step(poses: np.ndarray, clips: ClipSet) -> float:
    """The largest movement from frame to frame within a clip, m."""
    moved = np.abs(np.diff(poses, axis=0)).max(axis=tuple(range(1, poses.ndim)))
    return float(np.delete(moved, clips.clip_start[1:] - 1).max())


def test_windows_begin_and_end_with_their_clips_and_overlap_by_half(clips):
    windows = overlapping_windows(clips, FRAMES)
    start, low, high = (np.asarray(part) for part in windows)
    for first, length in zip(clips.clip_start, clips.clip_length, strict=True):
        own = start[low == first]
        assert own[0] == first
        assert own[-1] == first + max(length - FRAMES, 0)
        assert (np.diff(own) <= FRAMES // 2).all()
        assert (np.diff(own) > 0).all()
    assert (high - low + 1 == np.array(LENGTHS)[np.searchsorted(clips.clip_start, low)]).all()


def test_where_windows_agree_blending_changes_nothing(clips):
    found = lift(Drifting(), clips, job())
    np.testing.assert_allclose(found["all"], np.repeat(clips.poses[:, None], 2, axis=1), atol=1e-6)
    np.testing.assert_allclose(found["mean"], clips.poses, atol=1e-6)


def test_poses_step_at_the_borders_of_windows_side_by_side_and_not_when_blended(clips):
    lifter, frames = Drifting(drift=0.1), np.arange(clips.num_frames)
    beside = predict_frames("x", lifter, {}, clips, frames, job(noise="frame"))
    blended = lift(lifter, clips, job())
    assert step(beside["all"], clips) == pytest.approx(0.2, abs=1e-5)
    # From frame to frame a window drifts by 0.2 m / 7; the blend moves no faster.
    assert step(blended["all"], clips) < 0.2 / 7 + 1e-5
    assert step(blended["mean"], clips) < 0.2 / 7 + 1e-5


def test_hypotheses_keep_the_spread_of_the_windows(clips):
    blended = lift(Drifting(noise=0.05), clips, job(hypotheses=100))["all"]
    assert blended.std(axis=1).mean() == pytest.approx(0.05, rel=0.03)
    # Single frames too: where two windows of different noise meet in equal parts a plain average would have 0.035.
    np.testing.assert_allclose(np.sqrt(blended.var(axis=1).mean(axis=(1, 2))), 0.05, rtol=0.1)


def test_one_hypothesis_has_no_spread_and_is_the_first(clips):
    found = lift(Drifting(noise=0.05), clips, job(1, outputs=("all", "first", "mean")))
    np.testing.assert_array_equal(found["first"], found["all"][:, 0])
    np.testing.assert_allclose(found["mean"], found["first"], atol=1e-6)


def test_only_sequences_whose_noise_is_that_of_the_clip_are_blended():
    assert blends_windows(Drifting(), job())
    assert not blends_windows(Drifting(), job(noise="frame"))
    assert not blends_windows(Drifting(frames=1), job())
    # What a pattern hides in one window it shows in the next.
    assert not blends_windows(Drifting(), job().replace(occlusion="random"))


def test_frames_that_are_chosen_are_those_of_the_whole_clip(clips):
    lifter, chosen = Drifting(drift=0.1, noise=0.05), np.array([0, 3, 13, 29, 30, 34, 40])
    whole, some = lift(lifter, clips, job(5)), predict_frames("x", lifter, {}, clips, chosen, job(5))
    for name in ("all", "mean"):
        np.testing.assert_allclose(some[name], whole[name][chosen], atol=1e-6)


def test_what_judges_a_distribution_judges_the_blended_hypotheses(clips, monkeypatch):
    """Also where the frames do not fit into one block."""
    names, frames, lifter = ("spread", "rank", "oracle_best", "first"), np.arange(20), Drifting(noise=0.05)
    monkeypatch.setattr(chosen_frames, "count_block_frames", lambda hypotheses, joints: 7)
    found = predict_frames("x", lifter, {}, clips, frames, job(30, outputs=names))
    assert list(found) == list(names)
    drawn = lift(lifter, clips, job(30))["all"][frames]
    np.testing.assert_allclose(found["first"], drawn[:, 0], atol=1e-6)
    variance = ((drawn - drawn.mean(axis=1, keepdims=True)) ** 2).mean(axis=1).sum(axis=-1)
    np.testing.assert_allclose(found["spread"], np.sqrt(variance), atol=1e-5)
    errors = np.linalg.norm(drawn - clips.poses[frames][:, None], axis=-1).mean(axis=-1)
    np.testing.assert_allclose(found["oracle_best"], drawn[frames, errors.argmin(axis=1)], atol=1e-6)
    assert found["rank"].shape == (20, 17, 2)
