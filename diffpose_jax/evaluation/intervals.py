"""Intervals of figures: a bootstrap over subjects, because frames of one person are not independent measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

# Of a 95 % interval, by so many resamples with this seed.
CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 0
# How much larger than that of all known subjects a new subject's value is taken for at most.
MOST_RESERVE = 2.0

Interval = tuple[float, float]


def subject_interval(values: np.ndarray, subjects: Sequence[str]) -> Interval | None:
    """The 95 % interval of the mean over frames, by a bootstrap over subjects.

    As many subjects as there are are drawn with replacement, each with all its frames, `RESAMPLES` times; the interval
    is from the 2.5 % to the 97.5 % quantile of the means. It says how much the figure would change with other people
    like these. With few subjects it is rough, and rather too narrow.

    Args:
        values: `[M]` or `[M, K]`; NaN is a value that does not exist.
        subjects: The subject of each frame.

    Returns:
        Lower and upper end; None with fewer than two subjects that have values.
    """
    return run_interval([values], subjects)


def run_interval(runs: Sequence[np.ndarray], subjects: Sequence[str]) -> Interval | None:
    """The same where several runs, such as trainings from several seeds, measured the same frames.

    Runs are drawn with replacement too, so that the interval says how much the figure would change with other people
    and other seeds.

    Args:
        runs: `[M]` or `[M, K]` of each; NaN is a value that does not exist.
        subjects: The subject of each frame.
    """
    values = np.stack([np.asarray(run, np.float64).reshape(len(subjects), -1) for run in runs])
    names, person = np.unique(np.asarray(subjects), return_inverse=True)
    known = ~np.isnan(values)
    sums = np.stack([np.bincount(person, run, len(names)) for run in np.where(known, values, 0).sum(axis=2)])
    counts = np.stack([np.bincount(person, run, len(names)) for run in known.sum(axis=2)])
    somewhere = counts.sum(axis=0) > 0
    sums, counts = sums[:, somewhere], counts[:, somewhere]
    people = sums.shape[1]
    if people < 2:
        return None
    # Drawing K of K subjects with replacement draws their counts from a multinomial distribution with equal
    # probabilities.
    # A resample is how often each subject and each run was drawn; its mean is a ratio of two sums.
    rng = np.random.default_rng(_SEED)
    drawn = rng.multinomial(people, np.full(people, 1 / people), RESAMPLES)
    times = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), RESAMPLES)
    means = np.sum(times * (drawn @ sums.T), axis=1) / np.sum(times * (drawn @ counts.T), axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def bound_new_subject(values: np.ndarray) -> np.ndarray:
    """What nine in ten new subjects do not exceed, by what K subjects have: `[K, ...]`, above zero, `[...]`.

    The upper 90 % prediction bound for logarithms that are normally distributed over people. It is at least the largest
    of the values and at most `MOST_RESERVE` times that: two or three people say little of how much people differ.

    Args:
        values: NaN where one is not known; with a known one in each column.
    """
    logs = np.log(np.maximum(np.asarray(values, np.float64), 1e-12))
    count, largest = np.sum(~np.isnan(logs), axis=0), np.nanmax(logs, axis=0)
    # A new value minus the mean of K known ones has the variance s^2 (1 + 1 / K). With s estimated from the K values
    # their ratio has Student's t distribution with K - 1 degrees of freedom.
    freedom = np.maximum(count - 1, 1)
    mean = np.nanmean(logs, axis=0)
    std = np.sqrt(np.nansum(np.square(logs - mean), axis=0) / freedom)
    bound = mean + special.stdtrit(freedom, 0.9) * std * np.sqrt(1 + 1 / count)
    return np.exp(np.clip(bound, largest, largest + np.log(MOST_RESERVE)))


def format_interval(interval: Sequence[float] | None, digits: int = 1) -> str:
    """The interval in brackets behind a space, '' where there is none."""
    return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
