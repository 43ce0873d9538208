"""Hypotheses: independent of their number, chunk and batch; aggregations against numpy loops."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion import hypotheses as hyp
from diffpose_jax.diffusion import plans, samplers, schedules
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys

from .denoisers import predict_with

SCHEDULE = schedules.cosine(12)


@pytest.fixture(scope="module")
def twenty():
    """Twenty hypotheses for one key, and for a key per example."""
    return {kind: sample(key_of(kind), 20) for kind in KINDS}


KINDS = ("one key", "key per example")


def key_of(kind):
    key = jax.random.key(11)
    return key if kind == "one key" else example_keys(key, jnp.array([4, 0, 9]))


@partial(jax.jit, static_argnums=(1, 2))
def sample(key, number, chunk=None):
    batch = key.shape[0] if key.ndim else 3
    return hyp.sample_hypotheses(lambda key_h: sample_one(key_h, batch), key, number, chunk)


def sample_one(key, batch):
    denoiser = predict_with("x0", lambda x, k: jnp.tanh(x), SCHEDULE)
    x_init = samplers.initial_noise(key, (batch, 2, 5, 3))
    return samplers.sample(key, denoiser, x_init, plans.ddpm_plan(SCHEDULE))


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 3, 2, 5, 3)).astype(np.float32), rng.normal(size=(3, 2, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_five_hypotheses_are_the_first_of_twenty(twenty, kind):
    np.testing.assert_array_equal(sample(key_of(kind), 5), twenty[kind][:5])
    assert np.unique(np.asarray(twenty[kind])).size > 0.9 * twenty[kind].size


@pytest.mark.parametrize(("kind", "chunk"), [("one key", 8), ("key per example", 8), ("key per example", 1)])
def test_chunks_change_nothing(twenty, kind, chunk):
    np.testing.assert_array_equal(sample(key_of(kind), 20, chunk), twenty[kind])


def test_a_chunk_larger_than_all_hypotheses_is_one_chunk(twenty):
    np.testing.assert_array_equal(sample(key_of("one key"), 20, 100), twenty["one key"])


def test_an_example_has_the_same_hypotheses_in_any_batch(twenty):
    keys = key_of("key per example")
    for part in (slice(0, 1), slice(1, 3)):
        split = sample(keys[part], 20)
        np.testing.assert_allclose(split, twenty["key per example"][:, part], atol=1e-6)


def test_mean_and_median_are_those_of_numpy(drawn):
    poses, _ = drawn
    np.testing.assert_allclose(hyp.mean(jnp.asarray(poses)), poses.mean(0), atol=1e-6)
    np.testing.assert_allclose(hyp.joint_median(jnp.asarray(poses)), np.median(poses, 0), atol=1e-6)


@pytest.mark.parametrize("per", ["pose", "clip"])
def test_medoid_is_the_brute_force_one(drawn, per):
    poses, _ = drawn
    found = np.asarray(hyp.medoid(jnp.asarray(poses), per))
    for b in range(3):
        for f in range(2):
            frames = [f] if per == "pose" else [0, 1]
            spread = [
                sum(np.linalg.norm(one - two, axis=-1).mean() for two in poses[:, b, frames])
                for one in poses[:, b, frames]
            ]
            np.testing.assert_array_equal(found[b, f], poses[int(np.argmin(spread)), b, f])


def test_medoid_and_median_ignore_one_outlying_hypothesis(drawn):
    poses, _ = drawn
    outlier = poses.copy()
    outlier[3] += 1e3
    for aggregation in (hyp.medoid, hyp.joint_median):
        assert np.max(np.abs(aggregation(jnp.asarray(outlier)))) < 10.0
    assert np.max(np.abs(hyp.mean(jnp.asarray(outlier)))) > 100.0


@pytest.mark.parametrize("per", ["joint", "pose", "clip", "batch"])
def test_selection_takes_the_least_error_of_its_unit(drawn, per):
    poses, truth = drawn
    errors = np.linalg.norm(poses - truth, axis=-1)
    axes = {"joint": (), "pose": (3,), "clip": (2, 3), "batch": (1, 2, 3)}[per]
    pooled = np.broadcast_to(errors.mean(axes, keepdims=True) if axes else errors, errors.shape)
    found = np.asarray(hyp.select_by_error(jnp.asarray(poses), jnp.asarray(errors), per))
    for position in np.ndindex(3, 2, 5):
        best = int(np.argmin(pooled[(slice(None), *position)]))
        np.testing.assert_array_equal(found[position], poses[(best, *position)])


def test_ties_go_to_the_first_hypothesis(drawn):
    poses, _ = drawn
    for per in ("joint", "pose"):
        np.testing.assert_array_equal(
            hyp.select_by_error(jnp.asarray(poses), jnp.zeros(poses.shape[:-1]), per), poses[0]
        )


@pytest.mark.parametrize("per", ["joint", "pose", "clip"])
def test_the_expectation_weighs_hypotheses_by_their_reprojection(drawn, per):
    poses, _ = drawn
    errors = np.random.default_rng(1).uniform(0, 0.05, poses.shape[:-1])
    axes = {"joint": (), "pose": (3,), "clip": (2, 3)}[per]
    pooled = errors.mean(axes, keepdims=True) if axes else errors
    weights = np.exp(-pooled / 0.02)
    weights /= weights.sum(axis=0)
    expected = np.sum(weights[..., None] * poses, axis=0)
    found = hyp.reprojection_expectation(jnp.asarray(poses), jnp.asarray(errors, jnp.float32), 0.02, per)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_expectation_lies_between_the_best_reprojection_and_the_mean(drawn):
    poses = jnp.asarray(drawn[0])
    errors = jnp.asarray(np.random.default_rng(1).uniform(0, 0.05, poses.shape[:-1]), jnp.float32)
    cold, hot = (hyp.reprojection_expectation(poses, errors, temperature) for temperature in (1e-7, 1e5))
    np.testing.assert_allclose(cold, hyp.reprojection(poses, errors), atol=1e-6)
    np.testing.assert_allclose(hot, hyp.mean(poses), atol=1e-5)


def test_finer_oracles_are_never_worse(drawn):
    poses, truth = (jnp.asarray(array) for array in drawn)
    error = [
        float(jnp.mean(jnp.linalg.norm(hyp.oracle_best(poses, truth, per) - truth, axis=-1)))
        for per in ("joint", "pose", "clip", "batch")
    ]
    assert error == sorted(error)


def test_identical_hypotheses_aggregate_to_themselves(drawn):
    _, truth = drawn
    same = jnp.broadcast_to(jnp.asarray(truth), (6, *truth.shape))
    for name in hyp.AGGREGATIONS:
        found = hyp.aggregate(name, same, errors=jnp.ones(same.shape[:-1]), target=jnp.asarray(truth))
        np.testing.assert_allclose(found, truth, atol=1e-6)


def test_only_the_oracle_takes_the_ground_truth():
    assert [name for name, (_, needs) in hyp.AGGREGATIONS.items() if needs == "target"] == ["oracle_best"]


def test_mistakes_in_an_aggregation_are_told(drawn):
    poses = jnp.asarray(drawn[0])
    with pytest.raises(
        UserError, match="mean, medoid, joint_median, reprojection, reprojection_expectation, oracle_best"
    ):
        hyp.aggregate("best", poses)
    with pytest.raises(UserError, match="expected errors"):
        hyp.aggregate("reprojection", poses)
    with pytest.raises(UserError, match="expected target"):
        hyp.aggregate("oracle_best", poses)
    with pytest.raises(UserError, match="joint, pose, clip"):
        hyp.aggregate("medoid", poses, per="limb")
    with pytest.raises(UserError, match="temperature above 0"):
        hyp.reprojection_expectation(poses, jnp.zeros(poses.shape[:-1]), 0.0)


def test_aggregations_of_the_d3dp_release(parity):
    file = parity("d3dp_aggregation.npz")
    poses, truth = jnp.moveaxis(jnp.asarray(file["in_pred"]), 2, 0), jnp.asarray(file["in_target"])
    off = jnp.moveaxis(jnp.asarray(file["out_reproj_2d"]), 2, 0) - jnp.asarray(file["in_x2d"])[None, :, None]
    errors = jnp.linalg.norm(off, axis=-1)
    # Its layout has a DDIM iteration axis, [H, B, T, F, J, 3].
    for t in range(poses.shape[2]):
        found = {
            "J_Best": hyp.oracle_best(poses[:, :, t], truth, "joint"),
            "P_Best": hyp.oracle_best(poses[:, :, t], truth, "batch"),
            "P_Agg": hyp.mean(poses[:, :, t]),
            "J_Agg": hyp.reprojection(poses[:, :, t], errors[:, :, t]),
        }
        for name, pose in found.items():
            error = jnp.mean(jnp.linalg.norm(pose - truth, axis=-1))
            np.testing.assert_allclose(error, file[f"out_{name}"][t], rtol=1e-5, err_msg=name)


def test_chunks_divide_the_hypotheses_where_that_costs_less_than_half_of_them():
    assert hyp.even_chunk(1000, 130) == 125
    assert hyp.even_chunk(10, 3) == 2
    assert hyp.even_chunk(97, 30) == 30
