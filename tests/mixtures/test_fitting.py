"""Fitted mixtures have the likelihood of scikit-learn's, are finite on any points, and do not depend on chunks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from diffpose_jax.errors import UserError
from diffpose_jax.mixtures import expectation_maximisation as em
from diffpose_jax.mixtures.fitting import FitOptions, MixtureFit, fit_mixture, fit_mixtures, maximise_likelihood
from diffpose_jax.mixtures.mixture import Mixture

# One initialisation and no relocations: compiles in a third of the time.
PLAIN = FitOptions(initialisations=1, relocations=0)
THOROUGH = FitOptions()

KINDS = ("separated", "overlapping", "near-degenerate", "few points")


def problems(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """Random sets of points `[count, P, 2]` from five Gaussians, of unit mean variance."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    spread = {"separated": 6.0, "overlapping": 0.7}.get(kind, 2.0)
    num_points = 12 if kind == "few points" else 200
    found = np.empty((count, num_points, 2))
    for points in found:
        axes = np.linalg.qr(rng.normal(size=(5, 2, 2)))[0] * rng.uniform(0.1, 1.0, (5, 1, 2))
        if kind == "near-degenerate":
            axes[..., 1] *= 10 ** rng.uniform(-4, -1)
        which = rng.choice(5, num_points, p=rng.dirichlet(np.full(5, 3)))
        means = spread * rng.normal(size=(5, 2))
        points[:] = means[which] + np.einsum("pij,pj->pi", axes[which], rng.normal(size=(num_points, 2)))
    found -= found.mean(1, keepdims=True)
    return found / np.sqrt(found.var(1).mean(-1))[:, None, None]


def log_likelihood(mixture: Mixture, points: np.ndarray) -> float:
    """Mean log density by scipy, in float64."""
    weights, means, covariances = (np.asarray(part, np.float64) for part in mixture)
    covariances = covariances if covariances.ndim == 3 else [np.diag(variances) for variances in covariances]
    parts = [
        np.log(max(w, 1e-300)) + multivariate_normal(m, c, allow_singular=False).logpdf(points)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return float(np.logaddexp.reduce(parts).mean())


def fit_twelve(seed: int, points: np.ndarray, options: FitOptions = THOROUGH) -> MixtureFit:
    """Five components for each of sets `[12 n, P, 2]` of up to 200 points: all tests share one compiled function."""
    # The points that fill up a set have no weight: where they lie must not matter.
    padded = np.pad(points, ((0, 0), (0, 200 - points.shape[1]), (0, 0)), constant_values=1e3).astype(np.float32)
    weights = np.arange(200) < points.shape[1]
    return fit_mixtures(jax.random.key(seed), padded, 5, options, weights, chunk=12)


def likelihood_gains(kind: str, count: int, options: FitOptions, seed: int) -> np.ndarray:
    """By how much the mean log-likelihood exceeds that of scikit-learn's best of as many restarts, `[count]`."""
    points = problems(kind, count, seed)
    fit = fit_twelve(seed, points, options)
    ours = [log_likelihood(Mixture(*(part[i] for part in fit.mixture)), points[i]) for i in range(count)]
    with warnings.catch_warnings(), threadpool_limits(1):  # with more threads it waits longer than it computes
        warnings.simplefilter("ignore")  # of restarts that did not converge, and more clusters than distinct points
        models = [GaussianMixture(5, n_init=options.restarts, random_state=i) for i in range(count)]
        theirs = [model.fit(part).score(part) for model, part in zip(models, points, strict=True)]
    assert np.isfinite(ours).all()
    return np.subtract(ours, theirs)


def test_fits_are_as_likely_as_those_of_scikit_learn():
    gains = np.concatenate([likelihood_gains(kind, 12, THOROUGH, seed=1) for kind in KINDS])
    assert np.mean(gains > -1e-3) >= 0.95


@pytest.mark.repeats
def test_hundreds_of_fits_are_as_likely_as_those_of_scikit_learn():
    gains = {kind: likelihood_gains(kind, 120, FitOptions(restarts=3), seed=2) for kind in KINDS}
    shares = {kind: float(np.mean(part > -1e-3)) for kind, part in gains.items()}
    print(f"{shares}, together {np.mean(list(shares.values()))}")
    assert np.mean(list(shares.values())) >= 0.99


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_single_gaussian_has_the_moments_of_the_points(covariance):
    points = np.random.default_rng(0).normal(size=(50, 3)) * [1, 0.1, 3] + 7
    fit = fit_mixture(jax.random.key(0), jnp.asarray(points, jnp.float32), 1, replace(PLAIN, covariance=covariance))
    expected = np.cov(points.T, bias=True)
    expected = expected if covariance == "full" else np.diag(expected)
    np.testing.assert_allclose(fit.means[0], points.mean(0), rtol=1e-5)
    np.testing.assert_allclose(fit.covariances[0], expected, rtol=2e-3, atol=1e-5)


CLUSTERS = np.array([[-3.0, 0.0], [0.0, 2.0], [4.0, -1.0], [1.0, 9.0], [-6.0, -7.0]])


def clusters(*sizes: int, seed: int = 3) -> np.ndarray:
    """Points around the means `CLUSTERS`, so many around each, in random order."""
    rng = np.random.default_rng(seed)
    means = np.repeat(CLUSTERS, sizes, axis=0)
    return rng.permutation(means + rng.normal(size=means.shape) * 0.2)


def test_separated_clusters_are_found_with_their_weights():
    found = fit_twelve(1, np.stack([clusters(80, 50, 30, 20, 20, seed=seed) for seed in range(12)]))
    order = np.argsort(-np.round(found.mixture.weights, 2) + 1e-3 * found.mixture.means[..., 1], axis=1)[..., None]
    weights = np.take_along_axis(found.mixture.weights[..., None], order, axis=1)[..., 0]
    np.testing.assert_allclose(weights, np.broadcast_to([0.4, 0.25, 0.15, 0.1, 0.1], (12, 5)), atol=1e-4)
    means = np.take_along_axis(found.mixture.means, order, axis=1)
    np.testing.assert_allclose(means, np.broadcast_to(CLUSTERS[[0, 1, 2, 4, 3]], (12, 5, 2)), atol=0.25)
    assert not np.any(found.degenerate)


def test_separated_clusters_are_found_by_diagonal_components():
    found = fit_difficult("diagonal", clusters(10, 8, 6, 4, 3))
    order = np.argsort(-found.mixture.weights)
    np.testing.assert_allclose(found.mixture.weights[order], np.array([10, 8, 6, 4, 3]) / 31, atol=1e-4)
    np.testing.assert_allclose(found.mixture.means[order], CLUSTERS, atol=0.4)


def test_the_stated_likelihood_is_that_of_the_mixture():
    points = problems("overlapping", 12) * 40 + 500
    fit = fit_twelve(0, points)
    densities = jax.jit(Mixture.log_prob)(fit.mixture, jnp.asarray(points, jnp.float32))
    for i in range(12):
        one = Mixture(*(part[i] for part in fit.mixture))
        np.testing.assert_allclose(fit.log_likelihood[i], log_likelihood(one, points[i]), atol=2e-3)
        np.testing.assert_allclose(jnp.mean(densities[i]), fit.log_likelihood[i], atol=2e-3)


def test_double_precision_reaches_a_fixed_point_of_scikit_learn():
    """A step of scikit-learn from our fit changes neither the parameters nor the likelihood."""
    points = problems("overlapping", 1, seed=5)[0]
    with jax.enable_x64(True):
        options = replace(PLAIN, iterations=2000, tolerance=1e-13, variance_floor=1e-6)
        fit = maximise_likelihood(jax.random.key(0), jnp.asarray(points), 3, options)
        assert fit.mixture.means.dtype == jnp.float64
        parts = [np.asarray(part) for part in fit.mixture]
    model = GaussianMixture(
        3, weights_init=parts[0], means_init=parts[1], precisions_init=np.linalg.inv(parts[2]), max_iter=1, tol=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(points)
    np.testing.assert_allclose(model.means_, parts[1], atol=1e-5)
    np.testing.assert_allclose(model.covariances_, parts[2], atol=1e-5)
    np.testing.assert_allclose(fit.log_likelihood, model.score(points), atol=1e-8)


def test_more_steps_never_lose_likelihood():
    points = jnp.asarray(problems("overlapping", 20, seed=3), jnp.float32)

    @jax.jit
    @jax.vmap
    def trace(key: jax.Array, points: jax.Array) -> jax.Array:
        problem = em.prepare_problem(points, jnp.full(200, 1 / 200), False, 1e-5)
        parameters = em.initialise(key, problem, 5)
        return jax.lax.scan(lambda now, _: em.run_step(problem, now), parameters, length=40)[1]

    found = np.asarray(trace(jax.random.split(jax.random.key(0), 20), points))
    assert found.shape == (20, 40)
    # A step maximises the likelihood of covariances without the floor of variances that is then added to them.
    assert np.all(np.diff(found) >= -1e-3)
    assert np.all(found[:, -1] >= found[:, 3] - 1e-4)
    assert np.all(found[:, 3] > found[:, 0])


def test_points_of_weight_zero_do_not_count_and_whole_weights_are_repetitions():
    rng = np.random.default_rng(1)
    points, counts = rng.normal(size=(40, 2)), rng.integers(0, 4, 40)
    repeated = np.repeat(points, counts, axis=0)
    far = np.where(counts[:, None] == 0, 1e3, points)
    expected = fit_mixture(jax.random.key(0), jnp.asarray(repeated, jnp.float32), 1, PLAIN)
    weighted = fit_mixture(jax.random.key(0), jnp.asarray(far, jnp.float32), 1, PLAIN, jnp.asarray(counts))
    for one, other in zip(weighted, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_cells_of_a_heatmap_fit_as_well_as_samples_of_it():
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24)), -1).reshape(-1, 2)
    truth = [multivariate_normal([-0.4, 0.2], 0.02 * np.eye(2)), multivariate_normal([0.5, -0.3], 0.01 * np.eye(2))]
    heat = 0.7 * truth[0].pdf(grid) + 0.3 * truth[1].pdf(grid)
    fit = fit_mixture(jax.random.key(0), jnp.asarray(grid, jnp.float32), 2, PLAIN, jnp.asarray(heat))
    order = np.argsort(fit.means[:, 0])
    np.testing.assert_allclose(fit.weights[order], [0.7, 0.3], atol=0.01)
    np.testing.assert_allclose(fit.means[order], [[-0.4, 0.2], [0.5, -0.3]], atol=0.01)


DIFFICULT = {
    "one point": np.zeros((1, 2)),
    "fewer points than components": np.random.default_rng(0).normal(size=(3, 2)),
    "all points the same": np.full((20, 2), 3.0),
    "on a line": np.linspace(0, 1, 30)[:, None] * [1.0, 2.0],
    "two places": np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, axis=0),
    "one far point": np.concatenate([np.random.default_rng(1).normal(size=(30, 2)), [[1e6, 1e6]]]),
    "tiny": 1e-6 * np.random.default_rng(2).normal(size=(30, 2)),
    "huge and far off": 1e4 * np.random.default_rng(2).normal(size=(30, 2)) + 1e6,
}


@cache
def difficult_fit(covariance: str) -> Callable[..., MixtureFit]:
    options = FitOptions(covariance=covariance, initialisations=1, relocations=1)
    return jax.jit(partial(maximise_likelihood, options=options))


def fit_difficult(covariance: str, points: np.ndarray) -> MixtureFit:
    """Five components for up to 31 points `[P, 2]`, all filled up to 31 by points of no weight."""
    padded = np.concatenate([points, np.zeros((31 - len(points), 2))])
    weights = jnp.asarray(np.arange(31) < len(points))
    return difficult_fit(covariance)(jax.random.key(0), jnp.asarray(padded, jnp.float32), point_weights=weights)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_difficult_points_give_finite_positive_definite_mixtures(covariance):
    for name, points in DIFFICULT.items():
        found = fit_difficult(covariance, points)
        for part in jax.tree.leaves(found):
            assert np.isfinite(part).all(), name
        np.testing.assert_allclose(jnp.sum(found.mixture.weights), 1, rtol=1e-5, err_msg=name)
        covariances = np.asarray(found.mixture.covariances, np.float64)
        smallest = covariances if covariance == "diagonal" else np.linalg.eigvalsh(covariances)
        assert np.min(smallest) > 0, name
        # Diagonal components cover a slanted line piece by piece, each of some width.
        if name not in ("tiny", "huge and far off", "on a line" if covariance == "diagonal" else ""):
            assert found.degenerate, name


def test_an_empty_component_is_relocated():
    noise = np.random.default_rng(0).normal(size=(40, 2)) / 9
    points = jnp.asarray(np.repeat([[-1.0, 0.0], [1.0, 0.0]], 20, 0) + noise,
                         jnp.float32)  # fmt: skip
    problem = em.prepare_problem(points, jnp.full(40, 1 / 40), False, 1e-6)
    both = jnp.asarray([[0.0, 0.0], [50.0, 0.0]])
    start = em.Parameters(jnp.array([0.5, 0.5]), both, jnp.broadcast_to(jnp.eye(2), (2, 2, 2)))
    converged, log_likelihood, _ = jax.jit(lambda now: em.run_until_converged(problem, now, 50, 1e-5))(start)
    assert jnp.min(converged.weights) < 1e-3
    relocated, better = jax.jit(partial(em.relocate_component, problem))(converged, log_likelihood)
    np.testing.assert_allclose(relocated.weights, [0.5, 0.5], atol=1e-3)
    assert better > log_likelihood + 0.5


def test_chunks_do_not_change_a_fit():
    points = problems("separated", 7).astype(np.float32).reshape(7, 1, 200, 2)[:, :, :50]
    options = replace(PLAIN, tolerance=-1, iterations=20)
    whole = fit_mixtures(jax.random.key(0), points, 3, options, chunk=8)
    parts = fit_mixtures(jax.random.key(0), points, 3, options, chunk=3)
    assert whole.mixture.means.shape == (7, 1, 3, 2)
    assert whole.degenerate.shape == (7, 1)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_converged_fit_stays_unchanged_while_others_of_its_batch_go_on():
    points = np.stack([problems("separated", 1)[0], problems("overlapping", 1)[0]]).astype(np.float32)

    def converge(points: jax.Array) -> tuple[em.Parameters, jax.Array, jax.Array]:
        problem = em.prepare_problem(points, jnp.full(200, 1 / 200), False, 1e-4)
        return em.run_until_converged(problem, em.initialise(jax.random.key(0), problem, 5), 100, 1e-5)

    both, _, steps = jax.jit(jax.vmap(converge))(jnp.asarray(points))
    alone, _, steps_alone = jax.jit(converge)(jnp.asarray(points[0]))
    assert steps[0] == steps_alone < steps[1]
    np.testing.assert_allclose(both.means[0], alone.means, atol=1e-5)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_whole_poses_of_many_dimensions(covariance):
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(3, 34))
    points = means[np.arange(120) % 3] + 0.3 * rng.normal(size=(120, 34))
    options = replace(PLAIN, covariance=covariance, variance_floor=1e-3)
    fit = fit_mixture(jax.random.key(0), jnp.asarray(points, jnp.float32), 3, options)
    np.testing.assert_allclose(fit.weights, 1 / 3, atol=1e-3)
    assert np.abs(np.asarray(fit.means)[:, None] - means).max(-1).min(0).max() < 0.3


def test_scikit_learn_fits_a_single_set_of_points():
    points = problems("separated", 1)[0]
    options = FitOptions(backend="sklearn", restarts=2)
    fit = maximise_likelihood(jax.random.key(0), jnp.asarray(points, jnp.float32), options=options)
    assert isinstance(fit.mixture, Mixture)
    np.testing.assert_allclose(fit.log_likelihood, log_likelihood(fit.mixture, points), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("covariance", "spherical"),
        ("iterations", 1),
        ("restarts", 0),
        ("initialisations", 0),
        ("relocations", -1),
        ("tolerance", -2.0),
        ("variance_floor", -1e-6),
        ("backend", "torch"),
    ],
)
def test_options_out_of_range_are_named(name, value):
    with pytest.raises(UserError, match=f"{name}: expected .*, found {value!r}"):
        FitOptions(**{name: value})


def test_points_that_cannot_be_fitted_are_named():
    with pytest.raises(ValueError, match="at least 1 component"):
        fit_mixture(jax.random.key(0), jnp.zeros((5, 2)), 0)
    with pytest.raises(ValueError, match="do not weight"):
        fit_mixture(jax.random.key(0), jnp.zeros((5, 2)), 1, FitOptions(backend="sklearn"), jnp.ones(5))
    with pytest.raises(ValueError, match="floating"):
        fit_mixture(jax.random.key(0), jnp.zeros((5, 2), jnp.int32))
    with pytest.raises(ValueError, match="at least one set"):
        fit_mixtures(jax.random.key(0), np.zeros((0, 5, 2), np.float32))
