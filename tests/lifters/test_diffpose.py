"""DiffPose as published: what it diffuses towards, an oracle that returns the pose, what hypotheses share."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp
from scipy.stats import ks_2samp, multivariate_normal

from diffpose_jax.diffusion.process import diffuse
from diffpose_jax.diffusion.samplers import ddim_plan, initial_noise
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Batch, Lifter, flip_averaged, flip_batch
from diffpose_jax.lifters.conditional_denoising import Condition, compared, likeliest
from diffpose_jax.lifters.diffpose import diffpose
from diffpose_jax.lifters.initial_distribution import base_distribution, draw_component, initial_distribution
from diffpose_jax.lifters.reverse import with_temperature
from diffpose_jax.mixture import Mixture
from diffpose_jax.models.context_graformer import ContextGraFormer
from diffpose_jax.skeleton import H36M_17, mirror

B, FRAMES, J, M = 4, 2, 17, 3
SCHEDULE = cosine(50)
PLAN = ddim_plan(SCHEDULE, 5)
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)


def both_sides(values: np.ndarray) -> jax.Array:
    """Values `[J, ...]`, the same left and right."""
    return jnp.asarray((values + values[list(H36M_17.flip_order)]) / 2, jnp.float32)


STATISTICS = {
    "spread": both_sides(RNG.uniform(0.02, 0.06, (J, 3))),
    "depth_mean": both_sides(RNG.normal(0, 0.05, J)),
    "depth_spread": both_sides(RNG.uniform(0.1, 0.3, J)),
}


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def mixtures(*lead: int, size: int = 2) -> Mixture:
    """Random mixtures `[..., M]` of `size` dimensions, in image units."""
    root = 0.03 * normal(*lead, M, size, size)
    covariances = root @ jnp.swapaxes(root, -1, -2) + 1e-4 * np.eye(size, dtype=np.float32).reshape(
        (1,) * (len(lead) + 1) + (size, size)
    )
    return Mixture(jax.nn.softmax(normal(*lead, M)), 0.2 * normal(*lead, M, size), covariances)


@pytest.fixture(scope="module")
def batch() -> Batch:
    poses = 0.3 * normal(B, FRAMES, J, 3)
    poses = poses - poses[:, :, :1]
    keypoints = 0.4 * poses[..., :2] + 0.01 * normal(B, FRAMES, J, 2)
    mixture = mixtures(B, FRAMES, J)
    mixture = mixture._replace(means=mixture.means + keypoints[..., None, :])
    return Batch(keypoints, poses, jnp.ones((B, FRAMES, J)), jnp.arange(B, dtype=jnp.int32) * 11, mixture)


def context_of(estimate) -> Lifter:
    """A lifter without parameters whose poses are a function of the batch; its features are its keypoints."""

    def sample(variables, key, batch, num_hypotheses):
        poses = estimate(batch)
        return jnp.broadcast_to(poses[None], (num_hypotheses, *poses.shape))

    def features(variables, keypoints):
        return jnp.concatenate([keypoints, keypoints**2], axis=-1)

    return Lifter(lambda key, batch: {}, None, sample, H36M_17, FRAMES, stochastic=False, features=features)


def from_keypoints(batch: Batch) -> jax.Array:
    """A rough pose made of the keypoints, the same for a mirrored input up to the mirror."""
    keypoints = batch.keypoints - batch.keypoints[:, :, :1]
    depth = 0.3 * keypoints[..., 1:] - keypoints[..., :1] ** 2
    return jnp.concatenate([keypoints / 0.4, depth], axis=-1)


CONTEXT = context_of(from_keypoints)
NETWORK = ContextGraFormer(H36M_17, width=8, num_layers=1, num_heads=2, feature_width=4)


def build(**options) -> Lifter:
    return diffpose(NETWORK, H36M_17, SCHEDULE, PLAN, **{"context": CONTEXT, **options})


@pytest.fixture(scope="module")
def variables(batch):
    variables = jax.jit(build().init)(jax.random.key(1), batch)
    return {**variables, "frozen": {"context": {}, **STATISTICS}}


@partial(jax.jit, static_argnums=2)
def initial(batch: Batch, mixture: Mixture | None, depth: str = "context") -> Mixture:
    return initial_distribution(batch.keypoints, mixture, from_keypoints(batch), STATISTICS, depth)


def without_correlations(mixture: Mixture) -> Mixture:
    return mixture._replace(covariances=jnp.diagonal(mixture.covariances, axis1=-2, axis2=-1))


draw = jax.jit(draw_component)


# --- H_K


def test_in_the_image_plane_it_is_the_heatmap_at_the_estimate(batch):
    found, estimate = initial(batch, batch.mixture), np.asarray(from_keypoints(batch))
    # This estimate is the keypoints, enlarged: a metre is 0.4 image units.
    offsets = (batch.mixture.means - batch.keypoints[..., None, :]) / 0.4
    np.testing.assert_allclose(found.means[..., :2], estimate[..., None, :2] + offsets, atol=1e-5)
    np.testing.assert_allclose(found.means[..., 2], np.broadcast_to(estimate[..., 2:], found.weights.shape), atol=1e-6)
    own = np.asarray(STATISTICS["spread"]) ** 2
    plane = np.asarray(batch.mixture.covariances) / 0.16 + np.stack([np.diag(one) for one in own[:, :2]])[:, None]
    np.testing.assert_allclose(found.covariances[..., :2, :2], plane, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.covariances[0, 0, :, 0, 2, 2], own[:, 2], rtol=1e-5)
    np.testing.assert_array_equal(found.covariances[..., 2, :2], 0)


def test_the_depth_may_be_that_of_the_training_set(batch):
    found = initial(batch, batch.mixture, "histogram")
    np.testing.assert_allclose(found.means[0, 0, :, 1, 2], STATISTICS["depth_mean"], rtol=1e-6)
    np.testing.assert_allclose(found.covariances[0, 0, :, 1, 2, 2], STATISTICS["depth_spread"] ** 2, rtol=1e-5)
    np.testing.assert_array_equal(found.means[..., :2], initial(batch, batch.mixture).means[..., :2])


def test_without_heatmaps_it_is_the_uncertainty_of_the_context(batch):
    mean, variance = initial(batch, None).moments()
    np.testing.assert_allclose(mean, from_keypoints(batch), atol=1e-6)
    np.testing.assert_allclose(variance[2, 1], STATISTICS["spread"] ** 2, rtol=1e-5)


@pytest.mark.parametrize("diagonal", [False, True])
def test_mixtures_of_whole_poses_share_their_component(batch, diagonal):
    whole = mixtures(B, FRAMES, size=2 * J)
    if diagonal:
        whole = whole._replace(covariances=jnp.diagonal(whole.covariances, axis1=-2, axis2=-1))
    found = initial(batch, whole)
    joint = 5
    separate = Mixture(
        jnp.broadcast_to(whole.weights[:, :, None], (B, FRAMES, J, M)),
        jnp.broadcast_to(whole.means[:, :, None, :, 2 * joint : 2 * joint + 2], (B, FRAMES, J, M, 2)),
        jnp.broadcast_to(
            whole.covariances[:, :, None, :, 2 * joint : 2 * joint + 2]
            if diagonal
            else whole.covariances[:, :, None, :, 2 * joint : 2 * joint + 2, 2 * joint : 2 * joint + 2],
            (B, FRAMES, J, M, 2) if diagonal else (B, FRAMES, J, M, 2, 2),
        ),
    )
    expected = initial(batch, separate)
    np.testing.assert_allclose(found.means[:, :, joint], expected.means[:, :, joint], rtol=1e-5)
    np.testing.assert_allclose(found.covariances[:, :, joint], expected.covariances[:, :, joint], rtol=1e-5)
    component = draw(jax.random.split(KEY, B), found)
    picked = np.argmin(np.abs(np.asarray(component.mean)[..., None, 0] - np.asarray(found.means)[..., 0]), axis=-1)
    np.testing.assert_array_equal(picked, np.broadcast_to(picked[..., :1], picked.shape))
    np.testing.assert_allclose(component.weight[..., 3], np.take_along_axis(
        np.asarray(whole.weights), picked[..., :1], axis=-1)[..., 0], rtol=1e-6)  # fmt: skip


def test_the_gaussian_variant_has_the_moments_of_the_mixture(batch):
    mixture = initial(batch, batch.mixture)
    mean, covariance = mixture.mean_and_covariance()
    single = base_distribution("gaussian", mixture)
    np.testing.assert_allclose(single.means[..., 0, :], mean, rtol=1e-5)
    np.testing.assert_allclose(single.covariances[..., 0, :, :], covariance, rtol=1e-5)
    plain = base_distribution("normal", mixture)
    np.testing.assert_array_equal(plain.means, 0)
    np.testing.assert_array_equal(plain.covariances[1, 1, 4, 0], np.eye(3))


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_mirrored_input_has_the_mirrored_distribution(batch, diagonal):
    if diagonal:
        variances = jnp.diagonal(batch.mixture.covariances, axis1=-2, axis2=-1)
        batch = batch._replace(mixture=batch.mixture._replace(covariances=variances))
    flipped = flip_batch(batch, H36M_17)
    found, straight = initial(flipped, flipped.mixture), initial(batch, batch.mixture)
    mean, covariance = found.mean_and_covariance()
    expected_mean, expected = straight.mean_and_covariance()
    np.testing.assert_allclose(mean, mirror(expected_mean, H36M_17), atol=1e-5)
    sign = np.outer([-1, 1, 1], [-1, 1, 1])
    np.testing.assert_allclose(covariance, np.asarray(expected)[:, :, list(H36M_17.flip_order)] * sign, atol=1e-6)
    back = flip_batch(flipped, H36M_17).mixture
    jax.tree.map(np.testing.assert_array_equal, back, batch.mixture)


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_mixture_of_whole_poses_is_mirrored_joint_by_joint(diagonal):
    whole = mixtures(1, 1, size=2 * J)
    if diagonal:
        whole = whole._replace(covariances=jnp.diagonal(whole.covariances, axis1=-2, axis2=-1))
    empty = Batch(jnp.zeros((1, 1, J, 2)), jnp.zeros((1, 1, J, 3)), jnp.ones((1, 1, J)), jnp.zeros(1, jnp.int32), whole)
    flipped = flip_batch(empty, H36M_17).mixture
    points = normal(1, 1, 9, J, 2)
    mirrored = mirror(points, H36M_17).reshape(1, 1, 9, 2 * J)
    density, expected = flipped.log_prob(mirrored), whole.log_prob(points.reshape(1, 1, 9, 2 * J))
    np.testing.assert_allclose(density, expected, rtol=1e-3)


# --- the forward process


def diffused(batch: Batch, k: int, count: int, assignment: str = "prior") -> tuple[np.ndarray, np.ndarray]:
    """One frame diffused to step k `count` times, and as many draws of its H_K, `[count, J, 3]`.

    Where the component is to be one that explains the pose, poses are as H_K says they are.
    """
    one = jax.tree.map(lambda part: jnp.repeat(part[:1, :1], count, axis=0), batch._replace(index=None))
    base = initial(one, one.mixture)
    keys = jax.random.split(KEY, count)
    poses = one.poses if assignment == "prior" else sum(base.draw(jax.random.key(8), one.poses.shape))
    component = draw(keys, base) if assignment == "prior" else draw(keys, base, poses)
    noise = component.coloured(initial_noise(keys, poses.shape))
    found = diffuse(SCHEDULE, poses, jnp.int32(k), noise, component.mean)
    mean, noise = base.draw(jax.random.key(9), one.poses.shape)
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


@pytest.mark.parametrize("shared", [False, True])
def test_the_component_of_a_pose_is_drawn_by_its_responsibility(batch, shared):
    base = jax.tree.map(lambda part: part[:1, :1], initial(batch, batch.mixture))
    if shared:
        # Wide enough for all joints together to leave doubt.
        base = base._replace(weights=base.weights[:, :, :1], covariances=1000 * base.covariances)
    poses = base.means[:, :, :, 1] + 0.05 * normal(1, 1, J, 3)
    densities = np.array(
        [
            [
                multivariate_normal.logpdf(poses[0, 0, j], base.means[0, 0, j, m], base.covariances[0, 0, j, m])
                for m in range(M)
            ]
            for j in range(J)
        ]
    )
    log = np.log(base.weights[0, 0]) + (densities.sum(axis=0, keepdims=True) if shared else densities)
    wanted = np.broadcast_to(np.exp(log - logsumexp(log, axis=1, keepdims=True)), (J, M))
    count = 4000
    many = jax.tree.map(lambda part: jnp.repeat(part, count, axis=0), base)
    means = draw(jax.random.split(KEY, count), many, jnp.repeat(poses, count, axis=0)).mean[:, 0]
    picked = np.abs(means[:, :, None] - base.means[0, 0][None]).sum(axis=-1) == 0
    np.testing.assert_allclose(picked.mean(axis=0), wanted, atol=0.04)
    assert wanted.max(axis=0).min() > 0.01


def test_poses_that_are_hardly_diffused_are_the_poses(batch):
    found, expected = diffused(batch, 0, 500)
    pose = np.asarray(batch.poses)[0, 0]
    far = np.abs(expected - pose).mean(axis=0)
    assert (np.abs(found - pose).mean(axis=0) < 0.06 * far + 1e-6).all()


def test_noise_and_its_whitening_are_inverse(batch):
    component = draw(jax.random.split(KEY, B), initial(batch, batch.mixture))
    white = normal(B, FRAMES, J, 3)
    np.testing.assert_allclose(component.whitened(component.coloured(white)), white, atol=1e-4)


# --- the reverse process


def drawn(batch: Batch) -> Condition:
    base = initial(batch, batch.mixture)
    component = draw(jax.random.split(KEY, B), base)
    return Condition(batch.keypoints, from_keypoints(batch), None, base, component)


def test_the_likeliest_pose_is_that_of_the_joint_gaussian(batch):
    """Conditioning (h_0, h_k) on h_k, written with the covariance of both."""
    condition, alpha_bar = drawn(batch), 0.3
    x = from_keypoints(batch) + 0.1 * normal(B, FRAMES, J, 3)
    found = likeliest(condition, STATISTICS["spread"], x, jnp.float32(alpha_bar))
    mean, estimate = (np.asarray(part, np.float64) for part in (condition.component.mean, condition.estimate))
    spread = np.asarray(STATISTICS["spread"], np.float64)
    signal, factor = alpha_bar**0.5, np.asarray(condition.component.factor, np.float64)
    own = np.einsum("...ij,...ij->...i", factor, factor)
    both, state = signal * spread**2, alpha_bar * spread**2 + (1 - alpha_bar) * own
    pose = estimate + both / state * (np.asarray(x) - mean - signal * (estimate - mean))
    np.testing.assert_allclose(found.pose, pose, atol=1e-5)
    np.testing.assert_allclose(found.deviation, np.sqrt(spread**2 - both**2 / state), rtol=1e-3)


def test_objectives_compare_the_pose_the_noise_and_the_next_pose(batch):
    component, k = drawn(batch).component, jnp.array([0, 7, 31, 49])
    white = normal(B, FRAMES, J, 3)
    noise = component.coloured(white)
    x = diffuse(SCHEDULE, batch.poses, k, noise, component.mean)
    found = {kind: compared(kind, batch.poses, x, component, SCHEDULE, k) for kind in ("x0", "eps", "next")}
    np.testing.assert_array_equal(found["x0"], batch.poses)
    np.testing.assert_allclose(found["eps"], white, atol=5e-3)
    following = diffuse(SCHEDULE, batch.poses, jnp.maximum(k - 1, 0), noise, component.mean)
    np.testing.assert_allclose(found["next"][1:], following[1:], atol=1e-5)
    np.testing.assert_allclose(found["next"][0], batch.poses[0], atol=1e-5)


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


def test_what_is_measured_is_the_context_on_valid_and_the_depths_on_train(batch):
    train = [batch._replace(poses=batch.poses * scale) for scale in (1.0, 2.0)]
    valid = [batch, batch._replace(poses=batch.poses + 0.1)]
    found = build().measure({"w": jnp.ones(3)}, iter(train), iter(valid))
    np.testing.assert_array_equal(found["context"]["w"], np.ones(3))
    errors = np.stack([np.asarray(from_keypoints(one) - one.poses) for one in valid])
    wanted = np.sqrt(both_sides((errors.astype(np.float64) ** 2).mean(axis=(0, 1, 2))))
    np.testing.assert_allclose(found["spread"], np.maximum(wanted, 0.005), rtol=1e-4)
    depths = np.stack([np.asarray(one.poses)[..., 2] for one in train])
    mean, square = (both_sides((depths.astype(np.float64) ** n).mean(axis=(0, 1, 2))) for n in (1, 2))
    np.testing.assert_allclose(found["depth_mean"], mean, atol=1e-6)
    np.testing.assert_allclose(found["depth_spread"][1:], np.sqrt(square - mean**2)[1:], rtol=1e-4)


def test_what_makes_no_sense_is_refused():
    for option in ("predict", "base", "start", "depth", "covariance", "assignment"):
        with pytest.raises(UserError, match=f"{option}: expected one of .*, found 'unheard of'"):
            build(**{option: "unheard of"})
    with pytest.raises(UserError, match="DiffPose context"):
        build(context=CONTEXT._replace(stochastic=True))
