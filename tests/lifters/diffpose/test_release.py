"""DiffPose as released: its loss by hand, an oracle that returns the pose, its start, what hypotheses share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.config import copy_config
from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import diffuse, to_eps
from diffpose_jax.diffusion.schedules import linear
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Batch, Sampling
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.diffpose.release import (
    DiffPoseRelease,
    DiffPoseReleaseOptions,
    antithetic_steps,
    denoising_loss,
    draw_forward,
    split_batch,
)
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17, mirror

from ..toys import KEY, pose_batch, sample, take
from .heatmap_batch import RoughLifter

FRAMES = 3
SCHEDULE = linear(51, 1e-4, 1e-3)
PLAN = ddim_plan(SCHEDULE, 2, spacing="even", num_timesteps=24)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return pose_batch(4, FRAMES, spacing=11)


def from_keypoints(batch: Batch) -> jax.Array:
    """A rough pose made of the keypoints, in which left and right differ, so that flip averaging is not idle."""
    x, y = jnp.split(batch.keypoints, 2, axis=-1)
    return jnp.concatenate([0.3 * x + 0.1 * x**2, 0.3 * y, 0.2 * x * y + 0.1], axis=-1)


CONTEXT = RoughLifter(from_keypoints, frames=FRAMES)
NETWORK = GraFormer(H36M_17, width=8, num_layers=1, num_heads=2, out_channels=5, step=True)


def build(network=NETWORK, *, plan=PLAN, context=CONTEXT, **options) -> DiffPoseRelease:
    return DiffPoseRelease(network, H36M_17, SCHEDULE, plan, context, DiffPoseReleaseOptions(**options))


@pytest.fixture(scope="module")
def lifter() -> DiffPoseRelease:
    return build()


@pytest.fixture(scope="module")
def variables(lifter, batch):
    return jax.jit(lifter.init)(jax.random.key(1), batch)


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


def test_the_noise_of_the_release_has_the_scale_of_its_channels(batch):
    many = jax.tree.map(lambda part: jnp.repeat(part, 300, axis=0), split_batch(batch))
    keys = jax.random.split(KEY, len(many.index))
    x0, noise = draw_forward(keys, many)
    np.testing.assert_array_equal(x0, np.concatenate([many.keypoints, many.poses], axis=-1))
    np.testing.assert_allclose(noise.std(axis=(0, 1, 2)), [0.5, 0.5, 1, 1, 1], rtol=0.02)


def test_a_mixture_gives_the_image_channels_their_mean_and_their_spread(batch):
    """Two components of which the first has weight one: u, v are its means; its std scales their noise."""
    frames = split_batch(batch)
    shape = (*frames.keypoints.shape[:3], 2)
    weights = jnp.zeros(shape).at[..., 0].set(1.0)
    means = jnp.stack([frames.keypoints + 1, jnp.full_like(frames.keypoints, 99.0)], axis=-2)
    variances = jnp.broadcast_to(jnp.array([1e-4, 1e4])[None, None, None, :, None], means.shape)
    frames = frames._replace(mixture=Mixture(weights, means, variances))
    keys = jax.random.split(KEY, len(frames.index))
    x0, noise = draw_forward(keys, frames)
    np.testing.assert_allclose(x0[..., :2], frames.keypoints + 1, rtol=1e-6)
    np.testing.assert_array_equal(x0[..., 2:], frames.poses)
    assert noise[..., :2].std() == pytest.approx(0.01, rel=0.1)
    assert noise[..., 2:].std() == pytest.approx(1.0, rel=0.1)
    _, constant = draw_forward(keys, frames, mixture_spread=False)
    assert constant[..., :2].std() == pytest.approx(0.5, rel=0.1)


def test_frames_become_examples_with_an_index_of_their_own(batch):
    frames = split_batch(batch)
    assert frames.poses.shape == (4 * FRAMES, 1, 17, 3)
    np.testing.assert_array_equal(frames.keypoints[4, 0], batch.keypoints[1, 1])
    assert len(set(np.asarray(frames.index).tolist())) == 4 * FRAMES
    alone = split_batch(take(batch, [2]))
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
    assert loss(variables, KEY, take(batch, [2, 0, 3, 1])) == pytest.approx(value, rel=1e-5)


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
    ("plan", "options"),
    [
        (PLAN, {}),
        (PLAN, {"noise_estimate": True}),
        (PLAN, {"centre_estimate": False}),
        (ddim_plan(SCHEDULE, 5, 1.0, "even", 50), {}),
        (ddim_plan(SCHEDULE, 1, spacing="even", num_timesteps=6), {}),
    ],
)
def test_an_oracle_gets_the_clean_pose_out_from_any_start(batch, plan, options):
    clean = jnp.concatenate([batch.keypoints, batch.poses + 0.7], axis=-1)
    poses = sample(build(Oracle(clean), plan=plan, **options), {"frozen": {}}, KEY, batch, Sampling(2))
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], (2, *batch.poses.shape)), atol=1e-4)


class Recorder:
    """A network that predicts no noise and puts the states and timesteps that it is given into a list."""

    def __init__(self):
        self.inputs = []

    def apply(self, variables, x, k, *, train):
        jax.debug.callback(lambda x, k: self.inputs.append((np.asarray(x), int(k))), x, k, ordered=True)
        return jnp.zeros_like(x)


@pytest.mark.parametrize("centre_estimate", [True, False])
def test_sampling_starts_at_index_twelve_with_the_estimate_as_it_is(batch, centre_estimate):
    recorder = Recorder()
    sample(build(recorder, centre_estimate=centre_estimate), {"frozen": {}}, KEY, batch, Sampling())
    jax.effects_barrier()
    assert [k for _, k in recorder.inputs] == [12, 0]
    poses = np.asarray(from_keypoints(batch))
    poses = poses - poses[:, :, :1] if centre_estimate else poses
    np.testing.assert_allclose(recorder.inputs[0][0], np.concatenate([batch.keypoints, poses], axis=-1), atol=1e-6)


def test_a_noised_start_is_the_estimate_diffused_to_the_first_timestep(batch):
    recorder, many = Recorder(), jax.tree.map(lambda part: jnp.repeat(part, 30, axis=0), batch)
    many = many._replace(index=jnp.arange(len(many.index), dtype=jnp.int32))
    sample(build(recorder, noise_estimate=True, centre_estimate=False), {"frozen": {}}, KEY, many, Sampling())
    jax.effects_barrier()
    state, k = recorder.inputs[0]
    estimate = jnp.concatenate([many.keypoints, from_keypoints(many)], axis=-1)
    quiet = diffuse(SCHEDULE, estimate, jnp.int32(k), jnp.zeros_like(estimate))
    std = np.asarray(state - quiet).std(axis=(0, 1, 2)) / SCHEDULE.one_minus_alpha_bar[k] ** 0.5
    np.testing.assert_allclose(std, [0.01, 0.01, 1, 1, 1], rtol=0.05)


class Waves:
    """A network without parameters whose output is no linear function of its input."""

    def apply(self, variables, x, k, *, train):
        return jnp.sin(3 * x) + jnp.roll(x, 1, axis=-2)


WAVES, THREE = Waves(), Sampling(3)


def refine(batch: Batch, sampling: Sampling = THREE, key: jax.Array = KEY, **options) -> np.ndarray:
    return np.asarray(sample(build(WAVES, **options), {"frozen": {}}, key, batch, sampling))


def test_hypotheses_of_the_release_agree_and_those_of_a_noised_start_do_not(batch):
    poses = refine(batch)
    assert poses.shape == (3, 4, FRAMES, 17, 3)
    assert not build().stochastic
    np.testing.assert_array_equal(poses[1:], poses[:-1])
    np.testing.assert_array_equal(refine(batch, key=jax.random.key(9)), poses)
    assert build(noise_estimate=True).stochastic
    assert build(plan=ddim_plan(SCHEDULE, 2, 1.0, "even", 24)).stochastic
    draws = refine(batch, noise_estimate=True)
    assert np.abs(draws[0] - draws[1]).max() > 1e-3
    assert np.abs(draws[:, 0] - draws[:, 1]).max() > 1e-3


def test_samples_are_root_relative_and_never_follow_the_true_pose(batch):
    poses = refine(batch)
    np.testing.assert_array_equal(poses[..., 0, :], 0)
    np.testing.assert_array_equal(refine(batch._replace(poses=batch.poses + 1)), poses)
    assert np.abs(refine(batch._replace(keypoints=batch.keypoints + 0.2)) - poses).max() > 1e-3


def test_flip_averaging_is_that_of_the_context_alone(batch):
    """Equal to refining the averaged estimate; not equal to averaging two refinements."""

    def averaged(batch: Batch) -> jax.Array:
        mirrored = batch._replace(keypoints=mirror(batch.keypoints, H36M_17))
        return (from_keypoints(batch) + mirror(from_keypoints(mirrored), H36M_17)) / 2

    lifter = build(WAVES)
    found = sample(with_flips(lifter), {"frozen": {}}, KEY, batch, Sampling(flip="average"))
    np.testing.assert_array_equal(found, refine(batch, Sampling(flip="average")))
    np.testing.assert_allclose(found, refine(batch, context=RoughLifter(averaged, frames=FRAMES))[:1], atol=1e-6)
    both = (refine(batch) + mirror(refine(flip_batch(batch, H36M_17)), H36M_17)) / 2
    assert np.abs(both - found).max() > 1e-5


@pytest.mark.parametrize("unfit", [{"stochastic": True}, {"middle_frame": True}])
def test_a_context_that_cannot_give_one_pose_per_frame_is_refused(unfit):
    with pytest.raises(UserError, match="DiffPose context"):
        build(context=RoughLifter(frames=FRAMES, **unfit))


def test_the_context_of_a_config_keeps_its_root_where_the_estimate_is_not_centred():
    small = {"width": 8, "num_layers": 1, "num_heads": 2}
    config = copy_config(config_for("diffpose_release"), lifter=small)
    config.context = copy_config(config_for("graformer"), lifter=small).lifter
    for centre in (True, False):
        config.lifter.centre_estimate = centre
        assert build_lifter(config).context.options.root_relative == centre
