"""Wrappers of lifters: flip averaging makes any lifter equivariant, occlusion hides joints, both compare by value."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.config import Options
from diffpose_jax.data.occlusions import occlude
from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Sampling
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.d3dp import D3DP, D3DPOptions
from diffpose_jax.lifters.wrappers import FlipAveraged, Occluded, with_flips, with_occlusion
from diffpose_jax.skeleton import H36M_17, Skeleton, mirror

from .toys import KEY, Mixing, pose_batch, sample

VARIABLES = {"scale": jnp.float32(1)}
WEIGHT = np.random.default_rng(7).standard_normal((34, 51)).astype(np.float32)


def lopsided(keypoints: jax.Array) -> jax.Array:
    flat = keypoints.reshape(*keypoints.shape[:2], 34)
    return jnp.tanh(flat @ WEIGHT).reshape(*flat.shape[:2], 17, 3)


def with_length(keypoints: jax.Array) -> jax.Array:
    """A map that commutes with the mirror."""
    return jnp.concatenate([keypoints, jnp.linalg.norm(keypoints, axis=-1, keepdims=True)], -1)


NO_OPTIONS = Options()


@dataclasses.dataclass(frozen=True)
class Toy(Lifter):
    """A map of the keypoints to poses, plus noise."""

    options_type: ClassVar[type[Options]] = Options

    pose: Callable[[jax.Array], jax.Array] = lopsided
    noise: float = 0.0
    options: Options = NO_OPTIONS
    skeleton: Skeleton = H36M_17
    frames: int = 3

    def loss(self, variables: Any, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        return jnp.sum(batch.mask), Aux({}, {})

    def sample(self, variables: Any, key: jax.Array, batch: Batch, sampling: Sampling) -> jax.Array:
        poses = self.pose(batch.keypoints)
        poses = jnp.broadcast_to(variables["scale"] * poses[None], (sampling.hypotheses, *poses.shape))
        return poses + self.noise * jax.random.normal(key, poses.shape) if self.noise else poses


@pytest.fixture(scope="module")
def batch() -> Batch:
    return pose_batch(4, 3)


def test_a_flip_averaged_lifter_is_equivariant_where_the_plain_one_is_not(batch):
    def asymmetry(flip: bool) -> float:
        sampling = Sampling(hypotheses=2, flip=flip)
        straight = sample(with_flips(Toy()), VARIABLES, KEY, batch, sampling)
        flipped = sample(with_flips(Toy()), VARIABLES, KEY, flip_batch(batch, H36M_17), sampling)
        return float(jnp.max(jnp.abs(mirror(flipped, H36M_17) - straight)))

    assert asymmetry(flip=False) > 0.1
    assert asymmetry(flip=True) < 1e-6


def test_flip_averaging_leaves_an_equivariant_lifter_as_it_is(batch):
    plain = sample(Toy(with_length), VARIABLES, KEY, batch, Sampling(3))
    averaged = sample(with_flips(Toy(with_length)), VARIABLES, KEY, batch, Sampling(3, flip=True))
    np.testing.assert_allclose(averaged, plain, atol=1e-6)


def test_the_two_samples_of_a_flip_average_have_noise_of_their_own(batch):
    lifter = with_flips(Toy(noise=1.0))
    poses = sample(lifter, {"scale": jnp.float32(0)}, KEY, batch, Sampling(500, flip=True))
    assert np.std(poses) == pytest.approx(np.sqrt(0.5), rel=0.02)


def test_whole_samples_are_averaged_unless_the_method_averages_itself():
    schedule = cosine(10)
    inside, outside = (
        D3DP(Mixing(), H36M_17, schedule, ddim_plan(schedule, 2), D3DPOptions(frames=3, flip_inside=inside))
        for inside in (True, False)
    )
    assert with_flips(inside) is inside
    assert with_flips(outside) == FlipAveraged(outside)
    # What is already averaged is not averaged again.
    assert with_flips(with_flips(outside)) == FlipAveraged(outside)


def test_a_wrapper_is_its_lifter_in_all_that_it_does_not_change(batch):
    lifter = with_occlusion(with_flips(Toy()), "random")
    assert (lifter.frames, lifter.skeleton, lifter.middle_frame, lifter.averages_flips) == (3, H36M_17, False, True)
    assert pickle.loads(pickle.dumps(lifter)) == lifter
    with pytest.raises(AttributeError, match="absent"):
        lifter.absent  # noqa: B018


def test_equal_wrappers_of_equal_lifters_compare_equal():
    assert with_occlusion(with_flips(Toy()), "random", 0.2) == Occluded(FlipAveraged(Toy()), "random", 0.2)
    assert hash(with_flips(Toy())) == hash(FlipAveraged(Toy()))
    for other in (with_flips(Toy(noise=1.0)), with_occlusion(Toy(), "random"), Toy()):
        assert with_flips(Toy()) != other
    assert with_occlusion(Toy(), "none") == Toy()


def test_an_occluded_lifter_is_given_the_batch_with_joints_hidden(batch):
    seen = []

    def record(keypoints: jax.Array) -> jax.Array:
        jax.debug.callback(lambda keypoints: seen.append(np.asarray(keypoints)), keypoints, ordered=True)
        return with_length(keypoints)

    lifter = with_occlusion(with_flips(Toy(record)), "random", 0.3)
    value, _ = jax.jit(lifter.loss)(VARIABLES, KEY, batch)
    assert 0.5 * batch.mask.size < value < 0.9 * batch.mask.size
    sample(lifter, VARIABLES, KEY, batch, Sampling(2, flip=True))
    jax.effects_barrier()
    # Every example, at the rate of the pattern; both views of a flipped one miss the same joints.
    hidden = np.any(seen[0] != batch.keypoints, axis=-1)
    assert hidden.any(axis=(1, 2)).all()
    assert hidden.mean() == pytest.approx(0.3, abs=0.15)
    np.testing.assert_array_equal(mirror(seen[1], H36M_17), seen[0])
    # The key of the pattern is not that of anything else.
    assert not np.array_equal(seen[0], occlude(KEY, batch, "random", H36M_17, 0.3).keypoints)
