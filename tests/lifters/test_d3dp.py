"""D3DP: what its network sees, its loss by hand, an oracle through its sampler, the root, and its own way to flip."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion.hypotheses import hypothesis_keys
from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import draw_timesteps
from diffpose_jax.diffusion.samplers import initial_noise
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Batch, flip_averaged
from diffpose_jax.lifters.d3dp import d3dp, seen
from diffpose_jax.lifters.pose_losses import mean_squared
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.skeleton import H36M_17, MPI_INF_3DHP_17

SCHEDULE = cosine(1000)
PLAN = ddim_plan(SCHEDULE, 5, eta=1.0)
KEY = jax.random.key(3)
B, F, J = 4, 2, 17


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    poses = np.clip(0.3 * rng.standard_normal((B, F, J, 3)), -0.5, 0.5).astype(np.float32)
    keypoints = rng.standard_normal((B, F, J, 2)).astype(np.float32)
    parts = (keypoints, poses - poses[:, :, :1], np.ones((B, F, J), np.float32), np.arange(B, dtype=np.int32) * 5)
    return Batch(*(jnp.asarray(part) for part in parts))


class Affine:
    """poses = gain * noisy + shift * k, and a record of what was seen."""

    def __init__(self):
        self.seen = []

    def apply(self, variables, x, k, *, train, index=None, rngs=None, mutable=()):
        self.seen.append(x)
        shift = jnp.reshape(k.astype(x.dtype) / 1000, (-1, 1, 1, 1))
        poses = variables["params"]["gain"] * x[..., 2:] + variables["params"]["shift"] * shift
        return (poses, {}) if mutable else poses


class Oracle:
    """Knows the poses `[B, F, J, 3]` in metres."""

    def __init__(self, poses):
        self.poses = poses

    def apply(self, variables, x, k, *, train):
        return self.poses


def sample(lifter, variables, batch, number):
    return jax.jit(lifter.sample, static_argnums=3)(variables, KEY, batch, number)


VARIABLES = {"params": {"gain": jnp.asarray(0.7), "shift": jnp.asarray(0.05)}}


@pytest.mark.parametrize("signal_scale", [1.0, 2.0])
def test_the_loss_is_mpjpe_in_metres_of_what_the_clamped_noisy_poses_give(batch, signal_scale):
    network = Affine()
    lifter = d3dp(network, H36M_17, SCHEDULE, PLAN, frames=F, signal_scale=signal_scale)
    value, aux = lifter.loss(VARIABLES, KEY, batch)
    keys = example_keys(KEY, batch.index)
    k = draw_timesteps(keys, B, 1000)
    noise = initial_noise(keys, batch.poses.shape)
    alpha_bar = np.float64(SCHEDULE.alpha_bar)[k][:, None, None, None]
    x_k = np.sqrt(alpha_bar) * signal_scale * np.asarray(batch.poses) + np.sqrt(1 - alpha_bar) * np.asarray(noise)
    noisy = np.clip(x_k, -1.1 * signal_scale, 1.1 * signal_scale) / signal_scale
    assert np.abs(noisy).max() == pytest.approx(1.1)
    np.testing.assert_allclose(network.seen[0], np.concatenate([batch.keypoints, noisy], axis=-1), atol=1e-5)
    error = 0.7 * noisy + 0.05 * np.asarray(k)[:, None, None, None] / 1000 - np.asarray(batch.poses)
    assert float(value) == pytest.approx(np.linalg.norm(error, axis=-1).mean(), rel=1e-5)
    assert float(aux.metrics["loss"]) == float(value)


def test_one_step_is_drawn_for_a_clip_and_noise_for_every_coordinate(batch):
    keys = example_keys(KEY, batch.index)
    assert draw_timesteps(keys, B, 1000).shape == (B,)
    assert np.unique(np.asarray(initial_noise(keys, batch.poses.shape))).size > 0.99 * batch.poses.size


def test_another_pose_loss_can_be_given(batch):
    value, _ = d3dp(Affine(), H36M_17, SCHEDULE, PLAN, frames=F, pose_loss=mean_squared).loss(VARIABLES, KEY, batch)
    default, _ = d3dp(Affine(), H36M_17, SCHEDULE, PLAN, frames=F).loss(VARIABLES, KEY, batch)
    assert float(value) != pytest.approx(float(default))


@pytest.mark.parametrize("signal_scale", [1.0, 2.0])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_oracle_gets_the_clean_poses_out_of_the_sampler(batch, eta, signal_scale):
    plan = ddim_plan(SCHEDULE, 5, eta=eta)
    lifter = d3dp(Oracle(batch.poses), H36M_17, SCHEDULE, plan, frames=F, signal_scale=signal_scale)
    poses = sample(lifter, {}, batch, 2)
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], poses.shape), atol=1e-6)


@pytest.mark.parametrize("skeleton", [H36M_17, MPI_INF_3DHP_17])
def test_poses_are_clamped_and_their_root_is_set_to_zero_alone(batch, skeleton):
    far = batch.poses.at[:, :, skeleton.root, 1].set(0.3).at[:, :, 3, 0].set(5.0)
    poses = sample(d3dp(Oracle(far), skeleton, SCHEDULE, PLAN, frames=F), {}, batch, 1)[0]
    expected = far.at[:, :, skeleton.root].set(0.0).at[:, :, 3, 0].set(1.1)
    np.testing.assert_allclose(poses, expected, atol=1e-6)


def test_the_network_sees_keypoints_first_and_never_more_than_the_clamp():
    keypoints, noisy = 9 * jnp.ones((1, 1, J, 2)), jnp.full((1, 1, J, 3), -7.0)
    np.testing.assert_allclose(seen(keypoints, noisy, 2.2, 2.0)[0, 0, 0], [9, 9, -1.1, -1.1, -1.1], rtol=1e-6)


def test_eps_derives_from_the_state_before_it_is_clamped(batch):
    states = []

    class Watching(Oracle):
        def apply(self, variables, x, k, *, train):
            jax.debug.callback(lambda x: states.append(np.asarray(x[..., 2:])), x)
            return self.poses

    lifter = d3dp(Watching(0 * batch.poses), H36M_17, SCHEDULE, ddim_plan(SCHEDULE, (999, 500)), frames=F)
    sample(lifter, {}, batch, 1)
    jax.effects_barrier()
    noise = np.asarray(initial_noise(hypothesis_keys(example_keys(KEY, batch.index), 1)[0], batch.poses.shape))
    np.testing.assert_allclose(states[0], np.clip(noise, -1.1, 1.1), atol=1e-6)
    spread = np.sqrt(1 - SCHEDULE.alpha_bar[500])
    np.testing.assert_allclose(states[1], np.clip(spread * noise, -1.1, 1.1), atol=1e-5)


def test_flips_are_averaged_inside_every_step_unless_told_otherwise(batch):
    lifter = d3dp(Affine(), H36M_17, SCHEDULE, PLAN, frames=F)
    assert flip_averaged(lifter).sample is lifter.sample_flipped
    # A network that adds the same to x of both views adds nothing to their mean, as a mirror changes its sign.
    assert d3dp(Affine(), H36M_17, SCHEDULE, PLAN, frames=F, flip_inside=False).sample_flipped is None
    shifted = {"params": {"gain": jnp.asarray(0.0), "shift": jnp.asarray(0.05)}}
    poses = sample(flip_averaged(lifter), shifted, batch, 1)
    np.testing.assert_allclose(poses[0, :, :, 1:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(poses[0, :, :, 1:, 1], 0.05 * 0.199, atol=1e-6)


def test_it_trains_around_mixste(batch):
    network = MixSTE(F, J, width=16, num_layers=1, num_heads=2, step="once", drop_path=0.1)
    lifter = d3dp(network, H36M_17, SCHEDULE, PLAN, frames=F)
    variables = jax.jit(lifter.init)(KEY, batch)
    value, gradient = jax.jit(jax.value_and_grad(lambda v: lifter.loss(v, KEY, batch)[0]))(variables)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert jnp.any(gradient["params"]["embed"]["kernel"][2:] != 0)
