"""DiffPose as published: posterior, objectives, an oracle that returns the pose, the paper to the letter, sampling."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import ks_2samp

from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import at_step, diffuse, to_eps
from diffpose_jax.diffusion.samplers import initial_noise
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Batch, Sampling
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.diffpose.method import Condition, DiffPose, DiffPoseOptions
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.models.context_graformer import ContextGraFormer
from diffpose_jax.skeleton import H36M_17, mirror

from ..toys import KEY, sample, take
from .heatmap_batch import (
    CONTEXT,
    FRAMES,
    FROZEN,
    STATISTICS,
    B,
    J,
    RoughLifter,
    draw,
    from_keypoints,
    heatmap_batch,
    initial,
    normals,
)

SCHEDULE = cosine(50)
PLAN = ddim_plan(SCHEDULE, 5)
PAPER = {"preconditioning": "none", "component": "weight"}
TIMESTEPS = jnp.array([0, 7, 31, 49])
NETWORK = ContextGraFormer(H36M_17, width=8, num_layers=1, num_heads=2, feature_width=4)
normal = normals(3)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return heatmap_batch()


def build(network=NETWORK, *, plan=PLAN, context=CONTEXT, predict: str = "x0", **options) -> DiffPose:
    return DiffPose(network, H36M_17, SCHEDULE, plan, context, DiffPoseOptions(**options), predict)


def init(lifter: DiffPose, batch: Batch):
    return {**jax.jit(lifter.init)(jax.random.key(1), batch), "frozen": FROZEN}


@pytest.fixture(scope="module")
def variables(batch):
    return init(build(), batch)


@pytest.fixture(scope="module")
def condition(batch) -> Condition:
    base = initial(batch, batch.mixture)
    component = draw(jax.random.split(KEY, B), base)
    return Condition(batch.keypoints, from_keypoints(batch), None, base, component)


# --- the forward process


def diffused(batch: Batch, k: int, count: int, component: str = "weight") -> tuple[np.ndarray, np.ndarray]:
    """One frame diffused to timestep k `count` times, and as many draws of its H_K, `[count, J, 3]`.

    Where the component is drawn by its responsibility, poses are as H_K says they are.
    """
    one = jax.tree.map(lambda part: jnp.repeat(part[:1, :1], count, axis=0), batch._replace(index=None))
    base = initial(one, one.mixture)
    keys = jax.random.split(KEY, count)
    poses = one.poses if component == "weight" else sum(base.draw(jax.random.key(8)))
    drawn = draw(keys, base) if component == "weight" else draw(keys, base, poses)
    noise = drawn.scale(initial_noise(keys, poses.shape))
    found = diffuse(SCHEDULE, poses, jnp.int32(k), noise, drawn.mean)
    mean, noise = base.draw(jax.random.key(9))
    return np.asarray(found)[:, 0], np.asarray(mean + noise)[:, 0]


@pytest.mark.parametrize("component", ["weight", "responsibility"])
def test_fully_diffused_poses_follow_the_mixture(batch, component):
    found, expected = diffused(batch, SCHEDULE.num_steps - 1, 3000, component)
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


# --- the posterior and the objectives


def test_the_posterior_mean_is_that_of_the_joint_gaussian(batch, condition):
    """Conditioning (h_0, h_k) on h_k, written with the covariance of both."""
    alpha_bar, x = 0.3, from_keypoints(batch) + 0.1 * normal(B, FRAMES, J, 3)
    found = build().posterior(condition, STATISTICS["spread"], x, jnp.float32(alpha_bar))
    mean, estimate = (np.asarray(part, np.float64) for part in (condition.component.mean, condition.estimate))
    spread = np.asarray(STATISTICS["spread"], np.float64)
    signal, factor = alpha_bar**0.5, np.asarray(condition.component.factor, np.float64)
    own = np.einsum("...ij,...ij->...i", factor, factor)
    both, state = signal * spread**2, alpha_bar * spread**2 + (1 - alpha_bar) * own
    off = np.asarray(x) - mean - signal * (estimate - mean)
    np.testing.assert_allclose(found.mean, estimate + both / state * off, atol=1e-5)
    np.testing.assert_allclose(found.std, np.sqrt(spread**2 - both**2 / state), rtol=1e-3)
    np.testing.assert_allclose(found.residual, off / np.sqrt(state), rtol=1e-3, atol=1e-4)


def test_objectives_compare_the_pose_the_noise_and_the_next_pose(batch, condition):
    component, white = condition.component, normal(B, FRAMES, J, 3)
    noise = component.scale(white)
    x = diffuse(SCHEDULE, batch.poses, TIMESTEPS, noise, component.mean)
    found = {
        predict: build(predict=predict).objective.compute(batch.poses, x, component, TIMESTEPS)
        for predict in ("x0", "eps", "next")
    }
    np.testing.assert_array_equal(found["x0"], batch.poses)
    np.testing.assert_allclose(found["eps"], white, atol=5e-3)
    following = diffuse(SCHEDULE, batch.poses, jnp.maximum(TIMESTEPS - 1, 0), noise, component.mean)
    np.testing.assert_allclose(found["next"][1:], following[1:], atol=1e-5)
    np.testing.assert_allclose(found["next"][0], batch.poses[0], atol=1e-5)


@pytest.mark.parametrize("predict", ["x0", "eps", "next"])
def test_the_pose_follows_from_what_the_objective_names(batch, condition, predict):
    lifter, component = build(predict=predict, **PAPER), condition.component
    noise = component.scale(normal(B, FRAMES, J, 3))
    x = diffuse(SCHEDULE, batch.poses, TIMESTEPS, noise, component.mean)
    output = lifter.objective.compute(batch.poses, x, component, TIMESTEPS)
    found = lifter.objective.invert(output, x, component, TIMESTEPS)
    # At the last timestep the signal is 0.1 % of the noise, and so is float32's last digit larger.
    np.testing.assert_allclose(found[:3], batch.poses[:3], atol=2e-5)
    np.testing.assert_allclose(found[3], batch.poses[3], atol=2e-3)


# --- the paper to the letter: h_k goes into the network, and the next pose comes out


class NextPose:
    """A network that returns h_{k-1} of the poses `[B, F, J, 3]` it knows, diffused around a mean that it knows."""

    def __init__(self, poses: jax.Array, mean: jax.Array):
        self.poses, self.mean = poses, mean

    def apply(self, variables, x, k, features, *, train):
        assert x.shape == self.poses.shape
        poses, x = self.poses - self.mean, x - self.mean
        eps = to_eps(x, poses, at_step(SCHEDULE.alpha_bar, k, x))
        alpha_bar = at_step(SCHEDULE.alpha_bar_prev, k, x)
        return self.mean + jnp.sqrt(alpha_bar) * poses + jnp.sqrt(1 - alpha_bar) * eps


@pytest.mark.parametrize("base", ["gaussian", "normal"])
def test_an_oracle_for_the_next_pose_leads_the_sampler_to_the_pose(batch, base):
    mean = jnp.zeros_like(batch.poses)
    if base == "gaussian":
        mean, _ = initial(batch, batch.mixture).mean_and_covariance()
    lifter = build(NextPose(batch.poses, mean), predict="next", base=base, **PAPER)
    poses = sample(lifter, {"frozen": FROZEN}, KEY, batch, Sampling(2))
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], poses.shape), atol=1e-4)


@pytest.mark.parametrize(("steps", "most"), [(50, 1.01), (5, 33.0)])
def test_only_all_timesteps_take_the_next_pose_as_the_network_gives_it(steps, most):
    """What an error of the network's output, a next pose, is multiplied by in one step of the sampler."""
    plan, alpha_bar = ddim_plan(SCHEDULE, steps), SCHEDULE.alpha_bar
    s, n = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    s_next, n_next = np.append(1, s[:-1])[plan.step], np.append(0, n[:-1])[plan.step]
    on_x0 = n[plan.step] / (s[plan.step] * n_next - s_next * n[plan.step])  # see `Objective.invert`
    on_eps = -s[plan.step] / n[plan.step] * on_x0
    factor = np.abs(plan.table[:, 1] * on_x0 + plan.table[:, 2] * on_eps)
    assert factor.max() <= most
    assert factor[:-1].min() > 0.9 * (1 if steps == 50 else 5)


def test_without_preconditioning_the_networks_input_is_the_noisy_pose_alone(batch, condition):
    x, lifter = normal(B, FRAMES, J, 3), build(predict="next", **PAPER)
    posterior = lifter.posterior(condition, STATISTICS["spread"], x, jnp.float32(0.5))
    assert lifter.network_input(condition, posterior, x) is x
    assert build().network_input(condition, posterior, x).shape == (B, FRAMES, J, 18)
    variables = jax.eval_shape(lifter.init, KEY, batch)
    # A Chebyshev convolution of three terms, of the noisy pose beside four channels of f_ST.
    assert variables["params"]["graformer"]["input"]["weight"].shape == (3, 3 + 4, 8)


# --- the reverse process


class Oracle:
    """A network that knows the pose and, from its input, what its output is a correction of."""

    def __init__(self, poses: jax.Array):
        self.poses = poses

    def apply(self, variables, x, k, features, *, train, **options):
        poses = jnp.broadcast_to(self.poses.reshape(-1, *x.shape[1:-1], 3), (*x.shape[:-1], 3))
        mean, std = x[..., 3:6], jnp.exp(x[..., 14:17]) / 10
        spread = jnp.broadcast_to(STATISTICS["spread"][None, None], mean.shape)
        alpha_bar = jnp.asarray(SCHEDULE.alpha_bar)[jnp.broadcast_to(k, x.shape[:1])].reshape(-1, 1, 1, 1)
        noise = (1 - alpha_bar) * std**2
        posterior_std = jnp.sqrt(spread**2 * noise / (alpha_bar * spread**2 + noise))
        output = (poses - mean) / posterior_std
        return (output, {}) if "mutable" in options else output


@pytest.mark.parametrize(
    ("base", "start"),
    [
        *((base, "mixture") for base in ("mixture", "gaussian", "normal")),
        *(("mixture", start) for start in ("noise", "estimate")),
        ("normal", "estimate"),
    ],
)
def test_an_oracle_gets_the_pose_out_from_any_start(batch, base, start):
    lifter = build(Oracle(batch.poses), base=base, start=start)
    poses = sample(lifter, {"frozen": FROZEN}, KEY, batch, Sampling(2))
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], poses.shape), atol=1e-4)


class NoCorrection:
    """A network that adds nothing to the posterior mean."""

    def apply(self, variables, x, k, features, *, train, **options):
        output = jnp.zeros_like(x[..., :3])
        return (output, {}) if "mutable" in options else output


NO_CORRECTION = NoCorrection()


@pytest.mark.parametrize("predict", ["x0", "next", pytest.param("eps", marks=pytest.mark.slow)])
def test_an_oracle_has_no_loss_and_a_network_without_corrections_has(batch, predict):
    oracle, network = (build(network, predict=predict) for network in (Oracle(batch.poses), NO_CORRECTION))
    assert jax.jit(oracle.loss)({"frozen": FROZEN}, KEY, batch)[0] < 1e-3
    assert jax.jit(network.loss)({"frozen": FROZEN}, KEY, batch)[0] > 1e-2


@pytest.mark.parametrize(("steps", "temperature", "left"), [(5, 1.0, 0.78), (5, 1 / 0.78, 1.0), (50, 1.0, 0.97)])
def test_five_steps_lose_a_fifth_of_a_gaussians_spread_and_the_temperature_gives_it_back(
    batch, steps, temperature, left
):
    """H_K without heatmaps is the context's uncertainty: all that the reverse steps have to do is to keep it."""
    sampling = Sampling(400, temperature, plan=ddim_plan(SCHEDULE, steps))
    plain = batch._replace(mixture=None)
    poses = np.asarray(sample(build(NO_CORRECTION), {"frozen": FROZEN}, KEY, plain, sampling))
    found = poses.std(axis=0)[..., 1:, :].mean(axis=(0, 1))
    np.testing.assert_allclose(found / np.asarray(STATISTICS["spread"])[1:], left, atol=0.06)
    assert np.abs(poses.mean(axis=0) - from_keypoints(batch)).max() < 0.02


def test_hypotheses_depend_neither_on_their_number_nor_on_the_batch(batch):
    lifter, variables = build(NO_CORRECTION), {"frozen": FROZEN}
    many = sample(lifter, variables, KEY, batch, Sampling(3))
    assert many.shape == (3, B, FRAMES, J, 3)
    np.testing.assert_array_equal(many[..., 0, :], 0)
    some = sample(lifter, variables, KEY, take(batch, [1, 2]), Sampling(2, chunk=1))
    np.testing.assert_allclose(some, many[:2, 1:3], atol=1e-5)
    assert np.asarray(many).std(axis=0)[..., 1:, :].min() > 1e-4
    moved = batch._replace(poses=batch.poses + 1)
    np.testing.assert_array_equal(sample(lifter, variables, KEY, moved, Sampling(3)), many)


def test_the_context_is_encoded_once(batch):
    calls = []

    def counted(batch: Batch) -> jax.Array:
        jax.debug.callback(lambda _: calls.append(1), batch.keypoints)
        return from_keypoints(batch)

    lifter = build(NO_CORRECTION, context=RoughLifter(counted))
    sample(lifter, {"frozen": FROZEN}, KEY, batch, Sampling(3)).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == 1


def test_the_component_and_the_features_reach_the_denoiser(variables, batch):
    straight = sample(build(), variables, KEY, batch, Sampling(3))
    moved = batch._replace(mixture=batch.mixture._replace(means=batch.mixture.means + 0.05))
    assert np.abs(sample(build(), variables, KEY, moved, Sampling(3)) - straight).max() > 1e-3
    featureless = build(features=False)
    without = jax.eval_shape(featureless.init, jax.random.key(1), batch)
    assert "features" in variables["params"]
    assert "features" not in without["params"]
    poses = jax.eval_shape(featureless.sample, without, KEY, batch, Sampling(3))
    assert poses.shape == straight.shape


def test_flip_averaging_is_that_of_the_context_alone(batch):
    def lopsided(batch: Batch) -> jax.Array:
        return from_keypoints(batch).at[..., 3, 0].add(0.1)

    def averaged(batch: Batch) -> jax.Array:
        return (lopsided(batch) + mirror(lopsided(flip_batch(batch, H36M_17)), H36M_17)) / 2

    lifter, of_average = (build(NO_CORRECTION, context=RoughLifter(estimate)) for estimate in (lopsided, averaged))
    found = sample(with_flips(lifter), {"frozen": FROZEN}, KEY, batch, Sampling(flip="average"))
    wanted = sample(of_average, {"frozen": FROZEN}, KEY, batch, Sampling())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# --- training


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"predict": "next", **PAPER}], ids=["default", "paper"])
def test_training_lowers_the_loss_and_moves_every_parameter(batch, options):
    lifter, optimizer = build(**options), optax.adam(1e-2)
    variables = init(lifter, batch)

    @jax.jit
    def train(params):
        def step(carry, number):
            params, state = carry

            def loss(params):
                return lifter.loss({**variables, "params": params}, jax.random.fold_in(KEY, number), batch)[0]

            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(60))
        return params, losses

    with jax.numpy_dtype_promotion("standard"):
        params, losses = train(variables["params"])
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    for (path, leaf), before in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(variables["params"]), strict=True
    ):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.any(leaf != before), jax.tree_util.keystr(path)


# --- options


def test_equal_methods_compare_equal_and_others_do_not():
    assert build() == build(plan=ddim_plan(cosine(50), 5))
    assert hash(build()) == hash(build())
    for other in (build(**PAPER), build(predict="next"), build(context=dataclasses.replace(CONTEXT, frames=3))):
        assert build() != other


@pytest.mark.parametrize("option", ["base", "start", "depth", "covariance", "component", "preconditioning"])
def test_an_unknown_word_is_refused(option):
    with pytest.raises(UserError, match=f"{option}: expected one of .*, found 'unheard of'"):
        build(**{option: "unheard of"})


@pytest.mark.parametrize("unfit", [{"stochastic": True}, {"middle_frame": True}])
def test_a_context_that_cannot_give_one_pose_per_frame_is_refused(unfit):
    with pytest.raises(UserError, match="DiffPose context"):
        build(context=dataclasses.replace(CONTEXT, **unfit))
