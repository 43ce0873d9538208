"""Fitted mixtures have the likelihood of scikit-learn's, are finite on any points, and do not depend on chunks."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from diffpose_jax.errors import UserError
from diffpose_jax.mixtures import expectation_maximisation as em
from diffpose_jax.mixtures.fitting import FitOptions, fit_mixture, fit_mixtures, maximise_likelihood
from diffpose_jax.mixtures.mixture import Mixture

# One initialisation and no relocations: compiles in a third of the time.
PLAIN = FitOptions(initialisations=1, relocations=0)

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


def likelihood_gains(kind: str, count: int, restarts: int, seed: int) -> np.ndarray:
    """By how much the mean log-likelihood exceeds that of scikit-learn's best of as many restarts, `[count]`."""
    points = problems(kind, count, seed)
    # All kinds as 200 points, some of no weight: compiled once.
    padded = np.pad(points, ((0, 0), (0, 200 - points.shape[1]), (0, 0)), mode="edge").astype(np.float32)
    weights = np.arange(200) < points.shape[1]
    fit = fit_mixtures(jax.random.key(seed), padded, 5, FitOptions(restarts=restarts), weights, chunk=12)
    ours = [log_likelihood(Mixture(*(part[i] for part in fit.mixture)), points[i]) for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of restarts that did not converge, and more clusters than distinct points
        theirs = [GaussianMixture(5, n_init=restarts, random_state=i).fit(p).score(p) for i, p in enumerate(points)]
    assert np.isfinite(ours).all()
    return np.subtract(ours, theirs)


def test_fits_are_as_likely_as_those_of_scikit_learn():
    gains = np.concatenate([likelihood_gains(kind, 12, 1, seed=1) for kind in KINDS])
    assert np.mean(gains > -1e-3) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [1, 3])
def test_a_thousand_fits_are_as_likely_as_those_of_scikit_learn(restarts):
    gains = {kind: likelihood_gains(kind, 250, restarts, seed=2) for kind in KINDS}
    shares = {kind: float(np.mean(part > -1e-3)) for kind, part in gains.items()}
    print(f"{restarts} restarts: {shares}, together {np.mean(list(shares.values()))}")
    assert np.mean(list(shares.values())) >= 0.99


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_single_gaussian_has_the_moments_of_the_points(covariance):
    points = np.random.default_rng(0).normal(size=(50, 3)) * [1, 0.1, 3] + 7
    fit = fit_mixture(jax.random.key(0), jnp.asarray(points, jnp.float32), 1, replace(PLAIN, covariance=covariance))
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
    fit = maximise_likelihood(jax.random.key(1), jnp.asarray(points, jnp.float32), 3, FitOptions(covariance=covariance))
    order = np.argsort(fit.mixture.means[:, 0])
    np.testing.assert_allclose(fit.mixture.weights[order], [0.5, 0.3, 0.2], atol=1e-4)
    np.testing.assert_allclose(fit.mixture.means[order], means, atol=0.1)
    assert not fit.degenerate


def test_the_stated_likelihood_is_that_of_the_mixture():
    points = problems("overlapping", 1)[0] * 40 + 500
    fit = maximise_likelihood(
        jax.random.key(0), jnp.asarray(points, jnp.float32), options=replace(PLAIN, variance_floor=1e-4)
    )
    np.testing.assert_allclose(fit.log_likelihood, log_likelihood(fit.mixture, points), atol=2e-3)
    np.testing.assert_allclose(jnp.mean(fit.mixture.log_prob(jnp.asarray(points, jnp.float32))), fit.log_likelihood,
                               atol=2e-3)  # fmt: skip


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
    keys = jax.random.split(jax.random.key(0), 20)
    last = -np.inf
    for iterations in (4, 40):
        options = replace(PLAIN, iterations=iterations, tolerance=-1, variance_floor=1e-5)
        fit = partial(maximise_likelihood, options=options)
        found = np.asarray(jax.jit(jax.vmap(fit))(keys, points).log_likelihood)
        assert np.all(found >= last - 1e-4)
        last = found


def test_points_of_weight_zero_do_not_count_and_whole_weights_are_repetitions():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(40, 2))
    counts = rng.integers(0, 4, 40)
    weighted = Mixture(*(np.asarray(part) for part in fit_mixture(
        jax.random.key(0), jnp.asarray(points, jnp.float32), 1, PLAIN, jnp.asarray(counts)
    )))  # fmt: skip
    repeated = fit_mixture(jax.random.key(0), jnp.asarray(np.repeat(points, counts, axis=0), jnp.float32), 1, PLAIN)
    for found, expected in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    far = np.where(counts[:, None] == 0, 1e3, points)
    fit = fit_mixture(jax.random.key(0), jnp.asarray(far, jnp.float32), 3, PLAIN, jnp.asarray(counts))
    assert np.abs(fit.means).max() < 10


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


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_difficult_points_give_finite_positive_definite_mixtures(covariance):
    options = FitOptions(covariance=covariance, initialisations=1, relocations=1)
    fit = jax.jit(partial(maximise_likelihood, options=options))
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
    whole = fit_mixtures(jax.random.key(0), points, 3, PLAIN, chunk=8)
    parts = fit_mixtures(jax.random.key(0), points, 3, PLAIN, chunk=3)
    assert whole.mixture.means.shape == (7, 1, 3, 2)
    assert whole.degenerate.shape == (7, 1)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_converged_fit_stays_unchanged_while_others_of_its_batch_go_on():
    points = np.stack([problems("separated", 1)[0], problems("overlapping", 1)[0]]).astype(np.float32)
    options = replace(PLAIN, variance_floor=1e-4)
    fit = jax.jit(jax.vmap(partial(maximise_likelihood, options=options), in_axes=(None, 0)))
    both = fit(jax.random.key(0), jnp.asarray(points))
    alone = fit(jax.random.key(0), jnp.asarray(points[:1]))
    assert both.iterations[0] == alone.iterations[0] < both.iterations[1]
    np.testing.assert_allclose(both.mixture.means[0], alone.mixture.means[0], atol=1e-5)


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
