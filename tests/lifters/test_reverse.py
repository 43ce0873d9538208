"""Reverse sampling: hypotheses by example and number, the input encoded once, both ways of flipping, any start."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffpose_jax.lifters.reverse import (
    Reverse,
    bound_denoiser,
    bound_denoiser_flipped,
    sampling,
    sampling_flipped,
    subtract_root,
    zero_root,
)

from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import at_step, predictions, to_eps
from diffpose_jax.diffusion.samplers import clip_x0, sample
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.lifters.base import Batch
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.skeleton import H36M_17, mirror

SCHEDULE = cosine(50)
PLAN = ddim_plan(SCHEDULE, 4, eta=1.0)
KEY = jax.random.key(2)
B, F, J = 3, 2, 17


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def batch():
    return Batch(normal(0, B, F, J, 2), normal(1, B, F, J, 3), jnp.ones((B, F, J)), jnp.arange(B) * 7 + 1)


def encode(variables, batch):
    """A condition that mixes frames, the same for left and right; the only cumulative sum there is."""
    return {"seen": batch.keypoints - 0.3 * jnp.cumsum(batch.keypoints, axis=1)}


def predict(seen, x, lopsided):
    size = jnp.mean(jnp.square(seen), axis=-1, keepdims=True)
    x0 = jnp.tanh(0.4 * x + jnp.concatenate([seen, seen[..., 1:]], axis=-1) * (1 + size))
    return x0 + lopsided * jnp.linspace(-1.0, 1.0, J)[None, None, :, None]


def reverse(lopsided=0.0, **options):
    def denoise(variables, condition, x, k):
        return predictions("x0", predict(condition["seen"], x, lopsided), x, at_step(SCHEDULE.alpha_bar, k, x))

    parts = {"condition": encode, "denoise": denoise, "finish": lambda x: x, "plan": PLAN, "skeleton": H36M_17}
    return Reverse(**{**parts, "frames": F, **options})


def run(function, batch, number):
    return jax.jit(function, static_argnums=3)({}, KEY, batch, number)


def part(batch, rows):
    return jax.tree.map(lambda leaf: leaf[np.array(rows)], batch)


@pytest.mark.parametrize("make", [sampling, sampling_flipped])
def test_a_hypothesis_depends_on_neither_number_nor_batch_nor_chunk(batch, make):
    whole = run(make(reverse(0.3)), batch, 5)
    assert whole.shape == (5, B, F, J, 3)
    assert np.unique(np.asarray(whole)).size > 0.9 * whole.size
    # Fewer of them, two at a time, for two of the examples in another order.
    found = run(make(reverse(0.3, chunk=2)), part(batch, [2, 0]), 3)
    np.testing.assert_allclose(found, whole[:3, [2, 0]], atol=1e-6)


def encodings(jaxpr, looped=False):
    """The size of the batch in every call of `encode`, and whether it lies inside a loop."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cumsum":
            found.append((equation.invars[0].aval.size // (F * J * 2), looped))
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += encodings(inner, looped or equation.primitive.name in ("scan", "while"))
    return found


def encode_every_time(variables, keypoints, x, k):
    condition = encode(variables, Batch(keypoints, None, None, None))
    return reverse(0.3).denoise(variables, condition, x, k)


@pytest.mark.parametrize(("make", "views", "chunk"), [(sampling, 1, 2), (sampling_flipped, 2, None)])
def test_the_input_is_encoded_once_which_is_as_good_as_in_every_step(batch, make, views, chunk):
    # Without any noise, which takes XLA seconds to compile.
    options = {"plan": ddim_plan(SCHEDULE, 4), "start": lambda keys, condition: (None, 0.1 * jnp.ones((B, F, J, 3)))}
    once = make(reverse(0.3, chunk=chunk, **options))
    jaxpr = jax.make_jaxpr(once, static_argnums=3)({}, KEY, batch, 3)
    assert encodings(jaxpr.jaxpr) == [(views * B, False)]
    parts = {"condition": lambda variables, batch: batch.keypoints, "denoise": encode_every_time}
    repeated = make(reverse(0.3, chunk=chunk, **options, **parts))
    assert all(looped for _, looped in encodings(jax.make_jaxpr(repeated, static_argnums=3)({}, KEY, batch, 3).jaxpr))
    np.testing.assert_allclose(run(repeated, batch, 3), run(once, batch, 3), atol=1e-6)


def walk(bind, reverse, batch, x, noise):
    return sample(None, bind(reverse, {}, batch)[0], x, reverse.plan, noise)


@pytest.mark.parametrize(
    ("bind", "lopsided"), [(bound_denoiser, 0.0), (bound_denoiser_flipped, 0.0), (bound_denoiser_flipped, 0.5)]
)
def test_flipped_input_and_noise_give_the_flipped_pose(batch, bind, lopsided):
    x, noise = normal(3, B, F, J, 3), normal(4, 4, B, F, J, 3)
    straight = walk(bind, reverse(lopsided), batch, x, noise)
    flipped = walk(bind, reverse(lopsided), flip_batch(batch, H36M_17), mirror(x, H36M_17), mirror(noise, H36M_17))
    np.testing.assert_allclose(mirror(flipped, H36M_17), straight, atol=1e-5)


def test_a_lopsided_network_alone_is_not_equivariant(batch):
    x, noise = normal(3, B, F, J, 3), normal(4, 4, B, F, J, 3)
    straight = walk(bound_denoiser, reverse(0.5), batch, x, noise)
    flipped = walk(bound_denoiser, reverse(0.5), flip_batch(batch, H36M_17), mirror(x, H36M_17), mirror(noise, H36M_17))
    assert np.abs(mirror(flipped, H36M_17) - straight).max() > 0.1


def test_averaging_in_every_step_changes_nothing_where_left_and_right_are_alike(batch):
    x, noise = normal(3, B, F, J, 3), normal(4, 4, B, F, J, 3)
    inside, plain = (walk(bind, reverse(), batch, x, noise) for bind in (bound_denoiser_flipped, bound_denoiser))
    np.testing.assert_allclose(inside, plain, atol=1e-5)


def test_limits_meet_the_average_of_both_views_not_the_views(batch):
    def denoise(variables, condition, x, k):
        # The views are told apart by the sign that the mirror gives to x: 3 and -1 average to 1.
        x0 = jnp.where(condition > 0, 3.0, -1.0) * jnp.array([0.0, 1.0, 0.0])[None, None, None, :]
        return jnp.broadcast_to(x0, x.shape), jnp.zeros_like(x)

    limited = reverse(
        condition=lambda variables, batch: jnp.ones_like(batch.keypoints[..., :1]) * batch.keypoints[:, :1, :1, :1],
        denoise=denoise,
        limit=lambda denoiser: clip_x0(denoiser, SCHEDULE.alpha_bar, -1.5, 1.5),
    )
    x0, _ = bound_denoiser_flipped(limited, {}, batch)[0](normal(3, B, F, J, 3), jnp.asarray(10))
    np.testing.assert_allclose(x0[..., 1], 1.0)


def test_a_walk_around_a_mean_brings_an_oracle_home(batch):
    shapes = []

    def start(keys, condition):
        shapes.append(condition["pose"].shape)
        return condition["pose"] + 0.2, jnp.ones_like(condition["pose"])

    def denoise(variables, condition, x, k):
        pose = condition["pose"]
        return pose, to_eps(x, pose, at_step(SCHEDULE.alpha_bar, k, x))

    around = reverse(condition=lambda variables, batch: {"pose": batch.poses}, denoise=denoise, start=start)
    poses = run(sampling_flipped(around), batch, 2)
    np.testing.assert_allclose(poses, jnp.broadcast_to(batch.poses[None], poses.shape), atol=1e-5)
    # What the start sees is the input as it is, not both views of it.
    assert shapes == [(B, F, J, 3)]


def test_a_start_decides_where_a_deterministic_walk_ends(batch):
    plan = ddim_plan(SCHEDULE, (20, 5))
    zero = reverse(plan=plan, start=lambda keys, condition: (None, jnp.zeros((len(keys), F, J, 3))))
    poses = run(sampling(zero), batch, 2)
    np.testing.assert_array_equal(poses[0], poses[1])
    assert np.abs(walk(bound_denoiser, zero, batch, jnp.ones((B, F, J, 3)), None) - poses[0]).max() > 1e-2


def test_the_middle_frame_is_noised_alone(batch):
    def denoise(variables, condition, x, k):
        return jnp.mean(condition["seen"], axis=1, keepdims=True)[..., :1] + 0.1 * x, jnp.zeros_like(x)

    assert run(sampling(reverse(denoise=denoise, middle_frame=True)), batch, 2).shape == (2, B, 1, J, 3)


def test_a_batch_of_other_frames_is_refused(batch):
    with pytest.raises(AssertionError, match="shape"):
        sampling(reverse(frames=F + 1))({}, KEY, batch, 1)


def test_what_can_be_done_with_the_root():
    poses = normal(5, 4, J, 3)
    zeroed, moved = zero_root(poses, H36M_17), subtract_root(poses, H36M_17)
    for found in (zeroed, moved):
        np.testing.assert_array_equal(found[:, 0], 0.0)
    np.testing.assert_array_equal(zeroed[:, 1:], poses[:, 1:])
    np.testing.assert_array_equal(moved[:, 1:] - moved[:, :1], poses[:, 1:] - poses[:, :1])
