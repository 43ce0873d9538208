"""A student learns its teacher's hypotheses, from the same noise, and needs nothing else."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.config import OptionError, copy_config
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Batch, Sampling
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.sections import TrainingOptions
from diffpose_jax.training.distillation import TEACHER, Distilled, with_distillation
from diffpose_jax.training.loop import train
from diffpose_jax.workdir.trained import load_trained


def make_config(archive: str) -> ConfigDict:
    config = config_for("diffupose")
    config.data.source = archive
    config.lifter.update(variant="mlp", width=32, num_layers=1, scale=0.25)
    config.diffusion.update(steps=50, predict="x0", sampler="ddim", eta=0.0, sampling_steps=10, clip=2.0)
    config.training.update(steps=200, batch_size=32, inner_steps=10, learning_rate=3e-3, log_every=100, ema_decay=0.0)
    config.training.update(validate_every=200, checkpoint_every=200, valid_frames=16)
    return config


@pytest.fixture(scope="module")
def teacher(archive: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "teacher"
    with jax.numpy_dtype_promotion("standard"):
        train(make_config(archive), workdir)
    return workdir


@pytest.fixture
def student_config(archive: str, teacher: Path) -> ConfigDict:
    changes = {"distil": str(teacher), "distil_steps": 10, "learning_rate": 1e-3}
    return copy_config(make_config(archive), training=changes, diffusion={"sampling_steps": 1})


def batch_of(lifter, count: int) -> Batch:
    keypoints = 0.3 * np.random.default_rng(0).standard_normal((count, 1, 17, 2), np.float32)
    example = example_batch(lifter, count)
    return example._replace(keypoints=jnp.asarray(keypoints), index=jnp.arange(count, dtype=jnp.int32))


def test_a_student_with_its_teachers_steps_and_weights_has_nothing_to_learn(student_config, teacher):
    config = copy_config(student_config, diffusion={"sampling_steps": 10})
    lifter, variables = build_lifter(config), load_trained(teacher).variables
    learning = with_distillation(lifter, config)
    loss, _ = learning.loss({**variables, TEACHER: variables}, jax.random.key(3), batch_of(lifter, 4))
    assert float(loss) < 1e-6
    # With fewer steps its hypotheses are others.
    fewer = Distilled(build_lifter(student_config), learning.teacher_plan)
    loss, _ = fewer.loss({**variables, TEACHER: variables}, jax.random.key(3), batch_of(lifter, 4))
    assert float(loss) > 1e-3


def test_the_loss_is_the_distance_of_both_ends_of_the_same_noise(student_config, teacher):
    lifter, variables = build_lifter(student_config), load_trained(teacher).variables
    learning, key, batch = with_distillation(lifter, student_config), jax.random.key(5), batch_of(lifter, 3)
    wanted = lifter.sample(variables, key, batch, Sampling(plan=learning.teacher_plan))
    found = lifter.sample(variables, key, batch, Sampling())
    loss, _ = learning.loss({**variables, TEACHER: variables}, key, batch)
    np.testing.assert_allclose(loss, np.linalg.norm(found - wanted, axis=-1).mean(), rtol=1e-5)


def test_no_gradient_reaches_the_teacher_and_the_truth_is_not_read(student_config, teacher):
    lifter, variables = build_lifter(student_config), load_trained(teacher).variables
    learning, batch = with_distillation(lifter, student_config), batch_of(lifter, 3)
    blind = batch._replace(poses=jnp.full_like(batch.poses, jnp.nan))

    def loss(params: dict, teacher: dict) -> jax.Array:
        return learning.loss({**variables, "params": params, TEACHER: teacher}, jax.random.key(0), blind)[0]

    own, others = jax.grad(loss, argnums=(0, 1))(variables["params"], variables)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(own))
    assert any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(own))
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(others))


@pytest.mark.slow
def test_training_brings_one_step_to_where_ten_of_the_teacher_end(student_config, teacher, tmp_path):
    summary = train(student_config, tmp_path / "student")
    lifter, batch, key = build_lifter(student_config), batch_of(build_lifter(student_config), 64), jax.random.key(9)
    plan, old = with_distillation(lifter, student_config).teacher_plan, load_trained(teacher).variables
    new = load_trained(tmp_path / "student").variables
    assert TEACHER not in new  # a student is a model of its own
    ends = lifter.sample(old, key, batch, Sampling(plan=plan))
    before, after = (float(jnp.abs(lifter.sample(one, key, batch, Sampling()) - ends).mean()) for one in (old, new))
    assert after < 0.7 * before
    assert summary.step == 200


def test_a_student_needs_steps_without_noise_and_a_method_with_steps(student_config, teacher):
    noisy = copy_config(student_config, diffusion={"sampler": "ddpm", "sampling_steps": 5})
    with pytest.raises(UserError, match=r"training\.distil: expected reverse steps that draw no noise .* found ddpm"):
        with_distillation(build_lifter(noisy), noisy)
    regression = copy_config(config_for("residual_mlp"), training={"distil": str(teacher)})
    with pytest.raises(UserError, match="expected a method with reverse steps, found residual_mlp"):
        with_distillation(build_lifter(regression), regression)
    with pytest.raises(OptionError, match=r"init_from: expected nothing with training\.distil"):
        TrainingOptions(distil="a", init_from="b")
