"""Fits/s of mixtures of five Gaussians to 200 points in the plane, beside scikit-learn on one thread.

Twice, in turns: all with 50 EM steps; and scikit-learn as it comes against the settings below, which reach at least its
mean log-likelihood on the same points (both are part of the figure, evaluated alike in float64). Timed here is
`fit_mixtures`, from points to mixtures in numpy, on all cores; compilation stands apart. On CPU the ratio is that of
processor time, so that both sides count as one thread.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from timing import Report, Row, counts_cpu_time, interleaved, timed, turn_clocks

from diffpose_jax.mixtures.fitting import FitOptions, fit_mixtures
from diffpose_jax.mixtures.mixture import Mixture

COMPONENTS, POINTS, STEPS = 5, 200, 50
EQUAL_STEPS = FitOptions(iterations=STEPS, initialisations=1, relocations=0, tolerance=-1, variance_floor=1e-6)
EQUAL_LIKELIHOOD = FitOptions(iterations=25, initialisations=3, relocations=0, tolerance=1e-3, variance_floor=1e-6)
# Seconds that a turn of scikit-learn is to take, and on how many sets likelihoods are compared.
TURN_SECONDS = 0.5
COMPARED = 256


def random_points(count: int, seed: int = 0) -> np.ndarray:
    """Points `[count, 200, 2]`, each set of unit mean variance, from five round Gaussians that partly overlap."""
    rng = np.random.default_rng(seed)
    means = 2 * rng.standard_normal((count, COMPONENTS, 1, 2))
    points = means + 0.6 * rng.standard_normal((count, COMPONENTS, POINTS // COMPONENTS, 2))
    points = points.reshape(count, POINTS, 2)
    points -= points.mean(axis=1, keepdims=True)
    return points / np.sqrt(points.var(axis=1).mean(axis=-1))[:, None, None]


def benchmark_mixtures(count: int, turns: int, report: Report) -> None:
    """Reports fits/s and mean log-likelihood of both, at equal steps and at equal likelihood."""
    points = random_points(count)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        _compare("50 EM steps", points, EQUAL_STEPS, {"max_iter": STEPS, "tol": 0.0}, turns, report)
        _compare("as likely", points, EQUAL_LIKELIHOOD, {}, turns, report)


def _compare(
    name: str, points: np.ndarray, ours: FitOptions, theirs: dict[str, Any], turns: int, report: Report
) -> None:
    inputs = points.astype(np.float32)
    fit = lambda: fit_mixtures(jax.random.key(0), inputs, COMPONENTS, ours)  # noqa: E731
    found, first = timed(fit)
    seconds = timed(fit)[1]
    compared = points[:COMPARED]
    likelihood = score(Mixture(*(part[:COMPARED] for part in found.mixture)), compared)
    reference, took = timed(lambda: np.mean([_sklearn(p, i, theirs).score(p) for i, p in enumerate(compared)]))
    sets = max(2, round(TURN_SECONDS / took * len(compared)))
    calls: dict[str, Callable[[], Any]] = {
        "scikit-learn": lambda: [_sklearn(points[i % len(points)], i, theirs) for i in range(sets)],
        "here": fit,
    }
    turns_of = interleaved(calls, turns)
    counted = {what: part[..., int(counts_cpu_time())].ravel() for what, part in turns_of.items()}
    ratio = (counted["scikit-learn"] / sets) / (counted["here"] / len(points))
    case = f"{COMPONENTS} Gaussians, {POINTS} points, {name}, "
    report(
        Row("mixtures", f"{case}scikit-learn (log-likelihood {reference:.4f})", "fits", sets,
            **turn_clocks(turns_of["scikit-learn"]))
    )  # fmt: skip
    report(
        Row("mixtures", f"{case}here (log-likelihood {likelihood:.4f})", "fits", len(points),
            compile_seconds=max(0.0, first - seconds), ratio=ratio.tolist(), **turn_clocks(turns_of["here"]))
    )  # fmt: skip


def _sklearn(points: np.ndarray, seed: int, options: dict[str, Any]) -> GaussianMixture:
    return GaussianMixture(COMPONENTS, random_state=seed, **options).fit(points)


def score(mixture: Mixture, points: np.ndarray) -> float:
    """Compute the mean log density of points `[N, P, D]` under mixtures `[N]`, in float64."""
    with jax.enable_x64(True):
        mixture = Mixture(*(jnp.asarray(part, jnp.float64) for part in mixture))
        return float(jnp.mean(mixture.log_prob(jnp.asarray(points))))
