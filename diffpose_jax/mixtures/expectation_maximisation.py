"""Expectation maximisation (EM) of one mixture of Gaussians, on points that are centred and scaled.

With weights w, means m and covariances S of the components, and weights c_p of the points that sum to 1, one step is

* E step: responsibilities `r_kp = w_k N(x_p; m_k, S_k) / sum_j w_j N(x_p; m_j, S_j)`,
* M step: `w_k = sum_p c_p r_kp`, `m_k = sum_p c_p r_kp x_p / w_k`, `S_k = sum_p c_p r_kp x_p x_p^T / w_k - m_k m_k^T`.

The sums of an M step are one matrix product of the weighted responsibilities `[M, P]` with the monomials of the points
`[features, P]` (1, x, y, xx, xy, yy in two dimensions). Both have the points along their rows, which is a quarter
faster on CPU than with one of them transposed. The difference of moments cancels: in float32 it does not resolve
components much narrower than the data. So variances have a coarse floor in these steps, and the last steps form each
covariance around its own mean instead.
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

# The last EM steps, with covariances around the means.
EXACT_STEPS = 2
# EM steps before the first selection among initialisations; twice as many before the next, and so on.
SCREENING_STEPS = 5
# EM steps after a component is relocated, and the variance it starts with; that of all points is 1.
RELOCATION_STEPS = 10
RELOCATED_VARIANCE = 0.01


class Parameters(NamedTuple):
    """The parameters of a mixture, with covariances as factors."""

    weights: Array  # [M]
    means: Array  # [M, D]
    factors: Array  # Cholesky factors [M, D, D], or standard deviations [M, D]


class Problem(NamedTuple):
    """Points to fit a mixture to, of mean 0 and mean variance 1."""

    points: Array  # [D, P]
    weights: Array  # [P], with the sum 1
    monomials: Array  # [features, P]
    floor: Array  # of variances, a scalar
    coarse_floor: Array  # of variances in steps by moments, a scalar
    diagonal: bool


def prepare_problem(points: Array, weights: Array, diagonal: bool, floor: float) -> Problem:
    """Form the monomials and floors of a problem.

    Args:
        points: Centred and scaled points `[P, D]`.
        weights: Weights of the points `[P]`, with the sum 1.
        diagonal: Whether covariances are diagonal.
        floor: Added to every variance.
    """
    rows, columns = np.tril_indices(points.shape[1])
    points = points.T
    second = points**2 if diagonal else points[rows] * points[columns]
    monomials = jnp.concatenate([jnp.ones_like(points[:1]), points, second])
    # The squares are of order 1, and so is the unit of their rounding errors.
    coarse = max(floor, 32 * float(jnp.finfo(points.dtype).eps))
    floors = jnp.asarray([floor, coarse], points.dtype)
    return Problem(points, weights, monomials, floors[0], floors[1], diagonal)


def initialise(key: Array, problem: Problem, num_components: int) -> Parameters:
    """Draw centres `[M, D]` by k-means++ (Arthur and Vassilvitskii 2007), and give each the points nearest to it."""
    count = len(problem.weights)
    # Each centre is a point drawn in proportion to its weight times its squared distance to the nearest centre so far.
    # Of exponential waiting times with these rates the shortest is such a draw, and needs no sum over the points.
    waiting = jax.random.exponential(key, (num_components, count), problem.points.dtype)

    def draw_centre(nearest: Array, waiting: Array) -> tuple[Array, Array]:
        centre = problem.points[:, jnp.argmin(waiting / (problem.weights * nearest))]
        return jnp.minimum(nearest, jnp.sum((problem.points - centre[:, None]) ** 2, axis=0)), centre

    first = problem.points[:, jnp.argmin(waiting[0] / problem.weights)]
    _, others = jax.lax.scan(draw_centre, jnp.sum((problem.points - first[:, None]) ** 2, axis=0), waiting[1:])
    centres = jnp.concatenate([first[None], others])
    nearest = jnp.argmin(jnp.sum((problem.points[None] - centres[..., None]) ** 2, axis=1), axis=0)
    own = nearest[None] == jnp.arange(num_components, dtype=nearest.dtype)[:, None]
    # One M step with the responsibilities 0 and 1 of k-means: it gives the clusters' weights and covariances too.
    return maximise(problem, jnp.where(own, problem.weights[None], 0))


def select_initialisation(key: Array, problem: Problem, num_components: int, initialisations: int) -> Parameters:
    """Draw initialisations and select the one of highest likelihood after a few EM steps (Biernacki et al. 2003).

    A sixth of them goes on after each selection, for twice as many steps.

    Args:
        key: One key.
        problem: The points.
        num_components: M.
        initialisations: How many are drawn; 1 is taken as it is, without a step of EM.

    Returns:
        The parameters that are left, means `[M, D]`.
    """
    if initialisations == 1:
        return initialise(key, problem, num_components)
    keys = jax.random.split(key, initialisations)
    parameters = jax.vmap(lambda key: initialise(key, problem, num_components))(keys)
    steps = SCREENING_STEPS
    while initialisations > 1:
        parameters, log_likelihood = jax.vmap(lambda now, n=steps: run_steps(problem, now, n))(parameters)
        # The likelihood after few steps ranks initialisations only roughly, so that several go on: of the default 32,
        # after 5 steps each, 6 take 10 more before one is left.
        initialisations, steps = math.ceil(initialisations / 6), 2 * steps
        parameters = _take(parameters, jax.lax.top_k(log_likelihood, initialisations)[1])
    return _take(parameters, 0)


def run_steps(problem: Problem, parameters: Parameters, steps: int) -> tuple[Parameters, Array]:
    """Run a number of EM steps; return also the mean log-likelihood of a point before the last one, a scalar."""
    unknown = jnp.zeros((), problem.points.dtype)
    return jax.lax.fori_loop(0, steps, lambda _, carry: run_step(problem, carry[0]), (parameters, unknown))


def run_until_converged(
    problem: Problem, parameters: Parameters, iterations: int, tolerance: float
) -> tuple[Parameters, Array, Array]:
    """Run EM until a step gains no more than the tolerance in mean log-likelihood.

    Args:
        problem: The points.
        parameters: Those to start from.
        iterations: The largest number of steps.
        tolerance: Least gain of a step to go on; a negative one takes all steps.

    Returns:
        The parameters, the mean log-likelihood of a point before the last step, and how many steps were taken.
    """
    if tolerance < 0 and iterations > 0:
        # No step but the last needs the likelihood.
        now = jax.lax.fori_loop(0, iterations - 1, lambda _, now: run_step(problem, now)[0], parameters)
        return *run_step(problem, now), jnp.int32(iterations)

    def unfinished(carry: tuple[Parameters, Array, Array, Array]) -> Array:
        _, _, gain, done = carry
        return (done < iterations) & (gain > tolerance)

    def advance(carry: tuple[Parameters, Array, Array, Array]) -> tuple[Parameters, Array, Array, Array]:
        now, last, _, done = carry
        now, log_likelihood = run_step(problem, now)
        return now, log_likelihood, log_likelihood - last, done + 1

    # An E step gives the likelihood of the parameters before it: what a step gained is known after the next one. Until
    # then the gain counts as infinite. EM itself never lowers the likelihood; where the floor of the variances or
    # rounding do, the loop ends too.
    unknown = jnp.asarray(-jnp.inf, problem.points.dtype)
    carry = parameters, unknown, -unknown, jnp.int32(0)
    now, log_likelihood, _, done = jax.lax.while_loop(unfinished, advance, carry)
    return now, log_likelihood, done


def relocate_component(problem: Problem, parameters: Parameters, log_likelihood: Array) -> tuple[Parameters, Array]:
    """Relocate one component to the point of lowest density, where that raises the likelihood.

    Each component is tried, with a few EM steps after it. An empty component is put to use so, and one of two that
    share a cluster finds another. It serves the purpose of the split and merge moves of Ueda et al. 2000.

    Args:
        problem: The points.
        parameters: Parameters that EM has converged to, means `[M, D]`.
        log_likelihood: Their mean log-likelihood of a point.

    Returns:
        The parameters of highest likelihood, and that likelihood.
    """
    # A point of low density is one that no component explains. Points of weight 0 need no explanation.
    density = jax.nn.logsumexp(joint_log_densities(problem, parameters), axis=0)
    lowest = problem.points[:, jnp.argmin(jnp.where(problem.weights > 0, density, jnp.inf))]
    count, size = parameters.means.shape
    narrow = jnp.ones(size, lowest.dtype) if problem.diagonal else jnp.eye(size, dtype=lowest.dtype)
    narrow = math.sqrt(RELOCATED_VARIANCE) * narrow

    def relocate(index: Array) -> tuple[Parameters, Array]:
        # The relocated component gets an average weight; those of the others keep their ratios.
        weights = parameters.weights.at[index].set(1 / count)
        means, factors = parameters.means.at[index].set(lowest), parameters.factors.at[index].set(narrow)
        return run_steps(problem, Parameters(weights / jnp.sum(weights), means, factors), RELOCATION_STEPS)

    candidates, found = jax.vmap(relocate)(jnp.arange(count, dtype=jnp.int32))
    best = jnp.argmax(found)
    gained = found[best] > log_likelihood
    now = jax.tree.map(lambda new, old: jnp.where(gained, new, old), _take(candidates, best), parameters)
    return now, jnp.maximum(found[best], log_likelihood)


def run_step(problem: Problem, parameters: Parameters) -> tuple[Parameters, Array]:
    """Run one EM step by moments; return also the mean log-likelihood of a point before it, a scalar."""
    # For any r_kp with the sum 1 over k, sum_p c_p sum_k r_kp log(w_k N_k(x_p) / r_kp) is a lower bound of the
    # log-likelihood. The E step makes it equal at the present parameters, the M step maximises it: the likelihood never
    # falls (Dempster et al. 1977).
    responsibilities, log_likelihood = expect(problem, parameters)
    return maximise(problem, responsibilities), log_likelihood


def expect(problem: Problem, parameters: Parameters) -> tuple[Array, Array]:
    """Take the E step: responsibilities times the points' weights `[M, P]`, and the mean log-likelihood of a point."""
    joint = joint_log_densities(problem, parameters)
    # Softmax and logsumexp over the components in one: both share the maximum, the exponentials and their sum.
    largest = jnp.max(joint, axis=0)
    shares = jnp.exp(joint - largest[None])
    total = jnp.sum(shares, axis=0)
    return shares * (problem.weights / total)[None], jnp.sum(problem.weights * (largest + jnp.log(total)))


def joint_log_densities(problem: Problem, parameters: Parameters) -> Array:
    """Compute `log(weight) + log N(x)` of every component at every point, `[M, P]`."""
    weights, means, factors = parameters
    return component_log_densities(log_weights(weights), means, factors, problem.points)


def maximise(problem: Problem, responsibilities: Array) -> Parameters:
    """Take the M step by moments: from weighted responsibilities `[M, P]`, with one matrix product."""
    size = len(problem.points)
    # GPUs multiply matrices in reduced precision by default, which differences of moments do not survive.
    moments = jnp.einsum("mp,fp->mf", responsibilities, problem.monomials, precision="highest")
    # The first monomial is 1, so that the first moment of a component is its weight. An empty component has moments of
    # zero: it gets the mean of all points, which is 0, and the floor as its covariance, where 0 / 0 would be NaN.
    weights = moments[:, 0]
    moments = moments[:, 1:] / jnp.maximum(weights, jnp.finfo(weights.dtype).tiny)[:, None]
    means, second = moments[:, :size], moments[:, size:]
    if problem.diagonal:
        return Parameters(weights, means, jnp.sqrt(jnp.maximum(second - means**2, 0) + problem.coarse_floor))
    # The second moments are those of the lower triangle, row by row.
    rows, columns = np.tril_indices(size)
    place = np.zeros((size, size), np.int32)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    covariances = (second - means[:, rows] * means[:, columns])[:, place]
    covariances = covariances + problem.coarse_floor * jnp.eye(size, dtype=means.dtype)[None]
    return Parameters(weights, means, cholesky(covariances, problem.coarse_floor))


def refine(problem: Problem, parameters: Parameters) -> tuple[Parameters, Array]:
    """Run the last EM steps, around the means; return also the mean log-likelihood of a point after them, a scalar."""

    def exact_step(_: int, now: Parameters) -> Parameters:
        return maximise_around_means(problem, expect(problem, now)[0])

    parameters = jax.lax.fori_loop(0, EXACT_STEPS, exact_step, parameters)
    return parameters, expect(problem, parameters)[1]


def maximise_around_means(problem: Problem, responsibilities: Array) -> Parameters:
    """Take the M step around the means, from weighted responsibilities `[M, P]`.

    Covariances are `sum_p c_p r_kp (x_p - m_k) (x_p - m_k)^T / w_k`, in which nothing cancels.
    """
    size = len(problem.points)
    weights = jnp.sum(responsibilities, axis=1)
    responsibilities = responsibilities / jnp.maximum(weights, jnp.finfo(weights.dtype).tiny)[:, None]
    means = jnp.einsum("mp,ip->mi", responsibilities, problem.points, precision="highest")
    centred = problem.points[None] - means[..., None]
    weighted = responsibilities[:, None] * centred
    if problem.diagonal:
        return Parameters(weights, means, jnp.sqrt(jnp.sum(weighted * centred, axis=-1) + problem.floor))
    if size <= UNROLLED:
        covariances = jnp.sum(weighted[:, :, None] * centred[:, None], axis=-1)
    else:
        covariances = jnp.einsum("mip,mjp->mij", weighted, centred, precision="highest")
    # The covariance is rounded too, in units of its largest entries, and must stay positive definite.
    floor = jnp.maximum(problem.floor, 8 * jnp.finfo(weights.dtype).eps * jnp.trace(covariances, axis1=1, axis2=2))
    covariances = covariances + floor[:, None, None] * jnp.eye(size, dtype=means.dtype)[None]
    # Without rounding no pivot would be below the floor that was added. Half of it is left for rounding.
    return Parameters(weights, means, cholesky(covariances, floor / 2))


def is_degenerate(problem: Problem, parameters: Parameters) -> Array:
    """Whether a component has fewer points than determine its covariance, or is as narrow as the floor: a scalar."""
    size = len(problem.points)
    pivots = parameters.factors if problem.diagonal else jnp.diagonal(parameters.factors, axis1=1, axis2=2)
    # The points count as 1 / sum c_p^2 points of equal weight (Kish's effective sample size).
    tiny = jnp.finfo(problem.weights.dtype).tiny
    counts = parameters.weights / jnp.maximum(jnp.sum(problem.weights**2), tiny)
    # A component on a single point has the floor for a variance; up to twice that standard deviation counts.
    narrow = jnp.min(pivots) ** 2 < 4 * problem.floor
    # D + 1 points in general position are the fewest whose covariance has full rank. A diagonal one needs two points.
    return narrow | (jnp.min(counts) < (2 if problem.diagonal else size + 1))


def _take(parameters: Parameters, index: Array | int) -> Parameters:
    return jax.tree.map(lambda part: part[index], parameters)
