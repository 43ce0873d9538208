"""Batches mirror, are cut to the frames that are lifted, and poses lose their root in two ways."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.lifters.base import Batch
from diffpose_jax.lifters.batches import example_batch, flip_batch, lifted_frames, lifted_part, subtract_root, zero_root
from diffpose_jax.lifters.diff3dhpe import Diff3DHPE, Diff3DHPEOptions
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import H36M_16, H36M_17

from .toys import Mixing


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    keypoints, poses = (rng.standard_normal((4, 3, 17, c)).astype(np.float32) for c in (2, 3))
    mask = (rng.uniform(size=(4, 3, 17)) < 0.7).astype(np.float32)
    return Batch(*(jnp.asarray(part) for part in (keypoints, poses, mask, np.arange(4, dtype=np.int32) + 5)))


def lifter(backbone: str = "mixste", skeleton=H36M_17) -> Diff3DHPE:
    schedule = cosine(10)
    options = Diff3DHPEOptions(frames=3, backbone=backbone)
    return Diff3DHPE(Mixing(), skeleton, schedule, ddim_plan(schedule, 2), options)


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


@pytest.mark.parametrize("skeleton", [H36M_16, H36M_17])
def test_an_example_batch_has_the_lifters_shapes(skeleton):
    found = example_batch(lifter(skeleton=skeleton), 2)
    joints = skeleton.num_joints
    assert [part.shape for part in found[:4]] == [(2, 3, joints, 2), (2, 3, joints, 3), (2, 3, joints), (2,)]


def test_the_lifted_part_of_a_batch_is_all_of_it_or_its_middle_frame(batch):
    weights = jnp.ones((4, 3, 17, 1))
    batch = batch._replace(mixture=Mixture(weights, batch.keypoints[..., None, :], batch.keypoints[..., None, :]))
    whole, middle = lifted_part(lifter(), batch), lifted_part(lifter("mixste_middle"), batch)
    jax.tree.map(np.testing.assert_array_equal, whole, batch)
    assert lifted_frames(lifter("mixste_middle")) == slice(1, 2)
    np.testing.assert_array_equal(middle.index, batch.index)
    for found, expected in zip((*middle[:3], *middle.mixture), (*batch[:3], *batch.mixture), strict=True):
        np.testing.assert_array_equal(found, expected[:, 1:2])


def test_what_can_be_done_with_the_root(batch):
    zeroed, moved = zero_root(batch.poses, H36M_17), subtract_root(batch.poses, H36M_17)
    for found in (zeroed, moved):
        np.testing.assert_array_equal(found[..., 0, :], 0.0)
    np.testing.assert_array_equal(zeroed[..., 1:, :], batch.poses[..., 1:, :])
    found, expected = (poses[..., 1:, :] - poses[..., :1, :] for poses in (moved, batch.poses))
    np.testing.assert_array_equal(found, expected)
