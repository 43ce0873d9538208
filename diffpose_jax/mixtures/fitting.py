"""Mixtures of Gaussians fitted to points: one fit as a pure function, many by `vmap`, millions in chunks.

Everything has a fixed shape and nothing is decided on the host, so that fits batch over frames and joints. What makes
them fast is in `expectation`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.errors import UserError
from diffpose_jax.mixtures import expectation_maximisation as em
from diffpose_jax.mixtures.mixture import Mixture

__all__ = ["Mixture", "MixtureFit", "expectation_maximisation", "fit_mixture", "fit_mixtures"]

COVARIANCES = ("full", "diagonal")
BACKENDS = ("jax", "sklearn")


class MixtureFit(NamedTuple):
    """A fitted mixture and how the fit went, each with the leading axes of a batch of fits.

    log_likelihood: mean log density of the points, by their weights; iterations: EM steps of the start that was kept;
    degenerate: some component has fewer points than determine its covariance, or is as narrow as the floor.
    """

    mixture: Mixture
    log_likelihood: Array
    iterations: Array
    degenerate: Array


def fit_mixture(key: Array, points: Array, num_components: int = 5, **options: Any) -> Mixture:
    """Fit a mixture of Gaussians to points `[P, D]`: `expectation_maximisation`, its options, without its report."""
    return expectation_maximisation(key, points, num_components, **options).mixture


def expectation_maximisation(
    key: Array,
    points: Array,
    num_components: int = 5,
    *,
    covariance: str = "full",
    iterations: int = 100,
    starts: int = 1,
    seedings: int = 32,
    moves: int = 2,
    tolerance: float = 1e-5,
    floor: float = 1e-8,
    point_weights: Array | None = None,
    backend: str = "jax",
) -> MixtureFit:
    """Fit a mixture of Gaussians to one set of points `[P, D]`, in their dtype; `vmap` fits many.

    covariance is 'full' or 'diagonal'. Each of `starts` draws `seedings` sets of centres (k-means++), takes a few EM
    steps from each, goes on with the likeliest (Biernacki et al. 2003) until a step gains no more than `tolerance` in
    mean log-likelihood, for at most `iterations` steps, and then tries `moves` times to seat a component elsewhere; the
    best start is kept. A tolerance of -inf takes all steps. point_weights `[P]`, not negative, say how much each point
    counts, as the cells of a heatmap do.

    `floor` is added to every variance, as a share of the mean variance of the points. With a small one a thorough
    search, as that of the defaults, finds what maximises the likelihood: often a component around a single point. For
    mixtures to draw from raise it (1e-3), or search less (seedings 1, moves 0). Every result is finite for finite
    points, also where these coincide or are fewer than the components; see `MixtureFit.degenerate`.

    backend='sklearn' fits by scikit-learn's GaussianMixture on the host: one fit, not under jit or vmap, no weights.
    """
    if covariance not in COVARIANCES or backend not in BACKENDS:
        raise UserError(f"mixture: expected one of {COVARIANCES + BACKENDS}, found {covariance!r}, {backend!r}")
    points = jnp.asarray(points)
    if points.ndim != 2 or not jnp.issubdtype(points.dtype, jnp.floating):
        raise ValueError(f"expected points [P, D] of a floating type, found {points.dtype} {points.shape}")
    if min(num_components, starts, seedings, iterations - em.EXACT_STEPS + 1, moves + 1) < 1:
        raise ValueError(f"expected components, starts, seedings and at least {em.EXACT_STEPS} iterations")
    weights = None if point_weights is None else jnp.asarray(point_weights, points.dtype)
    if backend == "sklearn":
        if weights is not None:
            raise ValueError("scikit-learn's mixtures do not weight points")
        return _fit_by_sklearn(key, points, num_components, covariance, iterations, starts, tolerance, floor)
    return _fit(
        key, points, weights, num_components, covariance, iterations, starts, seedings, moves, float(tolerance), floor
    )


@partial(jax.jit, static_argnums=range(3, 11))
def _fit(
    key: Array,
    points: Array,
    weights: Array | None,
    num_components: int,
    covariance: str,
    iterations: int,
    starts: int,
    seedings: int,
    moves: int,
    tolerance: float,
    floor: float,
) -> MixtureFit:
    problem, centre, scale = _standardised(points, weights, covariance, floor)
    one_start = partial(_one_start, problem, num_components, iterations - em.EXACT_STEPS, seedings, moves, tolerance)
    if starts == 1:
        return _report(problem, centre, scale, *one_start(key))
    found = jax.vmap(one_start)(jax.random.split(key, starts))
    return _report(problem, centre, scale, *jax.tree.map(lambda part: part[jnp.argmax(found[1])], found))


def _standardised(
    points: Array, weights: Array | None, covariance: str, floor: float
) -> tuple[em.Problem, Array, Array]:
    """The problem of the points moved to their mean `[D]` and divided by the root of their mean variance."""
    equal = jnp.full(len(points), 1 / len(points), points.dtype)
    if weights is not None:
        total = jnp.sum(weights)
        weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), equal)
    weights = equal if weights is None else weights
    centre = jnp.sum(weights[:, None] * points, axis=0)
    variance = jnp.mean(jnp.sum(weights[:, None] * (points - centre[None]) ** 2, axis=0))
    scale = jnp.sqrt(jnp.where(variance > jnp.finfo(points.dtype).tiny, variance, 1))
    return em.scaled_problem((points - centre[None]) / scale, weights, covariance == "diagonal", floor), centre, scale


def _report(
    problem: em.Problem, centre: Array, scale: Array, parameters: em.Parameters, log_likelihood: Array, steps: Array
) -> MixtureFit:
    """The fit in the units of the points before they were scaled."""
    factors = parameters.factors
    covariances = factors**2 if problem.diagonal else jnp.einsum("mik,mjk->mij", factors, factors, precision="highest")
    mixture = Mixture(parameters.weights, parameters.means * scale + centre[None], covariances * scale**2)
    log_likelihood = log_likelihood - len(centre) * jnp.log(scale)
    return MixtureFit(mixture, log_likelihood, steps, em.degenerate(problem, parameters))


def _one_start(
    problem: em.Problem, num_components: int, iterations: int, seedings: int, moves: int, tolerance: float, key: Array
) -> tuple[em.Parameters, Array, Array]:
    parameters = em.selected(key, problem, num_components, seedings)
    parameters, log_likelihood, steps = em.converged(problem, parameters, iterations, tolerance)
    if moves:
        carry = parameters, log_likelihood
        carry = jax.lax.fori_loop(0, moves, lambda _, now: em.reseated(problem, *now), carry)
        parameters, _, more = em.converged(problem, carry[0], iterations, tolerance)
        steps = steps + more
    return *em.refined(problem, parameters), steps + em.EXACT_STEPS


def _fit_by_sklearn(
    key: Array,
    points: Array,
    num_components: int,
    covariance: str,
    iterations: int,
    starts: int,
    tolerance: float,
    floor: float,
) -> MixtureFit:
    from sklearn.mixture import GaussianMixture

    problem, centre, scale = _standardised(points, None, covariance, floor)
    model = GaussianMixture(
        num_components,
        covariance_type="diag" if problem.diagonal else "full",
        max_iter=iterations,
        n_init=starts,
        tol=max(tolerance, 0.0),
        reg_covar=floor,
        random_state=int(jax.random.bits(key)),
    ).fit(np.asarray(problem.points.T, np.float64))
    mixture = Mixture(*(jnp.asarray(part, points.dtype) for part in (model.weights_, model.means_, model.covariances_)))
    parameters = em.Parameters(mixture.weights, mixture.means, mixture.factors())
    log_likelihood = em.expectation(problem, parameters)[1]
    return _report(problem, centre, scale, parameters, log_likelihood, jnp.int32(model.n_iter_))


def fit_mixtures(
    key: Array,
    points: np.ndarray | Array,
    num_components: int = 5,
    *,
    point_weights: np.ndarray | Array | None = None,
    chunk: int = 128,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
    **options: Any,
) -> MixtureFit:
    """Fit a mixture to each of many sets of points `[N, ..., P, D]`, any number of them, as numpy arrays `[N, ...]`.

    `chunk` fits are compiled as one call; a fit's noise depends on its number alone, not on the chunk it is in. Calls
    run in one thread per core on CPU. Options are those of `expectation_maximisation`; `track` wraps the sequence of
    chunk numbers, for a progress bar.
    """
    lead, shape = points.shape[:-2], points.shape[-2:]
    flat = points.reshape(-1, *shape)
    count = len(flat)
    if count == 0:
        raise ValueError(f"expected at least one set of points, found shape {points.shape}")
    weights = None if point_weights is None else np.broadcast_to(point_weights, points.shape[:-1]).reshape(count, -1)
    chunk = max(1, min(chunk, count))
    fit = _compiled(num_components, tuple(sorted(options.items())))

    def call(number: int) -> MixtureFit:
        index = np.minimum(np.arange(number * chunk, (number + 1) * chunk, dtype=np.int32), count - 1)
        chosen = None if weights is None else weights[index]
        return jax.tree.map(np.asarray, fit(key, index, flat[index], chosen))

    numbers = range(-(-count // chunk))
    threads = os.cpu_count() or 1 if jax.default_backend() == "cpu" else 1
    with ThreadPoolExecutor(threads) as pool:
        parts = [part for _, part in zip(track(numbers), pool.map(call, numbers), strict=True)]
    joined = jax.tree.map(lambda *part: np.concatenate(part)[:count], *parts)
    return jax.tree.map(lambda part: part.reshape(*lead, *part.shape[1:]), joined)


@cache
def _compiled(num_components: int, options: tuple[tuple[str, Any], ...]) -> Callable[..., MixtureFit]:
    """Fits to sets of points `[n, P, D]` by their numbers `[n]`, compiled once for these options."""

    def one(key: Array, number: Array, points: Array, weights: Array | None) -> MixtureFit:
        key = jax.random.fold_in(key, number)
        return expectation_maximisation(key, points, num_components, point_weights=weights, **dict(options))

    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0, 0)))
