"""One noise per clip: the same keypoints in every frame give the same pose in every frame, hypothesis by hypothesis."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import device_clips, end_aligned_windows
from diffpose_jax.diffusion.plans import ddim_plan, ddpm_plan
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.jobs import Job, predict_windows
from diffpose_jax.lifters.base import Lifter, Sampling
from diffpose_jax.lifters.d3dp import D3DP, D3DPOptions
from diffpose_jax.lifters.diffpose.method import DiffPose
from diffpose_jax.lifters.diffpose.release import DiffPoseRelease, DiffPoseReleaseOptions
from diffpose_jax.lifters.diffupose import DiffuPose
from diffpose_jax.skeleton import H36M_17

from ..lifters.diffpose.heatmap_batch import FROZEN, RoughLifter, from_keypoints
from ..lifters.toys import Mixing

SCHEDULE = cosine(10)
DDPM, DDIM, NOISY_DDIM = ddpm_plan(SCHEDULE), ddim_plan(SCHEDULE, 4), ddim_plan(SCHEDULE, 4, eta=1.0)
FRAMES, HYPOTHESES = 30, 3


class Pooling(Mixing):
    """`Mixing` for a network that is given its inputs one by one, and one frame's pose or more than three channels."""

    def apply(self, variables: Any, x: jax.Array, *given: jax.Array, train: bool) -> jax.Array:
        keypoints = given[0] if given[0].ndim == x.ndim else x[..., :2]
        return super().apply(variables, jnp.concatenate([keypoints, x[..., :3]], axis=-1), given[-1], train=train)


class Noise(Pooling):
    """The same with the five channels of noise that DiffPose's release predicts."""

    def apply(self, variables: Any, x: jax.Array, *given: jax.Array, train: bool) -> jax.Array:
        found = super().apply(variables, x, *given, train=train)
        return jnp.concatenate([found, found[..., :2]], axis=-1)


def diffpose(frames: int, plan=DDIM) -> DiffPose:
    return DiffPose(Pooling(), H36M_17, SCHEDULE, plan, RoughLifter(frames=frames))


def release(frames: int) -> DiffPoseRelease:
    context = RoughLifter(lambda batch: from_keypoints(batch), frames=frames)
    options = DiffPoseReleaseOptions(noise_estimate=True)
    return DiffPoseRelease(Noise(), H36M_17, SCHEDULE, NOISY_DDIM, context, options)


LIFTERS: dict[str, Lifter] = {
    "DDPM": DiffuPose(Pooling(), H36M_17, SCHEDULE, DDPM),
    "DDIM": DiffuPose(Pooling(), H36M_17, SCHEDULE, DDIM),
    "DiffPose": diffpose(1),
    "DiffPose, noisy steps": diffpose(1, NOISY_DDIM),
    "DiffPose in windows": diffpose(4, NOISY_DDIM),
    "DiffPose's release in windows": release(4),
}
# Each takes a second or two to compile; these three say most.
CASES = [
    *("DDPM", "DDIM", "DiffPose in windows"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in list(LIFTERS)[2:] if name != "DiffPose in windows"),
]


def still(rows: int) -> list[Clip]:
    """Clips of thirty equal frames, all with the same keypoints and mixtures."""
    rng = np.random.default_rng(0)
    poses = np.repeat(rng.normal(0, 0.3, (1, 17, 3)).astype(np.float32), FRAMES, axis=0)
    mixture = rng.uniform(0.05, 0.2, (1, 17, 3, 6)).astype(np.float16)
    mixture = np.repeat(mixture, FRAMES, axis=0)
    return [
        Clip(poses[..., :2], poses - poses[:, :1], None, f"S{row}", "stand", mixture=mixture) for row in range(rows)
    ]


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    return ClipSet.build(still(2), H36M_17)


def lift(lifter: Lifter, clips: ClipSet, noise: str, flip: str = "none", **job: Any) -> np.ndarray:
    """All hypotheses by clip, `[2, FRAMES, H, J, 3]` m."""
    sampling = Sampling(HYPOTHESES, flip=flip, noise=noise)
    variables = {"frozen": {"context": {}, **FROZEN} if isinstance(lifter, DiffPose) else {}}
    found = predict_frames("x", lifter, variables, clips, np.arange(2 * FRAMES), Job(sampling, ("all",), 16, **job))
    return found["all"].reshape(2, FRAMES, HYPOTHESES, 17, 3)


def movement(poses: np.ndarray) -> float:
    """Mean distance from frame to frame, mm, of `[clips, FRAMES, ..., J, 3]`."""
    return float(1000 * np.linalg.norm(np.diff(poses, axis=1), axis=-1).mean())


@pytest.mark.parametrize("name", CASES)
def test_equal_frames_do_not_move(clips, name):
    hypotheses = lift(LIFTERS[name], clips, "clip", "half" if name == "DDIM" else "none")
    assert movement(hypotheses) == pytest.approx(0, abs=1e-3)
    assert movement(hypotheses.mean(axis=2)) == pytest.approx(0, abs=1e-3)
    # The hypotheses differ still, and so do the clips.
    assert np.abs(hypotheses[:, :, 0] - hypotheses[:, :, 2]).max() > 1e-3
    assert np.abs(hypotheses[0] - hypotheses[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["DDIM", "DiffPose in windows"])
def test_independent_noise_moves_them(clips, name):
    hypotheses = lift(LIFTERS[name], clips, "frame")
    assert movement(hypotheses) > 1
    assert movement(hypotheses) > 1.3 * movement(hypotheses.mean(axis=2)) > 1


def test_a_lifter_of_sequences_has_the_same_noise_in_every_window(clips):
    lifter = D3DP(Mixing(), H36M_17, SCHEDULE, NOISY_DDIM, D3DPOptions(frames=5))
    on_device, windows, found = device_clips(clips), end_aligned_windows(clips, 5), {}
    for noise in ("clip", "frame"):
        job = Job(Sampling(HYPOTHESES, noise=noise), ("all",), 16)
        found[noise] = predict_windows(lifter, {"frozen": {}}, on_device, windows, job)[0]["all"]
    by_clip, by_frame = (found[noise].reshape(2, FRAMES // 5, -1) for noise in ("clip", "frame"))
    np.testing.assert_allclose(by_clip, np.broadcast_to(by_clip[:, :1], by_clip.shape), atol=1e-6)
    assert np.abs(np.diff(by_frame, axis=1)).max() > 1e-3


@dataclasses.dataclass(frozen=True)
class Showing(Lifter):
    """A lifter whose poses are the masks it is given."""

    skeleton = H36M_17

    def sample(self, variables, key, batch, sampling):
        return jnp.broadcast_to(batch.mask[None, ..., None], (sampling.hypotheses, *batch.poses.shape))


def test_what_is_hidden_is_drawn_for_every_frame_all_the_same(clips):
    bare = dataclasses.replace(clips, mixture=None)
    by_clip, by_frame = (
        lift(Showing(), bare, noise, occlusion="random", occlusion_rate=0.3) for noise in ("clip", "frame")
    )
    np.testing.assert_array_equal(by_clip, by_frame)
    assert len(np.unique(by_clip[0, :, 0, :, 0], axis=0)) > 20
