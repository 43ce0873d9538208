"""Intervals of figures: a bootstrap over subjects, because frames of one person are not independent measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of a 95 % interval, by so many resamples with this seed.
CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 0

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
    # A resample is how often each subject and each run was drawn; its mean is a ratio of two sums.
    rng = np.random.default_rng(_SEED)
    drawn = rng.multinomial(people, np.full(people, 1 / people), RESAMPLES)
    times = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), RESAMPLES)
    means = np.sum(times * (drawn @ sums.T), axis=1) / np.sum(times * (drawn @ counts.T), axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def format_interval(interval: Sequence[float] | None, digits: int = 1) -> str:
    """The interval in brackets behind a space, '' where there is none."""
    return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
