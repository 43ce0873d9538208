"""Joints that were not seen: what enters the networks of all methods, and the spread of those that cannot be told."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Batch, Sampling
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.lifters.diffpose.initial_distribution import widen_hidden
from diffpose_jax.lifters.visibility import visible_keypoints, widen_unseen
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.registry import build_lifter, complete_config
from diffpose_jax.skeleton import H36M_17

from .toys import KEY, pose_batch, sample

TINY = {
    "modulated_gcn": {"width": 16, "num_layers": 1},
    "residual_mlp": {"width": 8, "num_layers": 1},
    "mixture_density": {"width": 8, "num_layers": 1, "components": 2},
    "diffupose": {"width": 32, "num_layers": 1},
    "diffpose": {"width": 8, "num_layers": 1, "num_heads": 1, "feature_width": 4},
    "diffhpe": {"frames": 2, "width": 4, "num_layers": 1, "step_width": 8},
    "diff3dhpe": {"frames": 2, "width": 8, "num_layers": 1, "num_heads": 1},
    "d3dp": {"frames": 2, "width": 8, "num_layers": 1, "num_heads": 1},
    "poseformer": {"frames": 3, "width": 4, "num_layers": 1, "num_heads": 1},
    "graformer": {"width": 8, "num_layers": 1, "num_heads": 1},
    "mixste": {"frames": 2, "width": 8, "num_layers": 1, "num_heads": 1},
}


def build(method: str, visibility: str, context: dict | None = None):
    config = complete_config({"lifter": {"name": method}, "context": context or {}})
    config.lifter.update({**TINY[method], "visibility": visibility})
    config.diffusion.update(steps=4, sampling_steps=2)
    return build_lifter(config)


def with_context(visibility: str, of_context: str):
    context = {"name": "modulated_gcn", "visibility": of_context, **TINY["modulated_gcn"]}
    return build("diffpose", visibility, context)


def built(name: str, visibility: str):
    return with_context(visibility, visibility) if name == "diffpose" else build(name, visibility)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Three examples of two frames, in which ankle and wrist are hidden and a knee is half seen."""
    batch = pose_batch(3, 2)
    return batch._replace(mask=batch.mask.at[..., jnp.array([3, 13])].set(0).at[..., 2].set(0.5))


def test_what_a_network_is_given_of_keypoints_and_mask(batch):
    found = {word: visible_keypoints(batch, word) for word in ("ignore", "zeros", "channel", "confidence")}
    np.testing.assert_array_equal(found["ignore"], batch.keypoints)
    zeroed = np.where(np.asarray(batch.mask)[..., None] > 0, batch.keypoints, 0)
    for word in ("zeros", "channel", "confidence"):
        np.testing.assert_array_equal(found[word][..., :2], zeroed)
    assert found["zeros"].shape[-1] == 2
    np.testing.assert_array_equal(found["channel"][..., 2], batch.mask > 0)
    np.testing.assert_array_equal(found["confidence"][..., 2], batch.mask)


@pytest.mark.parametrize("name", TINY)
def test_the_mask_is_one_more_input_channel_of_every_method(name):
    def shapes(visibility):
        lifter = built(name, visibility)
        frames = jax.eval_shape(lambda: lifter.init(KEY, example_batch(lifter)))["params"]
        return sorted(leaf.shape for leaf in jax.tree.leaves(frames))

    plain, zeros, channel = (shapes(word) for word in ("ignore", "zeros", "channel"))
    assert plain == zeros
    changed = [(one, other) for one, other in zip(plain, channel, strict=True) if one != other]
    assert sum(int(np.prod(other)) - int(np.prod(one)) for one, other in changed) > 0
    assert len(plain) == len(channel)


# The other methods take the mask by the same functions.
_TOLD = ("modulated_gcn", "diffupose", "diffpose")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _TOLD else pytest.mark.repeats) for name in TINY]
)
def test_what_stands_in_the_place_of_a_hidden_keypoint_reaches_no_network(batch, name):
    lifter = built(name, "channel")
    frames = lifter.frames
    batch = jax.tree.map(lambda part: jnp.concatenate([part, part], axis=1)[:, :frames], batch._replace(index=None))
    batch = batch._replace(index=jnp.arange(3, dtype=jnp.int32))
    rubbish = batch._replace(keypoints=jnp.where(batch.mask[..., None] > 0, batch.keypoints, 9.0))
    told = batch._replace(mask=batch.mask.at[..., 5].set(0), keypoints=batch.keypoints.at[..., 5, :].set(0))
    # Away from the zeros that some output layers start with.
    variables = jax.tree.map(lambda leaf: leaf + 0.01, jax.jit(lifter.init)(KEY, batch))
    straight, same, other = (sample(lifter, variables, KEY, one, Sampling(2)) for one in (batch, rubbish, told))
    np.testing.assert_array_equal(straight, same)
    assert np.abs(straight - other).max() > 0
    loss = jax.jit(lambda one: lifter.loss(variables, KEY, one)[0])
    assert loss(batch) == loss(rubbish)


def test_a_context_that_ignores_hidden_joints_serves_no_method_that_is_told_of_them():
    with pytest.raises(UserError, match=r"config\.lifter\.visibility: expected 'ignore', because the context"):
        with_context("channel", "ignore")
    assert not with_context("ignore", "channel").takes_mask


def test_the_release_of_diffpose_has_no_place_for_a_mask():
    context = {"name": "modulated_gcn", **TINY["modulated_gcn"]}
    config = complete_config({"lifter": {"name": "diffpose_release", "visibility": "zeros"}, "context": context})
    with pytest.raises(UserError, match=r"config\.lifter\.visibility: expected 'ignore' for DiffPose as released"):
        build_lifter(config)


def test_in_hk_a_hidden_joint_has_the_contexts_estimate_with_its_errors():
    rng = np.random.default_rng(0)
    means = jnp.asarray(rng.normal(size=(2, 1, 17, 3, 3)), jnp.float32)
    initial = Mixture(jnp.ones((2, 1, 17, 3)) / 3, means, jnp.broadcast_to(0.01 * jnp.eye(3), (2, 1, 17, 3, 3, 3)))
    mask, estimate = jnp.ones((2, 1, 17)).at[1, 0, 4].set(0), jnp.asarray(rng.normal(size=(2, 1, 17, 3)), jnp.float32)
    spread = jnp.asarray(rng.uniform(0.1, 0.3, (17, 3)), jnp.float32)
    found = widen_hidden(initial, mask, estimate, spread)
    mean, covariance = found.mean_and_covariance()
    np.testing.assert_allclose(mean[1, 0, 4], estimate[1, 0, 4], rtol=1e-5)
    np.testing.assert_allclose(covariance[1, 0, 4], np.diag(spread[4] ** 2), atol=1e-6)
    seen = np.asarray(mask)[0] > 0
    np.testing.assert_array_equal(found.means[0][seen], initial.means[0][seen])
    np.testing.assert_array_equal(found.covariances[0][seen], initial.covariances[0][seen])


# --- the spread of methods that cannot be told

LEG = [H36M_17.joints.index(f"left_{name}") for name in ("knee", "ankle")]


def widened(hypotheses: int, seconds: float, frames: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Equal hypotheses of equal frames before and after, with a knee and an ankle not seen for so many seconds."""
    poses = pose_batch(2, 1).poses
    poses = jnp.broadcast_to(poses[None], (hypotheses, 2, frames, 17, 3))
    gap = jnp.zeros((2, frames, 17)).at[0, :, jnp.array(LEG)].set(seconds)
    found = jax.jit(widen_unseen, static_argnums=4)(poses, gap, KEY, jnp.array([0, 50]), H36M_17)
    return np.asarray(poses), np.asarray(found)


def test_widening_turns_the_bones_that_were_not_seen_and_no_others():
    poses, found = widened(40, np.inf)
    np.testing.assert_array_equal(found[:, 1], poses[:, 1])
    seen = [joint for joint in range(17) if joint not in LEG]
    np.testing.assert_array_equal(found[:, 0][..., seen, :], poses[:, 0][..., seen, :])
    for joint in LEG:
        lengths = [
            np.linalg.norm(p[:, 0, :, joint] - p[:, 0, :, H36M_17.parents[joint]], axis=-1) for p in (poses, found)
        ]
        np.testing.assert_allclose(*lengths, rtol=1e-4)
    assert (found[:, 0, 0][:, LEG].std(axis=0).max(axis=-1) > 0.05).all()
    # Frames that are equal stay equal.
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 1])


def test_the_spread_grows_with_the_time_for_which_a_joint_was_not_seen():
    spreads = [widened(40, seconds)[1][:, 0, 0][:, LEG].std(axis=0).mean() for seconds in (0.0, 0.06, 0.2, np.inf)]
    assert spreads[0] < 1e-6
    assert np.all(np.diff(spreads) > 0.005)


def test_a_widened_hypothesis_does_not_depend_on_how_many_there_are():
    np.testing.assert_array_equal(widened(8, 1.0)[1][:3], widened(3, 1.0)[1])


def test_options_have_the_word_in_one_place():
    from diffpose_jax.lifters.visibility import VisibilityOptions
    from diffpose_jax.registry import METHODS

    for method in METHODS.values():
        assert issubclass(method.options_type, VisibilityOptions)
        fields = {field.name: field for field in dataclasses.fields(method.options_type)}
        assert fields["visibility"].default == "ignore"
