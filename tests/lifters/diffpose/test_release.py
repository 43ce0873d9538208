"""DiffPose as released: its loss by hand, an oracle that returns the pose, its start, what hypotheses share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import diffuse, to_eps
from diffpose_jax.diffusion.schedules import linear
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Batch, Lifter, flip_averaged
from diffpose_jax.lifters.diffpose.release import (
    antithetic_steps,
    denoising_loss,
    diffpose_release,
    noised_estimate,
    released_forward,
    single_frames,
)
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.skeleton import H36M_17, mirror

FRAMES = 3
SCHEDULE = linear(51, 1e-4, 1e-3)
PLAN = ddim_plan(SCHEDULE, 2, spacing="even", num_timesteps=24)
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def batch() -> Batch:
    poses = 0.3 * normal(4, FRAMES, 17, 3)
    poses = poses - poses[:, :, :1]
    return Batch(normal(4, FRAMES, 17, 2), poses, jnp.ones((4, FRAMES, 17)), jnp.arange(4, dtype=jnp.int32) * 11)


def context_of(estimate) -> Lifter:
    """A lifter without parameters whose poses are a function of the batch, not root-relative."""

    def sample(variables, key, batch, num_hypotheses):
        poses = estimate(batch)
        return jnp.broadcast_to(poses[None], (num_hypotheses, *poses.shape))

    return Lifter(lambda key, batch: {}, None, sample, H36M_17, FRAMES, stochastic=False)


def from_keypoints(batch: Batch) -> jax.Array:
    """A rough pose made of the keypoints, in which left and right differ, so that flip averaging is not idle."""
    x, y = jnp.split(batch.keypoints, 2, axis=-1)
    return jnp.concatenate([0.3 * x + 0.1 * x**2, 0.3 * y, 0.2 * x * y + 0.1], axis=-1)


@pytest.fixture(scope="module")
def network() -> GraFormer:
    return GraFormer(H36M_17, width=8, num_layers=1, num_heads=2, out_channels=5, step=True)


@pytest.fixture(scope="module")
def lifter(network) -> Lifter:
    return diffpose_release(network, H36M_17, SCHEDULE, PLAN, context=context_of(from_keypoints))


@pytest.fixture(scope="module")
def variables(lifter, batch):
    return jax.jit(lifter.init)(jax.random.key(1), batch)


@pytest.fixture(scope="module")
def sample(lifter):
    return jax.jit(lifter.sample, static_argnums=3)


@pytest.fixture(scope="module")
def loss(lifter):
    return jax.jit(lambda variables, key, batch: lifter.loss(variables, key, batch)[0])


def test_the_loss_on_numbers_done_by_hand():
    noise = jnp.zeros((2, 1, 3, 5)).at[0, 0, 1, 2].set(2.0).at[1, 0, 0, 4].set(-1.0)
    # Summed over joints and channels, averaged over the two poses.
    assert denoising_loss(jnp.zeros((2, 1, 3, 5)), noise) == pytest.approx((4 + 1) / 2)


def test_the_steps_of_a_pair_add_up_and_every_step_comes_as_often():
    index = jnp.arange(20_000, dtype=jnp.int32)
    k = np.asarray(antithetic_steps(KEY, index, 51))
    np.testing.assert_array_equal(k[0::2] + k[1::2], 50)
    counts = np.bincount(k[0::2], minlength=51)
    assert counts.shape == (51,)
    assert np.abs(counts / 10_000 - 1 / 51).max() < 0.006
    some = np.array([3, 12, 700])
    np.testing.assert_array_equal(antithetic_steps(KEY, index[some], 51), k[some])


def test_the_released_noise_has_the_scale_of_its_channels(batch):
    many = jax.tree.map(lambda part: jnp.repeat(part, 300, axis=0), single_frames(batch))
    keys = jax.random.split(KEY, len(many.index))
    x0, mean, noise = released_forward()(keys, many)
    assert mean is None
    np.testing.assert_array_equal(x0, np.concatenate([many.keypoints, many.poses], axis=-1))
    np.testing.assert_allclose(noise.std(axis=(0, 1, 2)), [0.5, 0.5, 1, 1, 1], rtol=0.02)


def test_a_mixture_gives_the_image_channels_their_mean_and_their_spread(batch):
    """Two components of which the first has weight one: u, v are its means; its deviation scales their noise."""
    frames = single_frames(batch)
    shape = (*frames.keypoints.shape[:3], 2)
    weights = jnp.zeros(shape).at[..., 0].set(1.0)
    means = jnp.stack([frames.keypoints + 1, jnp.full_like(frames.keypoints, 99.0)], axis=-2)
    variances = jnp.broadcast_to(jnp.array([1e-4, 1e4])[None, None, None, :, None], means.shape)
    frames = frames._replace(mixture=Mixture(weights, means, variances))
    keys = jax.random.split(KEY, len(frames.index))
    x0, _, noise = released_forward()(keys, frames)
    np.testing.assert_allclose(x0[..., :2], frames.keypoints + 1, rtol=1e-6)
    np.testing.assert_array_equal(x0[..., 2:], frames.poses)
    assert noise[..., :2].std() == pytest.approx(0.01, rel=0.1)
    assert noise[..., 2:].std() == pytest.approx(1.0, rel=0.1)
    constant = released_forward(mixture_spread=False)(keys, frames)[2]
    assert constant[..., :2].std() == pytest.approx(0.5, rel=0.1)


def test_frames_become_examples_with_an_index_of_their_own(batch):
    frames = single_frames(batch)
    assert frames.poses.shape == (4 * FRAMES, 1, 17, 3)
    np.testing.assert_array_equal(frames.keypoints[4, 0], batch.keypoints[1, 1])
    assert len(set(np.asarray(frames.index).tolist())) == 4 * FRAMES
    alone = single_frames(jax.tree.map(lambda part: part[2:3], batch))
    np.testing.assert_array_equal(alone.index, frames.index[2 * FRAMES : 3 * FRAMES])


def test_the_loss_depends_on_its_inputs_and_not_on_their_order(loss, variables, batch):
    value = float(loss(variables, KEY, batch))
    assert np.isfinite(value)
    for changed in (
        batch._replace(poses=batch.poses + 0.1),
        batch._replace(keypoints=batch.keypoints + 0.1),
        batch._replace(index=batch.index + 1),
    ):
        assert abs(float(loss(variables, KEY, changed)) - value) > 1e-4
    order = np.array([2, 0, 3, 1])
    moved = jax.tree.map(lambda part: part[order], batch)
    assert loss(variables, KEY, moved) == pytest.approx(value, rel=1e-5)


def test_training_needs_no_context_and_its_gradients_reach_every_parameter(lifter, variables, batch):
    def value(params):
        return lifter.loss({"params": params}, KEY, batch)[0]

    gradient = jax.jit(jax.grad(value))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)
        assert np.any(leaf), jax.tree_util.keystr(path)


class Oracle:
    """A network that knows the clean `(u, v, x, y, z) [B, F, J, 5]` and predicts the noise that it implies."""

    def __init__(self, clean: jax.Array):
        self.clean = clean

    def apply(self, variables, x, k, *, train):
        return to_eps(x, jnp.broadcast_to(self.clean, x.shape), jnp.asarray(SCHEDULE.alpha_bar)[k])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": noised_estimate(SCHEDULE, 24)},
        {"plan": ddim_plan(SCHEDULE, 5, 1.0, "even", 50)},
        {"plan": ddim_plan(SCHEDULE, 1, spacing="even", num_timesteps=6)},
        {"centre_estimate": False},
    ],
)
def test_an_oracle_gets_the_clean_pose_out_from_any_start(batch, options):
    clean = jnp.concatenate([batch.keypoints, batch.poses + 0.7], axis=-1)
    options = {"plan": PLAN, "context": context_of(from_keypoints), **options}
    lifter = diffpose_release(Oracle(clean), H36M_17, SCHEDULE, **options)
    poses = jax.jit(lifter.sample, static_argnums=3)({"frozen": {}}, KEY, batch, 2)
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], (2, *batch.poses.shape)), atol=1e-4)


class Recorder:
    """A denoiser that predicts no noise and puts the states and steps it is shown into a list."""

    def __init__(self):
        self.seen = []

    def apply(self, variables, x, k, *, train):
        jax.debug.callback(lambda x, k: self.seen.append((np.asarray(x), int(k))), x, k, ordered=True)
        return jnp.zeros_like(x)


@pytest.mark.parametrize("centre_estimate", [True, False])
def test_the_walk_starts_at_index_twelve_with_the_estimate_as_it_is(batch, centre_estimate):
    recorder = Recorder()
    lifter = diffpose_release(
        recorder, H36M_17, SCHEDULE, PLAN, context=context_of(from_keypoints), centre_estimate=centre_estimate
    )
    lifter.sample({"frozen": {}}, KEY, batch, 1).block_until_ready()
    jax.effects_barrier()
    assert [k for _, k in recorder.seen] == [12, 0]
    poses = np.asarray(from_keypoints(batch))
    poses = poses - poses[:, :, :1] if centre_estimate else poses
    np.testing.assert_allclose(recorder.seen[0][0], np.concatenate([batch.keypoints, poses], axis=-1), atol=1e-6)


def test_a_noised_start_is_the_diffused_estimate():
    estimate = normal(400, 1, 17, 5)
    mean, state = noised_estimate(SCHEDULE, 24)(jax.random.normal(KEY, estimate.shape), estimate)
    assert mean is None
    quiet = diffuse(SCHEDULE, estimate, jnp.int32(24), jnp.zeros_like(estimate))
    deviation = np.asarray(state - quiet).std(axis=(0, 1, 2)) / SCHEDULE.one_minus_alpha_bar[24] ** 0.5
    np.testing.assert_allclose(deviation, [0.01, 0.01, 1, 1, 1], rtol=0.05)


def test_hypotheses_of_the_release_agree_and_those_of_a_noised_start_do_not(network, lifter, sample, variables, batch):
    poses = sample(variables, KEY, batch, 3)
    assert poses.shape == (3, 4, FRAMES, 17, 3)
    assert not lifter.stochastic
    np.testing.assert_array_equal(poses[1:], poses[:-1])
    np.testing.assert_array_equal(sample(variables, jax.random.key(9), batch, 3), poses)
    noisy = diffpose_release(
        network, H36M_17, SCHEDULE, PLAN, context=context_of(from_keypoints), start=noised_estimate(SCHEDULE, 24)
    )
    assert noisy.stochastic
    draws = np.asarray(jax.jit(noisy.sample, static_argnums=3)(variables, KEY, batch, 2))
    assert np.abs(draws[0] - draws[1]).max() > 1e-3
    assert np.abs(draws[:, 0] - draws[:, 1]).max() > 1e-3


def test_samples_are_root_relative_and_never_see_the_true_pose(sample, variables, batch):
    poses = sample(variables, KEY, batch, 1)
    np.testing.assert_array_equal(poses[..., 0, :], 0)
    np.testing.assert_array_equal(sample(variables, KEY, batch._replace(poses=batch.poses + 1), 1), poses)
    assert np.abs(sample(variables, KEY, batch._replace(keypoints=batch.keypoints + 0.2), 1) - poses).max() > 1e-3


def test_flip_averaging_is_that_of_the_context_alone(network, lifter, variables, batch):
    """Equal to refining the averaged estimate; not equal to averaging two refinements."""

    def averaged(batch: Batch) -> jax.Array:
        mirrored = batch._replace(keypoints=mirror(batch.keypoints, H36M_17))
        return (from_keypoints(batch) + mirror(from_keypoints(mirrored), H36M_17)) / 2

    expected = diffpose_release(network, H36M_17, SCHEDULE, PLAN, context=context_of(averaged))
    wanted = jax.jit(expected.sample, static_argnums=3)(variables, KEY, batch, 1)
    found = jax.jit(flip_averaged(lifter).sample, static_argnums=3)(variables, KEY, batch, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    both = jax.jit(flip_averaged(lifter._replace(sample_flipped=None)).sample, static_argnums=3)
    assert np.abs(both(variables, KEY, batch, 1) - found).max() > 1e-5


def test_a_context_that_cannot_give_one_pose_per_frame_is_refused(network, lifter):
    for unfit in (lifter._replace(stochastic=True), lifter._replace(middle_frame=True)):
        with pytest.raises(UserError, match="DiffPose context"):
            diffpose_release(network, H36M_17, SCHEDULE, PLAN, context=unfit)
