"""Expectation maximisation of one mixture of Gaussians, on points that are centred and scaled.

An M step is one matrix product of responsibilities `[M, P]` with the monomials `[features, P]` of the points (1, x, y,
xx, xy, yy in two dimensions), both with the points along their rows: a quarter faster on CPU than with one of them
turned. In float32 that cannot resolve components much narrower than the data; so variances have
a coarse floor, and the last steps form each covariance around its own mean instead.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.mixtures.covariance import UNROLLED, cholesky
from diffpose_jax.mixtures.mixture import component_log_densities, log_weights

EXACT_STEPS = 2
# EM steps before the first selection among seedings (then twice as many, ...), and after a component is moved.
SCREENING_STEPS = 5
MOVE_STEPS = 10
# The variance a moved component starts with: that of all points is 1.
MOVED_VARIANCE = 0.01


class Parameters(NamedTuple):
    """A mixture: weights `[M]`, means `[M, D]`, Cholesky factors `[M, D, D]` or deviations `[M, D]`."""

    weights: Array
    means: Array
    factors: Array


class Problem(NamedTuple):
    """Points `[D, P]`, their weights `[P]` (summing to 1), monomials `[features, P]`, and two floors of variances."""

    points: Array
    weights: Array
    monomials: Array
    floor: Array
    coarse_floor: Array
    diagonal: bool


def scaled_problem(points: Array, weights: Array, diagonal: bool, floor: float) -> Problem:
    """The problem of scaled points `[P, D]` with weights `[P]`, which sum to 1."""
    rows, columns = np.tril_indices(points.shape[1])
    points = points.T
    second = points**2 if diagonal else points[rows] * points[columns]
    monomials = jnp.concatenate([jnp.ones_like(points[:1]), points, second])
    # The squares are of order 1 and carry rounding of that order.
    coarse = max(floor, 32 * float(jnp.finfo(points.dtype).eps))
    return Problem(points, weights, monomials, *jnp.asarray([floor, coarse], points.dtype), diagonal)


def seeded(key: Array, problem: Problem, num_components: int) -> Parameters:
    """Centres `[M, D]` drawn by k-means++ (Arthur and Vassilvitskii 2007), each with the points nearest to it."""
    count = len(problem.weights)
    # The first of exponential waiting times with these rates: a draw in proportion to them, without their sum.
    waiting = jax.random.exponential(key, (num_components, count), problem.points.dtype)

    def draw(nearest: Array, waiting: Array) -> tuple[Array, Array]:
        centre = problem.points[:, jnp.argmin(waiting / (problem.weights * nearest))]
        return jnp.minimum(nearest, jnp.sum((problem.points - centre[:, None]) ** 2, axis=0)), centre

    first = problem.points[:, jnp.argmin(waiting[0] / problem.weights)]
    _, others = jax.lax.scan(draw, jnp.sum((problem.points - first[:, None]) ** 2, axis=0), waiting[1:])
    centres = jnp.concatenate([first[None], others])
    nearest = jnp.argmin(jnp.sum((problem.points[None] - centres[..., None]) ** 2, axis=1), axis=0)
    own = nearest[None] == jnp.arange(num_components, dtype=nearest.dtype)[:, None]
    return maximisation(problem, jnp.where(own, problem.weights[None], 0))


def selected(key: Array, problem: Problem, num_components: int, seedings: int) -> Parameters:
    """The likeliest of several seedings, means `[M, D]`: after some steps a sixth goes on, for twice as many."""
    if seedings == 1:
        return seeded(key, problem, num_components)
    parameters = jax.vmap(lambda key: seeded(key, problem, num_components))(jax.random.split(key, seedings))
    steps = SCREENING_STEPS
    while seedings > 1:
        parameters, log_likelihood = jax.vmap(lambda now, n=steps: advanced(problem, now, n))(parameters)
        seedings, steps = math.ceil(seedings / 6), 2 * steps
        parameters = _taken(parameters, jax.lax.top_k(log_likelihood, seedings)[1])
    return _taken(parameters, 0)


def advanced(problem: Problem, parameters: Parameters, steps: int) -> tuple[Parameters, Array]:
    """The parameters after so many steps, and the mean log-likelihood of a point before the last one, a scalar."""
    unknown = jnp.zeros((), problem.points.dtype)
    return jax.lax.fori_loop(0, steps, lambda _, carry: step(problem, carry[0]), (parameters, unknown))


def converged(
    problem: Problem, parameters: Parameters, iterations: int, tolerance: float
) -> tuple[Parameters, Array, Array]:
    """EM until a step gains no more than the tolerance; the mean log-likelihood before the last step; how many steps.

    With a tolerance of -inf no step but the last computes a likelihood.
    """
    if tolerance == -math.inf and iterations > 0:
        now = jax.lax.fori_loop(0, iterations - 1, lambda _, now: step(problem, now)[0], parameters)
        return *step(problem, now), jnp.int32(iterations)

    def unsettled(carry: tuple[Parameters, Array, Array, Array]) -> Array:
        _, _, gain, done = carry
        return (done < iterations) & (gain > tolerance)

    def advance(carry: tuple[Parameters, Array, Array, Array]) -> tuple[Parameters, Array, Array, Array]:
        now, last, _, done = carry
        now, log_likelihood = step(problem, now)
        return now, log_likelihood, log_likelihood - last, done + 1

    unknown = jnp.asarray(-jnp.inf, problem.points.dtype)
    now, log_likelihood, _, done = jax.lax.while_loop(unsettled, advance, (parameters, unknown, -unknown, jnp.int32(0)))
    return now, log_likelihood, done


def reseated(problem: Problem, parameters: Parameters, log_likelihood: Array) -> tuple[Parameters, Array]:
    """Move one of components `[M]` to the point explained worst, if that gains: the likeliest after some steps.

    So no component stays empty, and one of two that share a cluster finds another. In place of the split and merge
    moves of Ueda et al. 2000.
    """
    density = jax.nn.logsumexp(joint_log_densities(problem, parameters), axis=0)
    worst = problem.points[:, jnp.argmin(jnp.where(problem.weights > 0, density, jnp.inf))]
    count, size = parameters.means.shape
    narrow = jnp.ones(size, worst.dtype) if problem.diagonal else jnp.eye(size, dtype=worst.dtype)
    narrow = math.sqrt(MOVED_VARIANCE) * narrow

    def moved(which: Array) -> tuple[Parameters, Array]:
        weights = parameters.weights.at[which].set(1 / count)
        means, factors = parameters.means.at[which].set(worst), parameters.factors.at[which].set(narrow)
        return advanced(problem, Parameters(weights / jnp.sum(weights), means, factors), MOVE_STEPS)

    candidates, found = jax.vmap(moved)(jnp.arange(count, dtype=jnp.int32))
    best = jnp.argmax(found)
    gained = found[best] > log_likelihood
    now = jax.tree.map(lambda new, old: jnp.where(gained, new, old), _taken(candidates, best), parameters)
    return now, jnp.maximum(found[best], log_likelihood)


def step(problem: Problem, parameters: Parameters) -> tuple[Parameters, Array]:
    """One EM step by sufficient statistics; also the mean log-likelihood of a point before it, a scalar."""
    responsibilities, log_likelihood = expectation(problem, parameters)
    return maximisation(problem, responsibilities), log_likelihood


def expectation(problem: Problem, parameters: Parameters) -> tuple[Array, Array]:
    """Weighted responsibilities `[M, P]`, which sum to 1 over both, and the mean log-likelihood."""
    joint = joint_log_densities(problem, parameters)
    largest = jnp.max(joint, axis=0)
    shares = jnp.exp(joint - largest[None])
    total = jnp.sum(shares, axis=0)
    return shares * (problem.weights / total)[None], jnp.sum(problem.weights * (largest + jnp.log(total)))


def joint_log_densities(problem: Problem, parameters: Parameters) -> Array:
    """`log(weight) + log N(x)` of every component at every point, `[M, P]`."""
    weights, means, factors = parameters
    return component_log_densities(log_weights(weights), means, factors, problem.points)


def maximisation(problem: Problem, responsibilities: Array) -> Parameters:
    """The likeliest parameters given responsibilities `[M, P]`, from one matrix product."""
    size = len(problem.points)
    # Reduced precision, which GPUs use by default, would not do for differences of moments.
    statistics = jnp.einsum("mp,fp->mf", responsibilities, problem.monomials, precision="highest")
    share = statistics[:, 0]
    expected = statistics[:, 1:] / jnp.maximum(share, jnp.finfo(share.dtype).tiny)[:, None]
    means, second = expected[:, :size], expected[:, size:]
    if problem.diagonal:
        return Parameters(share, means, jnp.sqrt(jnp.maximum(second - means**2, 0) + problem.coarse_floor))
    rows, columns = np.tril_indices(size)
    place = np.zeros((size, size), np.int32)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    covariances = (second - means[:, rows] * means[:, columns])[:, place]
    covariances = covariances + problem.coarse_floor * jnp.eye(size, dtype=means.dtype)[None]
    return Parameters(share, means, cholesky(covariances, problem.coarse_floor))


def refined(problem: Problem, parameters: Parameters) -> tuple[Parameters, Array]:
    """The parameters after the exact steps, and their mean log-likelihood of a point, a scalar."""

    def exact_step(_: int, now: Parameters) -> Parameters:
        return exact_maximisation(problem, expectation(problem, now)[0])

    parameters = jax.lax.fori_loop(0, EXACT_STEPS, exact_step, parameters)
    return parameters, expectation(problem, parameters)[1]


def exact_maximisation(problem: Problem, responsibilities: Array) -> Parameters:
    """The likeliest parameters given responsibilities `[M, P]`, covariances around the means found."""
    size = len(problem.points)
    share = jnp.sum(responsibilities, axis=1)
    responsibilities = responsibilities / jnp.maximum(share, jnp.finfo(share.dtype).tiny)[:, None]
    means = jnp.einsum("mp,ip->mi", responsibilities, problem.points, precision="highest")
    centred = problem.points[None] - means[..., None]
    weighted = responsibilities[:, None] * centred
    if problem.diagonal:
        return Parameters(share, means, jnp.sqrt(jnp.sum(weighted * centred, axis=-1) + problem.floor))
    if size <= UNROLLED:
        covariances = jnp.sum(weighted[:, :, None] * centred[:, None], axis=-1)
    else:
        covariances = jnp.einsum("mip,mjp->mij", weighted, centred, precision="highest")
    # The covariance itself is rounded too, and must stay positive definite.
    floor = jnp.maximum(problem.floor, 8 * jnp.finfo(share.dtype).eps * jnp.trace(covariances, axis1=1, axis2=2))
    covariances = covariances + floor[:, None, None] * jnp.eye(size, dtype=means.dtype)[None]
    return Parameters(share, means, cholesky(covariances, floor / 2))


def degenerate(problem: Problem, parameters: Parameters) -> Array:
    """Whether a component has fewer points than determine its covariance, or is as narrow as the floor: a scalar."""
    size = len(problem.points)
    pivots = parameters.factors if problem.diagonal else jnp.diagonal(parameters.factors, axis1=1, axis2=2)
    tiny = jnp.finfo(problem.weights.dtype).tiny
    counts = parameters.weights / jnp.maximum(jnp.sum(problem.weights**2), tiny)
    narrow = jnp.min(pivots) ** 2 < 4 * problem.floor
    return narrow | (jnp.min(counts) < (2 if problem.diagonal else size + 1))


def _taken(parameters: Parameters, index: Array | int) -> Parameters:
    return jax.tree.map(lambda part: part[index], parameters)
