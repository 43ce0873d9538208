"""Fitted mixtures are as likely as scikit-learn's, finite on any points, and the same in chunks as one by one."""

from __future__ import annotations

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from diffpose_jax.errors import UserError
from diffpose_jax.mixtures import expectation_maximisation as em
from diffpose_jax.mixtures.fitting import expectation_maximisation, fit_mixture, fit_mixtures
from diffpose_jax.mixtures.mixture import Mixture

# One seeding and no search: compiles in a third of the time.
PLAIN = {"seedings": 1, "moves": 0}

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


def likelihood_gains(kind: str, count: int, starts: int, seed: int) -> np.ndarray:
    """By how much the mean log-likelihood exceeds that of scikit-learn's best of as many starts, `[count]`."""
    points = problems(kind, count, seed)
    # All kinds as 200 points, some of no weight: compiled once.
    padded = np.pad(points, ((0, 0), (0, 200 - points.shape[1]), (0, 0)), mode="edge").astype(np.float32)
    weights = np.arange(200) < points.shape[1]
    fit = fit_mixtures(jax.random.key(seed), padded, 5, starts=starts, chunk=12, point_weights=weights)
    ours = [log_likelihood(Mixture(*(part[i] for part in fit.mixture)), points[i]) for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of starts that did not converge, and more clusters than distinct points
        theirs = [GaussianMixture(5, n_init=starts, random_state=i).fit(p).score(p) for i, p in enumerate(points)]
    assert np.isfinite(ours).all()
    return np.subtract(ours, theirs)


def test_fits_are_as_likely_as_those_of_scikit_learn():
    gains = np.concatenate([likelihood_gains(kind, 12, 1, seed=1) for kind in KINDS])
    assert np.mean(gains > -1e-3) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("starts", [1, 3])
def test_a_thousand_fits_are_as_likely_as_those_of_scikit_learn(starts):
    gains = {kind: likelihood_gains(kind, 250, starts, seed=2) for kind in KINDS}
    shares = {kind: float(np.mean(part > -1e-3)) for kind, part in gains.items()}
    print(f"{starts} starts: {shares}, together {np.mean(list(shares.values()))}")
    assert np.mean(list(shares.values())) >= 0.99


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_single_gaussian_has_the_moments_of_the_points(covariance):
    points = np.random.default_rng(0).normal(size=(50, 3)) * [1, 0.1, 3] + 7
    fit = fit_mixture(jax.random.key(0), jnp.asarray(points, jnp.float32), 1, covariance=covariance, **PLAIN)
    expected = np.cov(points.T, bias=True)
    expected = expected if covariance == "full" else np.diag(expected)
    np.testing.assert_allclose(fit.means[0], points.mean(0), rtol=1e-5)
    np.testing.assert_allclose(fit.covariances[0], expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_separated_clusters_are_found_with_their_weights(covariance):
    rng = np.random.default_rng(3)
    means = np.array([[-3.0, 0.0], [0.0, 2.0], [4.0, -1.0]])
    which = rng.permutation(np.repeat([0, 1, 2], [100, 60, 40]))
    points = means[which] + rng.normal(size=(200, 2)) * 0.2
    fit = expectation_maximisation(jax.random.key(1), jnp.asarray(points, jnp.float32), 3, covariance=covariance)
    order = np.argsort(fit.mixture.means[:, 0])
    np.testing.assert_allclose(fit.mixture.weights[order], [0.5, 0.3, 0.2], atol=1e-4)
    np.testing.assert_allclose(fit.mixture.means[order], means, atol=0.1)
    assert not fit.degenerate


def test_the_stated_likelihood_is_that_of_the_mixture():
    points = problems("overlapping", 1)[0] * 40 + 500
    fit = expectation_maximisation(jax.random.key(0), jnp.asarray(points, jnp.float32), floor=1e-4, **PLAIN)
    np.testing.assert_allclose(fit.log_likelihood, log_likelihood(fit.mixture, points), atol=2e-3)
    np.testing.assert_allclose(jnp.mean(fit.mixture.log_prob(jnp.asarray(points, jnp.float32))), fit.log_likelihood,
                               atol=2e-3)  # fmt: skip


def test_double_precision_reaches_a_fixed_point_of_scikit_learn():
    """scikit-learn, started at our fit, neither moves it nor finds it unlikelier."""
    points = problems("overlapping", 1, seed=5)[0]
    with jax.enable_x64(True):
        fit = expectation_maximisation(
            jax.random.key(0), jnp.asarray(points), 3, **PLAIN, iterations=2000, tolerance=1e-13, floor=1e-6
        )
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
    keys = jax.random.split(jax.random.key(0), 20)
    last = -np.inf
    for iterations in (4, 40):
        fit = partial(expectation_maximisation, **PLAIN, iterations=iterations, tolerance=-jnp.inf,
                      floor=1e-5)  # fmt: skip
        found = np.asarray(jax.jit(jax.vmap(fit))(keys, points).log_likelihood)
        assert np.all(found >= last - 1e-4)
        last = found


def test_points_of_weight_zero_do_not_count_and_whole_weights_are_repetitions():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(40, 2))
    counts = rng.integers(0, 4, 40)
    weighted = Mixture(*(np.asarray(part) for part in fit_mixture(
        jax.random.key(0), jnp.asarray(points, jnp.float32), 1, point_weights=jnp.asarray(counts), **PLAIN
    )))  # fmt: skip
    repeated = fit_mixture(jax.random.key(0), jnp.asarray(np.repeat(points, counts, axis=0), jnp.float32), 1, **PLAIN)
    for found, expected in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    far = np.where(counts[:, None] == 0, 1e3, points)
    fit = fit_mixture(jax.random.key(0), jnp.asarray(far, jnp.float32), 3, point_weights=jnp.asarray(counts), **PLAIN)
    assert np.abs(fit.means).max() < 10


def test_cells_of_a_heatmap_fit_as_well_as_samples_of_it():
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24)), -1).reshape(-1, 2)
    truth = [multivariate_normal([-0.4, 0.2], 0.02 * np.eye(2)), multivariate_normal([0.5, -0.3], 0.01 * np.eye(2))]
    heat = 0.7 * truth[0].pdf(grid) + 0.3 * truth[1].pdf(grid)
    fit = fit_mixture(jax.random.key(0), jnp.asarray(grid, jnp.float32), 2, point_weights=jnp.asarray(heat), **PLAIN)
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


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_difficult_points_give_finite_positive_definite_mixtures(covariance):
    fit = jax.jit(partial(expectation_maximisation, covariance=covariance, seedings=1, moves=1))
    for name, points in DIFFICULT.items():
        padded = np.concatenate([points, np.zeros((31 - len(points), 2))])
        weights = np.arange(31) < len(points)
        found = fit(jax.random.key(0), jnp.asarray(padded, jnp.float32), point_weights=jnp.asarray(weights))
        for part in jax.tree.leaves(found):
            assert np.isfinite(part).all(), name
        np.testing.assert_allclose(jnp.sum(found.mixture.weights), 1, rtol=1e-5, err_msg=name)
        smallest = found.mixture.covariances if covariance == "diagonal" else np.linalg.eigvalsh(
            np.asarray(found.mixture.covariances, np.float64))  # fmt: skip
        assert np.min(smallest) > 0, name
        # Diagonal components follow a slanted line as steps of a stair.
        if name not in ("tiny", "huge and far off", "on a line" if covariance == "diagonal" else ""):
            assert found.degenerate, name


def test_a_component_that_starts_empty_is_put_to_use():
    noise = np.random.default_rng(0).normal(size=(40, 2)) / 9
    points = jnp.asarray(np.repeat([[-1.0, 0.0], [1.0, 0.0]], 20, 0) + noise,
                         jnp.float32)  # fmt: skip
    problem = em.scaled_problem(points, jnp.full(40, 1 / 40), False, 1e-6)
    both = jnp.asarray([[0.0, 0.0], [50.0, 0.0]])
    start = em.Parameters(jnp.array([0.5, 0.5]), both, jnp.broadcast_to(jnp.eye(2), (2, 2, 2)))
    settled, log_likelihood, _ = jax.jit(lambda now: em.converged(problem, now, 50, 1e-5))(start)
    assert jnp.min(settled.weights) < 1e-3
    moved, better = jax.jit(partial(em.reseated, problem))(settled, log_likelihood)
    np.testing.assert_allclose(moved.weights, [0.5, 0.5], atol=1e-3)
    assert better > log_likelihood + 0.5


def test_chunks_do_not_change_a_fit():
    points = problems("separated", 7).astype(np.float32).reshape(7, 1, 200, 2)[:, :, :50]
    whole = fit_mixtures(jax.random.key(0), points, 3, **PLAIN, chunk=8)
    parts = fit_mixtures(jax.random.key(0), points, 3, **PLAIN, chunk=3)
    assert whole.mixture.means.shape == (7, 1, 3, 2)
    assert whole.degenerate.shape == (7, 1)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_settled_fit_waits_unchanged_for_the_others_of_its_batch():
    points = np.stack([problems("separated", 1)[0], problems("overlapping", 1)[0]]).astype(np.float32)
    fit = jax.jit(jax.vmap(partial(expectation_maximisation, **PLAIN, floor=1e-4), in_axes=(None, 0)))
    both = fit(jax.random.key(0), jnp.asarray(points))
    alone = fit(jax.random.key(0), jnp.asarray(points[:1]))
    assert both.iterations[0] == alone.iterations[0] < both.iterations[1]
    np.testing.assert_allclose(both.mixture.means[0], alone.mixture.means[0], atol=1e-5)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_whole_poses_of_many_dimensions(covariance):
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(3, 34))
    points = means[np.arange(120) % 3] + 0.3 * rng.normal(size=(120, 34))
    fit = fit_mixture(jax.random.key(0), jnp.asarray(points, jnp.float32), 3, covariance=covariance, **PLAIN,
                      floor=1e-3)  # fmt: skip
    np.testing.assert_allclose(fit.weights, 1 / 3, atol=1e-3)
    assert np.abs(np.asarray(fit.means)[:, None] - means).max(-1).min(0).max() < 0.3


def test_scikit_learn_fits_a_single_set_of_points():
    points = problems("separated", 1)[0]
    fit = expectation_maximisation(jax.random.key(0), jnp.asarray(points, jnp.float32), backend="sklearn", starts=2)
    assert isinstance(fit.mixture, Mixture)
    np.testing.assert_allclose(fit.log_likelihood, log_likelihood(fit.mixture, points), atol=1e-3)


def test_options_that_do_not_exist_are_named():
    points = jnp.zeros((5, 2))
    with pytest.raises(UserError, match="'spherical'"):
        fit_mixture(jax.random.key(0), points, covariance="spherical")
    with pytest.raises(ValueError, match="floating"):
        fit_mixture(jax.random.key(0), jnp.zeros((5, 2), jnp.int32))
    with pytest.raises(ValueError, match="at least one set"):
        fit_mixtures(jax.random.key(0), np.zeros((0, 5, 2), np.float32))
