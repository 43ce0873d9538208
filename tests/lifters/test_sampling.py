"""Sampling: hypotheses by example and index, both ways of flipping, temperature, wrappers of the denoiser, any plan."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import at_step, to_eps
from diffpose_jax.diffusion.samplers import sample as take_steps
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter, Sampling
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.d3dp import D3DP, D3DPOptions
from diffpose_jax.lifters.diff3dhpe import Diff3DHPE, Diff3DHPEOptions
from diffpose_jax.lifters.diffhpe import DiffHPE, DiffHPEOptions
from diffpose_jax.lifters.diffpose.method import DiffPose
from diffpose_jax.lifters.diffpose.release import DiffPoseRelease
from diffpose_jax.lifters.diffupose import DiffuPose
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.skeleton import H36M_17, mirror

from .diffpose.heatmap_batch import CONTEXT, FROZEN
from .toys import KEY, Mixing, Oracle, pose_batch, sample, take

SCHEDULE = cosine(50)
NOISY, QUIET = ddim_plan(SCHEDULE, 4, eta=1.0), ddim_plan(SCHEDULE, 4)
B, F, J = 3, 2, 17
BATCH = pose_batch(B, F, spacing=7)
ALIKE, LOPSIDED = Mixing(), Mixing(0.4)


def d3dp(network, plan=NOISY, flip_inside: bool = True, clip: float = 4.0) -> D3DP:
    return D3DP(network, H36M_17, SCHEDULE, plan, D3DPOptions(frames=F, flip_inside=flip_inside), clip)


def diff3dhpe(network, plan=NOISY, flip_inside: bool = True) -> Diff3DHPE:
    return Diff3DHPE(network, H36M_17, SCHEDULE, plan, Diff3DHPEOptions(frames=F, flip_inside=flip_inside), 4.0)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# --- hypotheses


@pytest.mark.parametrize(
    ("flip", "flip_inside"), [("none", True), ("average", True), ("average", False), ("half", True)]
)
def test_a_hypothesis_depends_on_neither_number_nor_batch_nor_chunk(flip, flip_inside):
    lifter = with_flips(d3dp(LOPSIDED, flip_inside=flip_inside))
    whole = sample(lifter, {}, KEY, BATCH, Sampling(5, flip=flip))
    assert whole.shape == (5, B, F, J, 3)
    assert np.unique(np.asarray(whole)[..., 1:, :]).size > 0.9 * whole[..., 1:, :].size
    # Fewer of them, two at a time, for two of the examples in another order.
    found = sample(lifter, {}, KEY, take(BATCH, [2, 0]), Sampling(3, flip=flip, chunk=2))
    np.testing.assert_allclose(found, whole[:3, [2, 0]], atol=1e-6)


def test_temperature_scales_the_noise_that_hypotheses_start_from():
    """At 0 all start at zero, so that without noise in the steps they agree."""
    lifter = d3dp(LOPSIDED, QUIET)
    cold = sample(lifter, {}, KEY, BATCH, Sampling(2, temperature=0.0))
    np.testing.assert_array_equal(cold[0], cold[1])
    at_zero = take_steps(None, lifter.denoiser({}, BATCH.keypoints), jnp.zeros((B, F, J, 3)), QUIET)
    np.testing.assert_allclose(cold[0][..., 1:, :], at_zero[..., 1:, :], atol=1e-6)
    warm = [sample(lifter, {}, KEY, BATCH, Sampling(2, temperature=t)) for t in (1.0, 2.0)]
    assert np.abs(warm[0][0] - warm[0][1]).max() > 1e-2
    assert np.abs(warm[0] - warm[1]).max() > 1e-2


def test_a_start_decides_where_deterministic_steps_end():
    denoiser = d3dp(LOPSIDED).denoiser({}, BATCH.keypoints)
    zero, one = (take_steps(None, denoiser, value * jnp.ones((B, F, J, 3)), QUIET) for value in (0.0, 1.0))
    assert np.abs(zero - one).max() > 1e-2


def test_other_steps_take_the_place_of_the_methods_own():
    other = ddim_plan(SCHEDULE, (40, 3))
    found = sample(d3dp(LOPSIDED), {}, KEY, BATCH, Sampling(2, plan=other))
    np.testing.assert_array_equal(found, sample(d3dp(LOPSIDED, other), {}, KEY, BATCH, Sampling(2)))


def test_another_temperature_needs_no_compilation_and_another_number_does():
    network = Mixing()
    lifter, counts = d3dp(network), []
    for sampling in (Sampling(2), Sampling(2, temperature=1.3), Sampling(2, temperature=0.7), Sampling(3)):
        sample(lifter, {}, KEY, BATCH, sampling)
        counts.append(network.traces)
    assert counts[0] == counts[1] == counts[2] < counts[3]


@pytest.mark.parametrize(("name", "value"), [("flip", True), ("flip", "all"), ("noise", "sequence")])
def test_a_word_that_means_nothing_is_refused(name, value):
    with pytest.raises(UserError, match=rf"sampling.{name}: expected one of \w+, .*, found {value!r}"):
        Sampling(**{name: value})


# --- equal lifters


@pytest.mark.parametrize("make", [d3dp, diff3dhpe])
def test_equal_lifters_compare_equal_and_share_what_is_compiled(make):
    network = Mixing()
    # Schedules and plans of their own: equal by value.
    first, second = (make(network, ddim_plan(cosine(50), 4, eta=1.0)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    sample(first, {}, KEY, BATCH, Sampling())
    traces = network.traces
    sample(second, {}, KEY, BATCH, Sampling())
    assert network.traces == traces > 0
    for other in (make(network, QUIET), make(network, flip_inside=False), make(Mixing())):
        assert first != other
    sample(make(network, flip_inside=False), {}, KEY, BATCH, Sampling())
    assert network.traces > traces


# --- wrappers of the denoiser


def diffhpe(network) -> DiffHPE:
    return DiffHPE(network, H36M_17, SCHEDULE, QUIET, DiffHPEOptions(frames=F))


def diffupose(network) -> DiffuPose:
    return DiffuPose(network, H36M_17, SCHEDULE, QUIET)


def diffpose(network) -> DiffPose:
    return DiffPose(network, H36M_17, SCHEDULE, QUIET, CONTEXT)


def diffpose_release(network) -> DiffPoseRelease:
    return DiffPoseRelease(network, H36M_17, SCHEDULE, QUIET, CONTEXT)


class Nothing:
    """A network that returns zeros `[..., channels]`."""

    def __init__(self, channels: int = 3):
        self.channels = channels

    def apply(self, variables, x, *inputs, train):
        return jnp.zeros((*x.shape[:-1], self.channels))


@pytest.mark.parametrize(
    ("lifter", "variables"),
    [
        (partial(d3dp, plan=QUIET), {}),
        (partial(diff3dhpe, plan=QUIET), {}),
        (diffhpe, {}),
        (diffupose, {}),
        (diffpose, {"frozen": FROZEN}),
        (diffpose_release, {"frozen": {}}),
    ],
    ids=["d3dp", "diff3dhpe", "diffhpe", "diffupose", "diffpose", "diffpose_release"],
)
def test_the_wrapper_of_a_denoiser_has_the_last_word_in_every_method(lifter, variables):
    release = lifter is diffpose_release
    lifter = lifter(Nothing(5 if release or lifter is diffupose else 3))
    batch = pose_batch(B, lifter.frames)
    wanted = 3 * batch.poses if not release else jnp.concatenate([batch.keypoints, 3 * batch.poses], axis=-1)

    def towards(denoiser):
        def predict(x, k):
            assert denoiser(x, k)[0].shape == wanted.shape
            return wanted, to_eps(x, wanted, at_step(SCHEDULE.alpha_bar, k, x))

        return predict

    found = sample(lifter, variables, KEY, batch, Sampling(2, wrapper=towards))
    np.testing.assert_allclose(found, np.broadcast_to(3 * batch.poses[None], found.shape), atol=1e-4)


@pytest.mark.parametrize("flip", ["none", "average"])
def test_a_wrapper_is_given_the_clipped_average_and_is_not_clipped_itself(flip):
    lifter = d3dp(Oracle(jnp.full(((1 + (flip == "average")) * B, F, J, 3), 9.0)), QUIET, clip=1.5)

    def raised(denoiser):
        return lambda x, k: (denoiser(x, k)[0] + 5, denoiser(x, k)[1])

    found = sample(lifter, {}, KEY, BATCH, Sampling(1, flip=flip, wrapper=raised))[0]
    np.testing.assert_allclose(found[..., 1:, 1:], 6.5, rtol=1e-6)


# --- both views of the input in one denoiser


def reverse(lifter: Lifter, flip: bool, mirrored: bool = False) -> jax.Array:
    """The final state from the same noise, or from its mirror image with the mirrored input."""
    x, noise = normal(3, B, F, J, 3), normal(4, 4, B, F, J, 3)
    batch = flip_batch(BATCH, H36M_17) if mirrored else BATCH
    x, noise = (mirror(part, H36M_17) if mirrored else part for part in (x, noise))

    @jax.jit
    def run(keypoints, x, noise):
        return take_steps(None, lifter.denoiser({}, keypoints, flip), x, NOISY, noise)

    return run(batch.keypoints, x, noise)


@pytest.mark.parametrize("make", [d3dp, diff3dhpe])
@pytest.mark.parametrize(("flip", "network"), [(False, ALIKE), (True, ALIKE), (True, LOPSIDED)])
def test_flipped_input_and_noise_give_the_flipped_pose(make, flip, network):
    straight, flipped = (reverse(make(network), flip, mirrored) for mirrored in (False, True))
    np.testing.assert_allclose(mirror(flipped, H36M_17), straight, atol=1e-5)


def test_a_lopsided_network_alone_is_not_equivariant():
    straight, flipped = (reverse(d3dp(LOPSIDED), False, mirrored) for mirrored in (False, True))
    assert np.abs(mirror(flipped, H36M_17) - straight).max() > 0.1


def test_averaging_in_every_step_changes_nothing_where_left_and_right_are_alike():
    np.testing.assert_allclose(reverse(d3dp(ALIKE), True), reverse(d3dp(ALIKE), False), atol=1e-5)


class Views:
    """3 for the input and -1 for its mirror image, in y: the views differ in the sign of the keypoints' x."""

    def apply(self, variables, x, k, *, train):
        return jnp.where(x[..., :1] > 0, 3.0, -1.0) * jnp.array([0.0, 1.0, 0.0])[None, None, None]


@pytest.mark.parametrize("make", [d3dp, diff3dhpe])
def test_the_clip_meets_the_average_of_both_views_not_the_views(make):
    lifter = make(Views()) if make is diff3dhpe else d3dp(Views(), clip=1.5)
    x0, _ = lifter.denoiser({}, jnp.ones((B, F, J, 2)), flip=True)(normal(3, B, F, J, 3), jnp.asarray(10))
    np.testing.assert_allclose(x0[..., 1], 1.0)


# --- shapes


def test_the_middle_frame_is_noised_alone():
    class Middle:
        def apply(self, variables, x, k, *, train):
            assert x.shape == (B, 3, J, 5)
            return 0.1 * x[:, 1:2, :, 2:]

    lifter = Diff3DHPE(Middle(), H36M_17, SCHEDULE, NOISY, Diff3DHPEOptions(frames=3, backbone="mixste_middle"))
    poses = jax.eval_shape(lifter.sample, {}, KEY, pose_batch(B, 3), Sampling(2))
    assert poses.shape == (2, B, 1, J, 3)


@pytest.mark.parametrize("make", [d3dp, diff3dhpe, diffhpe, diffupose, diffpose, diffpose_release])
def test_a_batch_of_other_frames_is_refused(make):
    with pytest.raises(AssertionError, match="shape"):
        make(ALIKE).sample({"frozen": FROZEN}, KEY, pose_batch(B, F + 1), Sampling())
