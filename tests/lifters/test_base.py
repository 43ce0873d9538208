"""What holds for every lifter: a batch mirrors, and flip averaging makes any lifter equivariant."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.lifters.base import Aux, Batch, Lifter, flip_averaged
from diffpose_jax.lifters.batches import example_batch, flip_batch
from diffpose_jax.skeleton import H36M_16, H36M_17, mirror


def toy_lifter(noise: float = 0.0) -> Lifter:
    """A one-sided map of the keypoints to poses, plus noise."""

    def sample(variables, key, batch, num_hypotheses):
        weight = np.random.default_rng(7).standard_normal((34, 51)).astype(np.float32)
        flat = batch.keypoints.reshape(*batch.keypoints.shape[:2], 34)
        poses = jnp.tanh(flat @ weight).reshape(*flat.shape[:2], 17, 3)
        drawn = noise * jax.random.normal(key, (num_hypotheses, *poses.shape))
        return variables["scale"] * poses[None] + drawn

    def loss(variables, key, batch):
        return jnp.float32(0), Aux({}, {})

    return Lifter(lambda key, batch: {"scale": jnp.float32(1)}, loss, sample, H36M_17, frames=3)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    keypoints, poses = (rng.standard_normal((4, 3, 17, c)).astype(np.float32) for c in (2, 3))
    mask = (rng.uniform(size=(4, 3, 17)) < 0.7).astype(np.float32)
    return Batch(*(jnp.asarray(part) for part in (keypoints, poses, mask, np.arange(4, dtype=np.int32) + 5)))


def test_mirroring_a_batch_twice_gives_it_back(batch):
    once = flip_batch(batch, H36M_17)
    assert not np.array_equal(once.keypoints, batch.keypoints)
    assert not np.array_equal(once.mask, batch.mask)
    np.testing.assert_array_equal(once.index, batch.index)
    for found, expected in zip(flip_batch(once, H36M_17)[:4], batch[:4], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_mirrored_joint_takes_its_mask_along(batch):
    left, right = H36M_17.joints.index("left_knee"), H36M_17.joints.index("right_knee")
    np.testing.assert_array_equal(flip_batch(batch, H36M_17).mask[..., left], batch.mask[..., right])


def test_a_flip_averaged_lifter_is_equivariant_where_the_plain_one_is_not(batch):
    plain, variables, key = toy_lifter(), {"scale": jnp.float32(1)}, jax.random.key(0)

    def asymmetry(lifter: Lifter) -> float:
        sample = jax.jit(lifter.sample, static_argnums=3)
        straight = sample(variables, key, batch, 2)
        flipped = sample(variables, key, flip_batch(batch, H36M_17), 2)
        return float(jnp.max(jnp.abs(mirror(flipped, H36M_17) - straight)))

    assert asymmetry(plain) > 0.1
    assert asymmetry(flip_averaged(plain)) < 1e-6


def test_flip_averaging_leaves_an_equivariant_lifter_as_it_is(batch):
    def sample(variables, key, batch, num_hypotheses):
        depth = jnp.linalg.norm(batch.keypoints, axis=-1, keepdims=True)
        return jnp.broadcast_to(jnp.concatenate([batch.keypoints, depth], -1)[None], (num_hypotheses, 4, 3, 17, 3))

    lifter = toy_lifter()._replace(sample=sample)
    key = jax.random.key(0)
    np.testing.assert_allclose(
        flip_averaged(lifter).sample({}, key, batch, 3), lifter.sample({}, key, batch, 3), atol=1e-6
    )


def test_the_two_samples_of_a_flip_average_have_noise_of_their_own(batch):
    only_noise = toy_lifter(noise=1.0)
    sample = jax.jit(flip_averaged(only_noise).sample, static_argnums=3)
    poses = sample({"scale": jnp.float32(0)}, jax.random.key(0), batch, 500)
    assert np.std(poses) == pytest.approx(np.sqrt(0.5), rel=0.02)


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_an_example_batch_has_the_lifters_shapes(skeleton):
    found = example_batch(toy_lifter()._replace(skeleton=skeleton), 2)
    joints = skeleton.num_joints
    assert [part.shape for part in found[:4]] == [(2, 3, joints, 2), (2, 3, joints, 3), (2, 3, joints), (2,)]
