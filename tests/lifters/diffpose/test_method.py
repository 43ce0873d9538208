"""DiffPose as published: what it diffuses towards, an oracle that returns the pose, what hypotheses share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from diffpose_jax.lifters.reverse import with_temperature
from scipy.stats import ks_2samp

from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import diffuse
from diffpose_jax.diffusion.samplers import initial_noise
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Batch, Lifter, flip_averaged
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.diffpose.method import diffpose
from diffpose_jax.models.context_graformer import ContextGraFormer
from diffpose_jax.skeleton import H36M_17, mirror

from .heatmap_batch import (
    CONTEXT,
    FRAMES,
    STATISTICS,
    B,
    J,
    context_of,
    draw,
    from_keypoints,
    heatmap_batch,
    initial,
)

SCHEDULE = cosine(50)
PLAN = ddim_plan(SCHEDULE, 5)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return heatmap_batch()


NETWORK = ContextGraFormer(H36M_17, width=8, num_layers=1, num_heads=2, feature_width=4)


def build(**options) -> Lifter:
    return diffpose(NETWORK, H36M_17, SCHEDULE, PLAN, **{"context": CONTEXT, **options})


@pytest.fixture(scope="module")
def variables(batch):
    variables = jax.jit(build().init)(jax.random.key(1), batch)
    return {**variables, "frozen": {"context": {}, **STATISTICS}}


# --- the forward process


def diffused(batch: Batch, k: int, count: int, assignment: str = "prior") -> tuple[np.ndarray, np.ndarray]:
    """One frame diffused to step k `count` times, and as many draws of its H_K, `[count, J, 3]`.

    Where the component is to be one that explains the pose, poses are as H_K says they are.
    """
    one = jax.tree.map(lambda part: jnp.repeat(part[:1, :1], count, axis=0), batch._replace(index=None))
    base = initial(one, one.mixture)
    keys = jax.random.split(KEY, count)
    poses = one.poses if assignment == "prior" else sum(base.draw(jax.random.key(8)))
    component = draw(keys, base) if assignment == "prior" else draw(keys, base, poses)
    noise = component.coloured(initial_noise(keys, poses.shape))
    found = diffuse(SCHEDULE, poses, jnp.int32(k), noise, component.mean)
    mean, noise = base.draw(jax.random.key(9))
    return np.asarray(found)[:, 0], np.asarray(mean + noise)[:, 0]


@pytest.mark.parametrize("assignment", ["prior", "posterior"])
def test_fully_diffused_poses_follow_the_mixture(batch, assignment):
    found, expected = diffused(batch, SCHEDULE.num_steps - 1, 3000, assignment)
    probabilities = [ks_2samp(found[:, j, c], expected[:, j, c]).pvalue for j in range(J) for c in range(3)]
    assert np.min(probabilities) > 1e-4
    # Not of each coordinate alone: the correlation of x and y too.
    for joint in range(J):
        covariances = [np.cov(one[:, joint, :2].T) for one in (found, expected)]
        scale = np.sqrt(np.outer(*2 * [np.diag(covariances[1])]))
        np.testing.assert_allclose(covariances[0] / scale, covariances[1] / scale, atol=0.12)


def test_poses_that_are_hardly_diffused_are_the_poses(batch):
    found, expected = diffused(batch, 0, 500)
    pose = np.asarray(batch.poses)[0, 0]
    far = np.abs(expected - pose).mean(axis=0)
    assert (np.abs(found - pose).mean(axis=0) < 0.06 * far + 1e-6).all()


# --- the reverse process


class Oracle:
    """A network that knows the pose and, from its input, what its output is a correction of."""

    def __init__(self, poses: jax.Array):
        self.poses = poses

    def apply(self, variables, x, k, features, *, train, **options):
        poses = jnp.broadcast_to(self.poses.reshape(-1, *x.shape[1:-1], 3), (*x.shape[:-1], 3))
        state, likely, surprise = x[..., :3], x[..., 3:6], x[..., 6:9]
        offset, deviation = x[..., 11:14] / 10, jnp.exp(x[..., 14:17]) / 10
        spread = jnp.broadcast_to(STATISTICS["spread"][None, None], state.shape)
        alpha_bar = jnp.asarray(SCHEDULE.alpha_bar)[jnp.broadcast_to(k, x.shape[:1])].reshape(-1, 1, 1, 1)
        noise = (1 - alpha_bar) * deviation**2
        left = jnp.sqrt(spread**2 * noise / (alpha_bar * spread**2 + noise))
        assert offset.shape == surprise.shape
        output = (poses - likely) / left
        return (output, {}) if "mutable" in options else output


@pytest.mark.parametrize("base", ["mixture", "gaussian", "normal"])
@pytest.mark.parametrize("start", ["mixture", "noise", "estimate"])
def test_an_oracle_gets_the_pose_out_from_any_start(batch, base, start):
    lifter = diffpose(Oracle(batch.poses), H36M_17, SCHEDULE, PLAN, context=CONTEXT, base=base, start=start)
    poses = jax.jit(lifter.sample, static_argnums=3)({"frozen": {"context": {}, **STATISTICS}}, KEY, batch, 2)
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], poses.shape), atol=1e-4)


@pytest.mark.parametrize("predict", ["x0", "next", "eps"])
def test_an_oracle_has_no_loss_and_a_network_has(batch, variables, predict):
    oracle = diffpose(Oracle(batch.poses), H36M_17, SCHEDULE, PLAN, context=CONTEXT, predict=predict)
    frozen = {"frozen": {"context": {}, **STATISTICS}}
    assert jax.jit(oracle.loss)(frozen, KEY, batch)[0] < 1e-3
    assert jax.jit(build(predict=predict).loss)(variables, KEY, batch)[0] > 1e-2


class NoCorrection:
    """A network that adds nothing to the Gaussian's prediction."""

    def apply(self, variables, x, k, features, *, train):
        return jnp.zeros_like(x[..., :3])


@pytest.mark.parametrize(("steps", "temperature", "left"), [(5, 1.0, 0.78), (5, 1 / 0.78, 1.0), (50, 1.0, 0.97)])
def test_five_steps_lose_a_fifth_of_a_gaussians_spread_and_the_temperature_gives_it_back(
    batch, steps, temperature, left
):
    """H_K without heatmaps is the context's uncertainty: all reverse steps have to do is to leave it as it is."""
    lifter = diffpose(NoCorrection(), H36M_17, SCHEDULE, ddim_plan(SCHEDULE, steps), context=CONTEXT)
    plain = batch._replace(mixture=None)
    variables = with_temperature({"frozen": {"context": {}, **STATISTICS}}, temperature)
    poses = jax.jit(lifter.sample, static_argnums=3)(variables, KEY, plain, 400)
    found = np.asarray(poses).std(axis=0)[..., 1:, :].mean(axis=(0, 1))
    np.testing.assert_allclose(found / np.asarray(STATISTICS["spread"])[1:], left, atol=0.06)
    assert np.abs(np.asarray(poses).mean(axis=0) - from_keypoints(batch)).max() < 0.02


def test_hypotheses_depend_neither_on_their_number_nor_on_the_batch(variables, batch):
    sample = jax.jit(build().sample, static_argnums=3)
    many = sample(variables, KEY, batch, 5)
    assert many.shape == (5, B, FRAMES, J, 3)
    np.testing.assert_array_equal(many[..., 0, :], 0)
    np.testing.assert_allclose(sample(variables, KEY, batch, 2), many[:2], atol=1e-5)
    some = jax.tree.map(lambda part: part[1:3], batch)
    np.testing.assert_allclose(sample(variables, KEY, some, 2), many[:2, 1:3], atol=1e-5)
    assert np.asarray(many).std(axis=0)[..., 1:, :].min() > 1e-4
    np.testing.assert_array_equal(sample(variables, KEY, batch._replace(poses=batch.poses + 1), 5), many)


def test_the_context_is_encoded_once(variables, batch):
    calls = []

    def counted(batch: Batch) -> jax.Array:
        jax.debug.callback(lambda _: calls.append(1), batch.keypoints)
        return from_keypoints(batch)

    build(context=context_of(counted)).sample(variables, KEY, batch, 3).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == 1


def test_the_component_and_the_features_reach_the_denoiser(variables, batch):
    sample = jax.jit(build().sample, static_argnums=3)
    straight = sample(variables, KEY, batch, 2)
    moved = batch._replace(mixture=batch.mixture._replace(means=batch.mixture.means + 0.05))
    assert np.abs(sample(variables, KEY, moved, 2) - straight).max() > 1e-3
    deaf = build(features=False)
    without = jax.jit(deaf.init)(jax.random.key(1), batch)
    assert "features" not in without["params"]
    assert jax.jit(deaf.sample, static_argnums=3)(without, KEY, batch, 2).shape == straight.shape


def test_flip_averaging_is_that_of_the_context_alone(variables, batch):
    def lopsided(batch: Batch) -> jax.Array:
        return from_keypoints(batch).at[..., 3, 0].add(0.1)

    def averaged(batch: Batch) -> jax.Array:
        return (lopsided(batch) + mirror(lopsided(flip_batch(batch, H36M_17)), H36M_17)) / 2

    found = jax.jit(flip_averaged(build(context=context_of(lopsided))).sample, static_argnums=3)
    wanted = jax.jit(build(context=context_of(averaged)).sample, static_argnums=3)
    np.testing.assert_allclose(found(variables, KEY, batch, 1), wanted(variables, KEY, batch, 1), atol=1e-5)


# --- training


def test_training_lowers_the_loss_and_moves_every_parameter(variables, batch):
    lifter, optimizer = build(), optax.adam(1e-2)

    @jax.jit
    def step(params, state, key):
        def loss(params):
            return lifter.loss({**variables, "params": params}, key, batch)[0]

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params, state, losses = variables["params"], optimizer.init(variables["params"]), []
    with jax.numpy_dtype_promotion("standard"):
        for number in range(60):
            params, state, value = step(params, state, jax.random.fold_in(KEY, number))
            losses.append(float(value))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    for (path, leaf), before in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(variables["params"]), strict=True
    ):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.any(leaf != before), jax.tree_util.keystr(path)


def test_what_makes_no_sense_is_refused():
    for option in ("predict", "base", "start", "depth", "covariance", "assignment"):
        with pytest.raises(UserError, match=f"{option}: expected one of .*, found 'unheard of'"):
            build(**{option: "unheard of"})
    with pytest.raises(UserError, match="DiffPose context"):
        build(context=CONTEXT._replace(stochastic=True))
