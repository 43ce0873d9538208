"""Wrappers of lifters: flips keep the distribution or are averaged, occlusion hides joints, both compare by value."""

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
from diffpose_jax.lifters.wrappers import Flipped, Occluded, with_flips, with_occlusion
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
    def asymmetry(flip: str) -> float:
        sampling = Sampling(hypotheses=2, flip=flip)
        straight = sample(with_flips(Toy()), VARIABLES, KEY, batch, sampling)
        flipped = sample(with_flips(Toy()), VARIABLES, KEY, flip_batch(batch, H36M_17), sampling)
        return float(jnp.max(jnp.abs(mirror(flipped, H36M_17) - straight)))

    assert asymmetry("none") > 0.1
    assert asymmetry("average") < 1e-6


def test_flip_averaging_leaves_an_equivariant_lifter_as_it_is(batch):
    plain = sample(Toy(with_length), VARIABLES, KEY, batch, Sampling(3))
    averaged = sample(with_flips(Toy(with_length)), VARIABLES, KEY, batch, Sampling(3, flip="average"))
    np.testing.assert_allclose(averaged, plain, atol=1e-6)


def test_the_two_samples_of_a_flip_average_have_noise_of_their_own(batch):
    lifter = with_flips(Toy(noise=1.0))
    poses = sample(lifter, {"scale": jnp.float32(0)}, KEY, batch, Sampling(500, flip="average"))
    assert np.std(poses) == pytest.approx(np.sqrt(0.5), rel=0.02)


def test_every_second_hypothesis_is_of_the_mirrored_input(batch):
    straight = sample(Toy(), VARIABLES, KEY, batch, Sampling(1))[0]
    flipped = mirror(sample(Toy(), VARIABLES, KEY, flip_batch(batch, H36M_17), Sampling(1)), H36M_17)[0]
    for count in (1, 2, 5):  # of an odd number one more is of the input
        found = sample(with_flips(Toy()), VARIABLES, KEY, batch, Sampling(count, flip="half"))
        for number, poses in enumerate(found):
            np.testing.assert_allclose(poses, flipped if number % 2 else straight, atol=1e-6)


def test_both_kinds_of_hypotheses_are_those_that_are_averaged(batch):
    class Stamped(Toy):
        """Its hypotheses say by which key and of which view they are."""

        def sample(self, variables, key, batch, sampling):
            number = jnp.arange(float(sampling.hypotheses))[:, None, None, None, None]
            stamp = number + 0.1 * jax.random.uniform(key) + 0 * batch.poses[None]
            return stamp.at[..., 0].set(0)

    halves, averages = (
        with_flips(Stamped()).sample(VARIABLES, KEY, batch, Sampling(count, flip=flip))
        for count, flip in ((6, "half"), (3, "average"))
    )
    np.testing.assert_allclose((halves[::2] + halves[1::2]) / 2, averages, atol=1e-6)
    assert np.abs(halves[0] - halves[1]).max() > 1e-3


def test_the_two_views_of_a_deterministic_lifter_are_averaged_either_way(batch):
    class Certain(Toy):
        stochastic = False

    lifter = with_flips(Certain())
    half, average = (sample(lifter, VARIABLES, KEY, batch, Sampling(flip=flip)) for flip in ("half", "average"))
    np.testing.assert_array_equal(half, average)
    drawn = lifter.draw(VARIABLES, KEY, batch, Sampling(flip="half"))
    np.testing.assert_array_equal(drawn.samples, drawn.averaged)


@pytest.mark.parametrize("count", [5, 10])
def test_a_calibrated_posterior_stays_calibrated_unless_its_samples_are_averaged(count):
    """The truth is one more draw: among H samples of a coordinate it has every place with probability 1 / (H + 1)."""
    batch, posterior = pose_batch(400, 3), with_flips(Toy(with_length, noise=0.1))
    truth = with_length(batch.keypoints) + 0.1 * jax.random.normal(jax.random.key(99), batch.poses.shape)

    def share_outside(flip: str, samples: bool) -> float:
        """How often the truth is less or more than all hypotheses."""
        drawn = posterior.draw(VARIABLES, KEY, batch, Sampling(count, flip=flip))
        found = drawn.samples if samples else drawn.averaged
        return float(jnp.mean((truth < found.min(axis=0)) | (truth > found.max(axis=0))))

    nominal = 2 / (count + 1)
    for flip, samples in (("none", True), ("half", True), ("half", False), ("average", True)):
        assert share_outside(flip, samples) == pytest.approx(nominal, abs=0.01)
    assert share_outside("average", samples=False) > nominal + 0.1


def test_whole_samples_are_averaged_unless_the_method_averages_itself():
    schedule = cosine(10)
    inside, outside = (
        D3DP(Mixing(), H36M_17, schedule, ddim_plan(schedule, 2), D3DPOptions(frames=3, flip_inside=inside))
        for inside in (True, False)
    )
    assert with_flips(with_flips(outside)) == Flipped(outside)
    batch, average = pose_batch(2, 3), Sampling(2, flip="average")
    drawn = with_flips(inside).draw({}, KEY, batch, average)
    assert drawn.samples is drawn.averaged
    np.testing.assert_array_equal(drawn.samples, inside.sample({}, KEY, batch, average))
    drawn = with_flips(outside).draw({}, KEY, batch, average)
    assert np.abs(drawn.samples - drawn.averaged).max() > 1e-3


def test_a_wrapper_is_its_lifter_in_all_that_it_does_not_change(batch):
    lifter = with_occlusion(with_flips(Toy()), "random")
    assert (lifter.frames, lifter.skeleton, lifter.middle_frame, lifter.averages_flips) == (3, H36M_17, False, False)
    assert pickle.loads(pickle.dumps(lifter)) == lifter
    with pytest.raises(AttributeError, match="absent"):
        lifter.absent  # noqa: B018


def test_equal_wrappers_of_equal_lifters_compare_equal():
    assert with_occlusion(with_flips(Toy()), "random", 0.2) == Occluded(Flipped(Toy()), "random", 0.2)
    assert hash(with_flips(Toy())) == hash(Flipped(Toy()))
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
    sample(lifter, VARIABLES, KEY, batch, Sampling(2, flip="average"))
    jax.effects_barrier()
    # Every example, at the rate of the pattern; both views of a flipped one miss the same joints.
    hidden = np.any(seen[0] != batch.keypoints, axis=-1)
    assert hidden.any(axis=(1, 2)).all()
    assert hidden.mean() == pytest.approx(0.3, abs=0.15)
    np.testing.assert_array_equal(mirror(seen[1], H36M_17), seen[0])
    # The key of the pattern is not that of anything else.
    assert not np.array_equal(seen[0], occlude(KEY, batch, "random", H36M_17, 0.3).keypoints)
