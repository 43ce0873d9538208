"""Fit mixtures of Gaussians to points: one fit as a pure function, many by `vmap`, millions in chunks.

All shapes are fixed and nothing is decided on the host, so fits batch over frames and joints.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.config import Options, option
from diffpose_jax.keys import fold_in
from diffpose_jax.mixtures import expectation_maximisation as em
from diffpose_jax.mixtures.mixture import Mixture

Covariance = Literal["full", "diagonal"]
COVARIANCES: tuple[str, ...] = get_args(Covariance)


@dataclass(frozen=True)
class FitOptions(Options):
    """How a mixture is fitted. The defaults search thoroughly for the highest likelihood.

    Often that has a component around a single point. For mixtures to draw from raise `variance_floor` (1e-3), or search
    less (1 initialisation, no relocations). An option out of range is a UserError.
    """

    covariance: Covariance = option("full", "shape of the covariances")
    iterations: int = option(100, "most EM steps until convergence, the last two included", low=em.EXACT_STEPS)
    restarts: int = option(1, "independent fits, of which that of highest likelihood is kept", low=1)
    initialisations: int = option(32, "draws of k-means++ that EM starts from, of which one is selected", low=1)
    relocations: int = option(2, "how many times a component may be relocated after convergence", low=0)
    tolerance: float = option(
        1e-5, "gain in mean log-likelihood below which EM has converged; a negative one takes all steps", low=-1
    )
    variance_floor: float = option(1e-8, "added to each variance, as a share of the points' mean variance", low=0)
    backend: Literal["jax", "sklearn"] = option(
        "jax", "'sklearn' is its GaussianMixture, on the host: one fit, not under jit or vmap, no weights of points"
    )


class MixtureFit(NamedTuple):
    """A fitted mixture and how the fit went, each with the leading axes of a batch of fits."""

    mixture: Mixture
    log_likelihood: Array  # mean log density of the points, by their weights
    iterations: Array  # EM steps of the restart that was kept
    degenerate: Array  # a component has fewer points than determine its covariance, or is as narrow as the floor


def fit_mixture(
    key: Array,
    points: Array,
    num_components: int = 5,
    options: FitOptions = FitOptions(),
    point_weights: Array | None = None,
) -> Mixture:
    """Fit a mixture of Gaussians to one set of points: what `maximise_likelihood` finds, without how the fit went.

    Args:
        key: One key.
        points: `[P, D]`, of a floating type.
        num_components: M, at least 1.
        options: How to fit.
        point_weights: How much each point counts, `[P]`, not negative. None: all equally.

    Raises:
        ValueError: as `maximise_likelihood`.
    """
    return maximise_likelihood(key, points, num_components, options, point_weights).mixture


def maximise_likelihood(
    key: Array,
    points: Array,
    num_components: int = 5,
    options: FitOptions = FitOptions(),
    point_weights: Array | None = None,
) -> MixtureFit:
    """Fit a mixture of Gaussians to one set of points by expectation maximisation; `vmap` fits many.

    EM starts from initialisations by k-means++, goes on with the one of highest likelihood after a few steps (Biernacki
    et al. 2003), and after convergence tries to relocate components. The result is finite for finite points, also where
    these coincide or are fewer than the components; see `MixtureFit.degenerate`.

    Args:
        key: One key.
        points: `[P, D]`, of a floating type; the fit is computed in that type.
        num_components: M, at least 1.
        options: How to fit.
        point_weights: How much each point counts, `[P]`, not negative, as the cells of a heatmap do. None: all equally.

    Returns:
        The mixture, and how the fit went.

    Raises:
        ValueError: for points of another shape or type, no component, or weights with scikit-learn.
    """
    points = jnp.asarray(points)
    if points.ndim != 2 or not jnp.issubdtype(points.dtype, jnp.floating):
        raise ValueError(f"expected points [P, D] of a floating type, found {points.dtype} {points.shape}")
    if num_components < 1:
        raise ValueError(f"expected at least 1 component, found {num_components}")
    weights = None if point_weights is None else jnp.asarray(point_weights, points.dtype)
    if options.backend == "jax":
        return _fit(key, points, weights, num_components, options)
    if weights is not None:
        raise ValueError("scikit-learn's mixtures do not weight points")
    return _fit_by_sklearn(key, points, num_components, options)


@partial(jax.jit, static_argnums=(3, 4))
def _fit(key: Array, points: Array, weights: Array | None, num_components: int, options: FitOptions) -> MixtureFit:
    problem, centre, scale = _standardise(points, weights, options)
    fit_once = partial(_fit_once, problem, num_components, options)
    if options.restarts == 1:
        return _report(problem, centre, scale, *fit_once(key))
    found = jax.vmap(fit_once)(jax.random.split(key, options.restarts))
    return _report(problem, centre, scale, *jax.tree.map(lambda part: part[jnp.argmax(found[1])], found))


def _standardise(points: Array, weights: Array | None, options: FitOptions) -> tuple[em.Problem, Array, Array]:
    """Subtract the mean `[D]` from points `[P, D]` and divide them by the root of their mean variance, a scalar."""
    equal = jnp.full(len(points), 1 / len(points), points.dtype)
    if weights is not None:
        # A heatmap without any mass would have weights of 0 / 0; all its cells count equally then.
        total = jnp.sum(weights)
        weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), equal)
    weights = equal if weights is None else weights
    centre = jnp.sum(weights[:, None] * points, axis=0)
    variance = jnp.mean(jnp.sum(weights[:, None] * (points - centre[None]) ** 2, axis=0))
    # EM commutes with shifts and with one scale for all dimensions, so that the fit to standardised points is that to
    # the points. Floors and tolerances then mean the same in every unit. A scale for each dimension would also commute
    # with EM, but change the distances that k-means++ draws by.
    scale = jnp.sqrt(jnp.where(variance > jnp.finfo(points.dtype).tiny, variance, 1))
    diagonal = options.covariance == "diagonal"
    problem = em.prepare_problem((points - centre[None]) / scale, weights, diagonal, options.variance_floor)
    return problem, centre, scale


def _report(
    problem: em.Problem, centre: Array, scale: Array, parameters: em.Parameters, log_likelihood: Array, steps: Array
) -> MixtureFit:
    """State a fit in the units of the points before they were standardised."""
    factors = parameters.factors
    covariances = factors**2 if problem.diagonal else jnp.einsum("mik,mjk->mij", factors, factors, precision="highest")
    mixture = Mixture(parameters.weights, parameters.means * scale + centre[None], covariances * scale**2)
    # The density of x = scale u + centre is that of u divided by scale^D.
    log_likelihood = log_likelihood - len(centre) * jnp.log(scale)
    return MixtureFit(mixture, log_likelihood, steps, em.is_degenerate(problem, parameters))


def _fit_once(
    problem: em.Problem, num_components: int, options: FitOptions, key: Array
) -> tuple[em.Parameters, Array, Array]:
    """Return the parameters of one restart, their mean log-likelihood of a point, and the number of EM steps."""
    parameters = em.select_initialisation(key, problem, num_components, options.initialisations)
    converge = partial(
        em.run_until_converged, problem, iterations=options.iterations - em.EXACT_STEPS, tolerance=options.tolerance
    )
    parameters, log_likelihood, steps = converge(parameters)
    if options.relocations:
        carry = parameters, log_likelihood
        carry = jax.lax.fori_loop(0, options.relocations, lambda _, now: em.relocate_component(problem, *now), carry)
        parameters, _, more = converge(carry[0])
        steps = steps + more
    return *em.refine(problem, parameters), steps + em.EXACT_STEPS


def _fit_by_sklearn(key: Array, points: Array, num_components: int, options: FitOptions) -> MixtureFit:
    from sklearn.mixture import GaussianMixture

    problem, centre, scale = _standardise(points, None, options)
    # Tolerance and floor are those of standardised points here too, so that both backends read the options alike.
    model = GaussianMixture(
        num_components,
        covariance_type="diag" if problem.diagonal else "full",
        max_iter=options.iterations,
        n_init=options.restarts,
        tol=max(options.tolerance, 0.0),
        reg_covar=options.variance_floor,
        random_state=int(jax.random.bits(key)),
    ).fit(np.asarray(problem.points.T, np.float64))
    mixture = Mixture(*(jnp.asarray(part, points.dtype) for part in (model.weights_, model.means_, model.covariances_)))
    parameters = em.Parameters(mixture.weights, mixture.means, mixture.factors())
    log_likelihood = em.expect(problem, parameters)[1]
    return _report(problem, centre, scale, parameters, log_likelihood, jnp.int32(model.n_iter_))


def fit_mixtures(
    key: Array,
    points: np.ndarray | Array,
    num_components: int = 5,
    options: FitOptions = FitOptions(),
    point_weights: np.ndarray | Array | None = None,
    *,
    chunk: int = 128,
) -> MixtureFit:
    """Fit a mixture to each of any number of sets of points.

    Args:
        key: One key. The noise of a fit depends on the index of its set alone, not on the chunk it is in.
        points: `[N, ..., P, D]`.
        num_components: M, at least 1.
        options: How to fit.
        point_weights: How much each point counts, `[N, ..., P]` or of a shape that broadcasts to it.
        chunk: Fits that are compiled as one call. On CPU calls run in one thread per core.

    Returns:
        The fits as numpy arrays with the leading axes `[N, ...]`.

    Raises:
        ValueError: for no set of points, and as `maximise_likelihood`.
    """
    lead, shape = points.shape[:-2], points.shape[-2:]
    flat = points.reshape(-1, *shape)
    count = len(flat)
    if count == 0:
        raise ValueError(f"expected at least one set of points, found shape {points.shape}")
    weights = None if point_weights is None else np.broadcast_to(point_weights, points.shape[:-1]).reshape(count, -1)
    chunk = max(1, min(chunk, count))
    fit = _compile_fits(num_components, options)

    def fit_chunk(first: int) -> MixtureFit:
        # The last chunk is filled up with the last set, so that all calls have one shape.
        index = np.minimum(np.arange(first, first + chunk, dtype=np.int32), count - 1)
        chosen = None if weights is None else weights[index]
        return jax.tree.map(np.asarray, fit(key, index, flat[index], chosen))

    # A compiled call runs outside of Python's lock, so that threads run several side by side.
    threads = os.cpu_count() or 1 if jax.default_backend() == "cpu" else 1
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(fit_chunk, range(0, count, chunk)))
    joined = jax.tree.map(lambda *part: np.concatenate(part)[:count], *parts)
    return jax.tree.map(lambda part: part.reshape(*lead, *part.shape[1:]), joined)


@cache
def _compile_fits(num_components: int, options: FitOptions) -> Callable[..., MixtureFit]:
    """Compile the fits to sets of points `[n, P, D]` with the indices `[n]`, once for these options."""

    def fit(key: Array, index: Array, points: Array, weights: Array | None) -> MixtureFit:
        """Fit one set of points `[P, D]`; for the arguments see `fit_mixtures`."""
        return maximise_likelihood(fold_in(key, index), points, num_components, options, weights)

    return jax.jit(jax.vmap(fit, in_axes=(None, 0, 0, 0)))
