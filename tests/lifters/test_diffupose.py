"""DiffuPose: its loss by hand, what the loss depends on, an oracle that returns the pose, and noise by example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion.plans import ddim_plan, ddpm_plan
from diffpose_jax.diffusion.process import target, to_eps
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.lifters.base import Batch, Sampling
from diffpose_jax.lifters.diffupose import DENOISERS, DiffuPose, DiffuPoseOptions, denoising_loss
from diffpose_jax.models.modulated_gcn import StepModulatedGCN
from diffpose_jax.models.step_mlp import StepResidualMLP
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17

from .toys import KEY, pose_batch, sample, take

SCHEDULE = cosine(8)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return pose_batch(4, 1, spacing=11)


@pytest.fixture(scope="module")
def lifter() -> DiffuPose:
    return DiffuPose(StepModulatedGCN(H36M_17, width=32, num_layers=1), H36M_17, SCHEDULE, ddpm_plan(SCHEDULE))


@pytest.fixture(scope="module")
def variables(lifter, batch):
    return jax.jit(lifter.init)(jax.random.key(1), batch)


@pytest.fixture(scope="module")
def loss(lifter):
    return jax.jit(lambda variables, key, batch: lifter.loss(variables, key, batch)[0])


def test_the_loss_on_numbers_done_by_hand():
    output = jnp.zeros((1, 1, 2, 5))
    noise = jnp.array([[[[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]]])
    keypoints = jnp.array([[[[0.0, 0.0], [0.5, -1.0]]]])
    weighted, displayed = denoising_loss(output, noise, keypoints, jnp.array([1.0, 4.0]), 0.8)
    # Ten numbers: joint 0 is off by 1 + 2 + 3, joint 1 by 0.8 (0.5 + 1) and counts four times.
    assert displayed == pytest.approx((6 + 1.2) / 10)
    assert weighted == pytest.approx((6 + 4 * 1.2) / 10)


def test_the_loss_of_squares_on_numbers_done_by_hand():
    output = jnp.zeros((1, 1, 2, 5))
    noise = jnp.array([[[[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]]])
    keypoints = jnp.array([[[[0.0, 0.0], [0.5, -1.0]]]])
    weighted, displayed = denoising_loss(output, noise, keypoints, jnp.array([1.0, 4.0]), 0.8, "square")
    # Joint 0 is off by 1 + 4 + 9, joint 1 by 0.8 (0.25 + 1).
    assert displayed == pytest.approx((14 + 1.0) / 10)
    assert weighted == pytest.approx((14 + 4 * 1.0) / 10)


def test_the_loss_is_finite_and_depends_on_every_input(loss, variables, batch):
    value = float(loss(variables, KEY, batch))
    assert np.isfinite(value)
    assert value == loss(variables, KEY, batch)
    changes = {
        "poses": batch._replace(poses=batch.poses + 0.1),
        "keypoints": batch._replace(keypoints=batch.keypoints + 0.1),
        "index": batch._replace(index=batch.index + 1),
    }
    for name, changed in changes.items():
        assert abs(float(loss(variables, KEY, changed)) - value) > 1e-5, name
    assert abs(float(loss(variables, jax.random.key(4), batch)) - value) > 1e-5
    scaled = {**variables, "params": jax.tree.map(lambda leaf: 1.1 * leaf, variables["params"])}
    assert abs(float(loss(scaled, KEY, batch)) - value) > 1e-5


def test_the_loss_does_not_care_where_in_the_batch_an_example_lies(loss, variables, batch):
    moved = take(batch, [2, 3, 0, 1])
    assert loss(variables, KEY, moved) == pytest.approx(float(loss(variables, KEY, batch)), rel=1e-5)


def test_the_loss_updates_the_batch_statistics_and_reaches_every_live_parameter(lifter, variables, batch):
    def value(params):
        return lifter.loss({**variables, "params": params}, KEY, batch)

    # Away from the start, where the last scale of the non-local block is zero and hides what lies before it.
    params = jax.tree.map(lambda leaf: leaf + 0.01, variables["params"])
    gradient, aux = jax.jit(jax.grad(value, has_aux=True))(params)
    assert set(aux.metrics) == {"loss", "loss_unweighted"}
    changed = jax.tree.map(lambda old, new: np.any(old != new), variables["batch_stats"], aux.batch_stats)
    assert all(jax.tree.leaves(changed))
    dead = {
        jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradient) if not np.any(leaf)
    }
    unused = {f"['modulation_unused']['project']['{name}']" for name in ("bias", "kernel")}
    units = ("input", "block_0']['unit_1", "block_0']['unit_2")
    removed_by_normalisation = {f"['trunk']['{unit}']['conv']['bias']" for unit in units}
    assert dead == unused | removed_by_normalisation | {"['non_local']['project']['bias']"}


class Oracle:
    """A network that knows the poses `[B, F, J, 3]`; its 2D channels are nonsense and must not matter."""

    def __init__(self, poses: jax.Array, predict: str):
        self.poses, self.predict = poses, predict

    def apply(self, variables, x, keypoints, k, *, train):
        alpha_bar = jnp.asarray(SCHEDULE.alpha_bar)[k]
        noise = to_eps(x, self.poses, alpha_bar)
        known = target(self.predict, jnp.broadcast_to(self.poses, x.shape), noise, alpha_bar)
        return jnp.concatenate([known, 1e3 * keypoints], axis=-1)


@pytest.mark.parametrize(
    ("predict", "plan"),
    [
        *((predict, ddpm_plan(SCHEDULE)) for predict in ("eps", "x0", "v")),
        *(("eps", plan) for plan in (ddpm_plan(SCHEDULE, 3), ddim_plan(SCHEDULE, 4))),
    ],
)
def test_an_oracle_gets_the_clean_pose_out_of_the_sampler(batch, predict, plan):
    lifter = DiffuPose(Oracle(batch.poses, predict), H36M_17, SCHEDULE, plan, predict=predict)
    poses = sample(lifter, {}, KEY, batch, Sampling(2))
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], (2, *batch.poses.shape)), atol=2e-5)


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_in_units_of_another_length_the_oracle_gets_the_same_pose(batch, predict):
    options = DiffuPoseOptions(scale=0.25)
    network = Oracle(batch.poses / 0.25, predict)
    lifter = DiffuPose(network, H36M_17, SCHEDULE, ddim_plan(SCHEDULE, 4), options, predict=predict)
    poses = sample(lifter, {}, KEY, batch, Sampling(2))
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], (2, *batch.poses.shape)), atol=2e-5)


class Exact(Oracle):
    """The same in training, its keypoints exact too."""

    def apply(self, variables, x, keypoints, k, *, train, index=None, rngs=None, mutable=()):
        output = super().apply(variables, x, keypoints, k, train=train).at[..., 3:].set(keypoints)
        return (output, {}) if mutable else output


@pytest.mark.parametrize("norm", ["absolute", "square"])
def test_what_is_learned_is_the_pose_in_units_of_the_scale(batch, norm):
    def loss(poses):
        network = Exact(poses, "x0")
        options = DiffuPoseOptions(scale=0.25, norm=norm, joint_weights="uniform")
        lifter = DiffuPose(network, H36M_17, SCHEDULE, ddim_plan(SCHEDULE, 4), options, predict="x0")
        value, aux = lifter.loss({}, KEY, batch)
        return float(value), float(aux.metrics["loss_unweighted"])

    assert loss(batch.poses / 0.25) == pytest.approx((0, 0), abs=1e-6)
    # Poses of which every coordinate is 5 cm off, 0.2 of the scale, in three of five channels.
    off = 0.2 if norm == "absolute" else 0.04
    assert loss((batch.poses + 0.05) / 0.25) == pytest.approx((0.6 * off, 0.6 * off), rel=1e-4)


def test_the_sampler_clips_at_the_same_distance_whatever_the_scale(batch):
    far = batch.poses.at[:, :, 3, 0].set(5.0)
    options = DiffuPoseOptions(scale=0.25)
    lifter = DiffuPose(Oracle(far / 0.25, "x0"), H36M_17, SCHEDULE, ddpm_plan(SCHEDULE), options, "x0", clip=1.5)
    poses = sample(lifter, {}, KEY, batch, Sampling())
    np.testing.assert_allclose(poses[0, :, :, 3, 0], 1.5, atol=2e-5)


def test_the_sampler_clips_at_the_given_distance(batch):
    far = batch.poses.at[:, :, 3, 0].set(5.0)
    lifter = DiffuPose(Oracle(far, "x0"), H36M_17, SCHEDULE, ddpm_plan(SCHEDULE), predict="x0", clip=1.0)
    poses = sample(lifter, {}, KEY, batch, Sampling())
    np.testing.assert_allclose(poses[0, :, :, 3, 0], 1.0, atol=2e-5)


def test_samples_are_root_relative_and_differ(lifter, variables, batch):
    poses = np.asarray(sample(lifter, variables, KEY, batch, Sampling(3)))
    assert poses.shape == (3, 4, 1, 17, 3)
    np.testing.assert_array_equal(poses[..., 0, :], 0)
    assert all(np.abs(poses[a] - poses[b]).max() > 0.01 for a in range(3) for b in range(a))
    assert all(np.abs(poses[0, a] - poses[0, b]).max() > 0.01 for a in range(4) for b in range(a))


def test_a_hypothesis_of_an_example_is_the_same_however_many_are_drawn_of_however_many(lifter, variables, batch):
    three = sample(lifter, variables, KEY, batch, Sampling(3))
    two = [sample(lifter, variables, KEY, take(batch, half), Sampling(2)) for half in ([0, 1], [2, 3])]
    np.testing.assert_allclose(np.concatenate(two, axis=1), three[:2], atol=1e-5)


def test_samples_follow_the_keypoints_and_the_index_and_never_the_true_pose(lifter, variables, batch):
    def poses(batch: Batch) -> jax.Array:
        return sample(lifter, variables, KEY, batch, Sampling(3))

    np.testing.assert_array_equal(poses(batch._replace(poses=batch.poses + 1)), poses(batch))
    for changed in (batch._replace(keypoints=batch.keypoints + 0.2), batch._replace(index=batch.index + 1)):
        assert np.abs(poses(changed) - poses(batch)).max() > 1e-3


def test_the_residual_mlp_is_built_from_a_config_and_reaches_every_parameter(batch):
    config = config_for("diffupose")
    config.lifter.update(variant="mlp", width=16, num_layers=1, scale=0.25, norm="square", visibility="confidence")
    config.diffusion.update(predict="x0")
    lifter = build_lifter(config)
    assert set(DENOISERS) == {"gcn", "unet", "mlp"}
    assert isinstance(lifter.network, StepResidualMLP)
    assert lifter.options.scale == 0.25
    shapes = jax.eval_shape(lifter.init, KEY, batch)
    assert "batch_stats" not in shapes
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.float32(0.1 * rng.standard_normal(leaf.shape)), shapes["params"])
    gradient = jax.jit(jax.grad(lambda params: lifter.loss({"params": params}, KEY, batch)[0]))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
