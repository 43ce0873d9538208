"""Devices share the hypotheses of few windows: the figures of one device, the same noise for each hypothesis."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from diffpose_jax import parallel
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.workload import shares_hypotheses
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.lifters.diffupose import DiffuPose
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17

OUTPUTS = ("all", "mean", "medoid", "spread")


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    rng = np.random.default_rng(0)
    poses = 0.3 * rng.standard_normal((3, 17, 3)).astype(np.float32)
    return ClipSet.build([Clip(poses[..., :2] / 4, poses - poses[:, :1], None, "S1", "walk")], H36M_17)


@pytest.fixture(scope="module")
def lifter() -> DiffuPose:
    config = config_for("diffupose")
    config.lifter.update(width=32, num_layers=1)
    config.diffusion.steps = 3
    return build_lifter(config)


@pytest.fixture(scope="module")
def variables(lifter) -> Any:
    return jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter))


def test_few_windows_of_many_hypotheses_are_shared_by_their_hypotheses():
    assert shares_hypotheses(windows=1, hypotheses=1000, devices=8)
    assert shares_hypotheses(windows=7, hypotheses=16, devices=8)
    assert not shares_hypotheses(windows=8, hypotheses=1000, devices=8)
    assert not shares_hypotheses(windows=3, hypotheses=2, devices=8)
    assert not shares_hypotheses(windows=1, hypotheses=1000, devices=1)
    assert not shares_hypotheses(windows=1, hypotheses=1, devices=8)


@pytest.mark.parametrize(
    ("flip", "chunk"), [("half", None), *(pytest.param("average", n, marks=pytest.mark.repeats) for n in (None, 1))]
)
def test_figures_of_a_frame_are_those_of_one_device(clips, lifter, variables, monkeypatch, flip, chunk):
    assert parallel.local_device_count() == 8
    sampling, frames = Sampling(11, flip=flip, chunk=chunk), np.array([1])
    many = predict_frames("test", lifter, variables, clips, frames, Job(sampling, OUTPUTS))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(parallel.jax, "local_devices", lambda: first)
    monkeypatch.setattr(parallel.jax, "local_device_count", lambda: 1)
    one = predict_frames("test", lifter, variables, clips, frames, Job(sampling, OUTPUTS))
    for name in OUTPUTS:
        np.testing.assert_allclose(many[name], one[name], atol=2e-6, err_msg=name)


def test_every_device_draws_its_share(lifter, variables):
    batch = example_batch(lifter)

    def sample(variables: Any, sampling: Sampling) -> jax.Array:
        return lifter.sample(variables, jax.random.key(0), batch, sampling)

    variables = parallel.replicate(variables)
    drawn = jax.jit(sample)(variables, Sampling(16, mesh=parallel.local_mesh()))
    assert drawn.shape[0] == 16
    assert {piece.data.shape[0] for piece in drawn.addressable_shards} == {2}
    assert len({piece.device for piece in drawn.addressable_shards}) == 8
