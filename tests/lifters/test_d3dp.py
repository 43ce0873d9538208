"""D3DP: its network's input, its loss by hand, an oracle through its sampler, the root, and its own way to flip."""

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
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.d3dp import D3DP, D3DPOptions
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.skeleton import H36M_17, MPI_INF_3DHP_17

from .toys import KEY, Oracle, pose_batch, sample

SCHEDULE = cosine(1000)
PLAN = ddim_plan(SCHEDULE, 5, eta=1.0)
B, F, J = 4, 2, 17


@pytest.fixture(scope="module")
def batch():
    return pose_batch(B, F)


def lifter(network, *, plan=PLAN, skeleton=H36M_17, **options) -> D3DP:
    return D3DP(network, skeleton, SCHEDULE, plan, D3DPOptions(frames=F, **options))


class Affine:
    """poses = gain * noisy + shift * k, and a record of the inputs."""

    def __init__(self):
        self.inputs = []

    def apply(self, variables, x, k, *, train, index=None, rngs=None, mutable=()):
        self.inputs.append(x)
        shift = jnp.reshape(k.astype(x.dtype) / 1000, (-1, 1, 1, 1))
        poses = variables["params"]["gain"] * x[..., 2:] + variables["params"]["shift"] * shift
        return (poses, {}) if mutable else poses


VARIABLES = {"params": {"gain": jnp.asarray(0.7), "shift": jnp.asarray(0.05)}}


@pytest.mark.parametrize("signal_scale", [1.0, 2.0])
def test_the_loss_is_mpjpe_in_metres_of_what_the_clamped_noisy_poses_give(batch, signal_scale):
    network = Affine()
    value, aux = lifter(network, signal_scale=signal_scale).loss(VARIABLES, KEY, batch)
    keys = example_keys(KEY, batch.index)
    k = draw_timesteps(keys, B, 1000)
    noise = initial_noise(keys, batch.poses.shape)
    alpha_bar = np.float64(SCHEDULE.alpha_bar)[k][:, None, None, None]
    x_k = np.sqrt(alpha_bar) * signal_scale * np.asarray(batch.poses) + np.sqrt(1 - alpha_bar) * np.asarray(noise)
    noisy = np.clip(x_k, -1.1 * signal_scale, 1.1 * signal_scale) / signal_scale
    assert np.abs(noisy).max() == pytest.approx(1.1)
    np.testing.assert_allclose(network.inputs[0], np.concatenate([batch.keypoints, noisy], axis=-1), atol=1e-5)
    error = 0.7 * noisy + 0.05 * np.asarray(k)[:, None, None, None] / 1000 - np.asarray(batch.poses)
    assert float(value) == pytest.approx(np.linalg.norm(error, axis=-1).mean(), rel=1e-5)
    assert float(aux.metrics["loss"]) == float(value)


def test_one_step_is_drawn_for_a_clip_and_noise_for_every_coordinate(batch):
    keys = example_keys(KEY, batch.index)
    assert draw_timesteps(keys, B, 1000).shape == (B,)
    assert np.unique(np.asarray(initial_noise(keys, batch.poses.shape))).size > 0.99 * batch.poses.size


@pytest.mark.parametrize("signal_scale", [1.0, 2.0])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_oracle_gets_the_clean_poses_out_of_the_sampler(batch, eta, signal_scale):
    plan = ddim_plan(SCHEDULE, 5, eta=eta)
    poses = sample(lifter(Oracle(batch.poses), plan=plan, signal_scale=signal_scale), {}, KEY, batch, Sampling(2))
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], poses.shape), atol=1e-6)


@pytest.mark.parametrize("skeleton", [H36M_17, MPI_INF_3DHP_17])
def test_poses_are_clamped_and_their_root_is_set_to_zero_alone(batch, skeleton):
    far = batch.poses.at[:, :, skeleton.root, 1].set(0.3).at[:, :, 3, 0].set(5.0)
    poses = sample(lifter(Oracle(far), skeleton=skeleton), {}, KEY, batch, Sampling())[0]
    expected = far.at[:, :, skeleton.root].set(0.0).at[:, :, 3, 0].set(1.1)
    np.testing.assert_allclose(poses, expected, atol=1e-6)


def test_the_networks_input_has_keypoints_first_and_never_more_than_the_clamp():
    keypoints, noisy = 9 * jnp.ones((1, 1, J, 2)), jnp.full((1, 1, J, 3), -7.0)
    found = lifter(Affine(), signal_scale=2.0).network_input(keypoints, noisy)
    np.testing.assert_allclose(found[0, 0, 0], [9, 9, -1.1, -1.1, -1.1], rtol=1e-6)


def test_eps_derives_from_the_state_before_it_is_clamped(batch):
    states = []

    class Watching(Oracle):
        def apply(self, variables, x, k, *, train):
            jax.debug.callback(lambda x: states.append(np.asarray(x[..., 2:])), x)
            return self.poses

    watched = lifter(Watching(0 * batch.poses), plan=ddim_plan(SCHEDULE, (999, 500)))
    sample(watched, {}, KEY, batch, Sampling())
    jax.effects_barrier()
    noise = np.asarray(initial_noise(hypothesis_keys(example_keys(KEY, batch.index), 1)[0], batch.poses.shape))
    np.testing.assert_allclose(states[0], np.clip(noise, -1.1, 1.1), atol=1e-6)
    spread = np.sqrt(1 - SCHEDULE.alpha_bar[500])
    np.testing.assert_allclose(states[1], np.clip(spread * noise, -1.1, 1.1), atol=1e-5)


def test_flips_are_averaged_inside_every_step_unless_told_otherwise(batch):
    # A network that adds the same to x of both views adds nothing to their mean, as a mirror changes its sign.
    shifted = {"params": {"gain": jnp.asarray(0.0), "shift": jnp.asarray(0.05)}}
    poses, outside = (
        sample(with_flips(lifter(Affine(), flip_inside=inside)), shifted, KEY, batch, Sampling(flip="average"))
        for inside in (True, False)
    )
    np.testing.assert_allclose(outside[0, :, :, 1:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(poses[0, :, :, 1:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(poses[0, :, :, 1:, 1], 0.05 * 0.199, atol=1e-6)


@pytest.mark.slow
def test_it_trains_around_mixste(batch):
    network = MixSTE(F, J, width=16, num_layers=1, num_heads=2, step="once", drop_path=0.1)
    trained = lifter(network)
    variables = jax.jit(trained.init)(KEY, batch)
    value, gradient = jax.jit(jax.value_and_grad(lambda v: trained.loss(v, KEY, batch)[0]))(variables)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert jnp.any(gradient["params"]["embed"]["kernel"][2:] != 0)
