"""All frames of a set come in order, once each, the same whatever the size of a block, in memory of a block's size."""

from __future__ import annotations

import dataclasses
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.frame_blocks import count_block_frames, lift_blocks
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.lifters.base import Lifter, Sampling
from diffpose_jax.skeleton import H36M_17


@dataclasses.dataclass(frozen=True)
class Numbering(Lifter):
    """A lifter that says which frame it lifts, and from which window."""

    frames: int = 5
    middle_frame: bool = False
    skeleton = H36M_17

    def sample(self, variables, key, batch, sampling):
        own = batch.poses[:, self.frames // 2 : self.frames // 2 + 1] if self.middle_frame else batch.poses
        window = batch.index.astype(jnp.float32)[:, None, None, None] / 1000
        return jnp.broadcast_to((own + window)[None], (sampling.hypotheses, *own.shape))


def make_clips(*lengths: int) -> ClipSet:
    first, clips = 0, []
    for length in lengths:
        numbers = np.arange(first, first + length, dtype=np.float32)[:, None, None] / 100
        poses = np.broadcast_to(numbers, (length, 17, 3)).copy()
        clips.append(Clip(np.zeros((length, 17, 2), np.float32), poses, None, "a", "stand"))
        first += length
    return ClipSet.build(clips, H36M_17)


def job(noise: str = "clip", hypotheses: int = 2, batch_size: int = 3) -> Job:
    return Job(Sampling(hypotheses, noise=noise), ("all", "mean"), batch_size)


@pytest.mark.parametrize("lifter", [Numbering(), Numbering(frames=1), Numbering(middle_frame=True)])
@pytest.mark.parametrize("noise", ["clip", "frame"])
def test_blocks_of_any_size_hold_the_same_frames_in_order(lifter, noise):
    clips = make_clips(23, 2, 9)
    (whole,) = lift_blocks("x", lifter, {}, clips, job(noise), 1000)
    assert whole.frames == slice(0, 34)
    for size in (1, 7, 34):
        blocks = list(lift_blocks("x", lifter, {}, clips, job(noise), size))
        assert [block.frames.start for block in blocks] == list(range(0, 34, size))
        for name in ("all", "mean"):
            found = np.concatenate([block.outputs[name] for block in blocks])
            np.testing.assert_array_equal(found, whole.outputs[name])


@pytest.mark.parametrize("lifter", [Numbering(), Numbering(frames=1), Numbering(middle_frame=True)])
def test_without_blending_blocks_are_what_all_frames_at_once_give(lifter):
    clips = make_clips(23, 2, 9)
    blocks = list(lift_blocks("x", lifter, {}, clips, job("frame"), 5))
    expected = predict_frames("x", lifter, {}, clips, np.arange(34), job("frame"))
    np.testing.assert_array_equal(np.concatenate([block.outputs["all"] for block in blocks]), expected["all"])


def test_memory_is_that_of_a_block_however_many_frames_there_are():
    def measure(frames: int) -> int:
        clips = make_clips(frames)
        for _ in lift_blocks("x", Numbering(), {}, clips, job(hypotheses=50, batch_size=16), 64):  # compiles
            break
        tracemalloc.start()
        for _ in lift_blocks("x", Numbering(), {}, clips, job(hypotheses=50, batch_size=16), 64):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = measure(1000), measure(4000)
    # The hypotheses of the 3000 frames by which they differ are 31 MB; keypoints and windows 1 kB for each frame.
    assert many - few < 6e6


def test_a_block_has_a_frame_at_least_and_fewer_of_more_hypotheses():
    assert count_block_frames(10**9, 17) == 1
    assert count_block_frames(100, 17) == pytest.approx(10 * count_block_frames(1000, 17), rel=0.01)
