"""Smooth courses of a quantity over time, of which the synthetic programmes are made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FPS = 50.0

Rng = np.random.Generator


def ease(share: np.ndarray) -> np.ndarray:
    """The minimum-jerk course from 0 to 1 (Flash and Hogan 1985) over `share` in [0, 1]."""
    # Of all courses that start and end at rest, 10 s^3 - 15 s^4 + 6 s^5 has the least squared third derivative.
    share = np.clip(share, 0, 1)
    return share**3 * (10 - 15 * share + 6 * share**2)


def glide(frames: int, times: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Pass through `values` `[K, ...]` at `times` `[K]` (s), minimum-jerk between them: `[T, ...]`."""
    moments, values = np.asarray(times, np.float64), np.asarray(values, np.float64)
    now = np.arange(frames) / FPS
    leg = np.clip(np.searchsorted(moments, now, side="right") - 1, 0, len(moments) - 2)
    share = ease((now - moments[leg]) / (moments[leg + 1] - moments[leg]))
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return values[leg] * (1 - share) + values[leg + 1] * share


Range = tuple[float, float]


def draw_bouts(rng: Rng, frames: int, rise: Range, stay: Range, rest: Range) -> np.ndarray:
    """How far something done again and again has gone: R bouts, each from 0 to 1 and back, one after another.

    Args:
        rng: Source of the durations.
        frames: T.
        rise: Range of the seconds from 0 to 1, and of those back.
        stay: Range of the seconds at 1.
        rest: Range of the seconds between two bouts.

    Returns:
        The bouts `[R, T]`, at least one.
    """
    start, bouts = rng.uniform(0.1, 0.5), list[np.ndarray]()
    now = np.arange(frames) / FPS
    while start < frames / FPS - 0.5 or not bouts:
        up, hold, down = rng.uniform(*rise), rng.uniform(*stay), rng.uniform(*rise)
        bouts.append(ease((now - start) / up) - ease((now - start - up - hold) / down))
        start += up + hold + down + rng.uniform(*rest)
    return np.stack(bouts)


def draw_unrest(rng: Rng, frames: int, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Draw slow unrest: the sum of three sines of 0.1 to 0.6 Hz.

    Args:
        rng: Source of frequencies and phases.
        frames: T.
        shape: Shape of what moves.
        std: Its standard deviation over time.

    Returns:
        Courses `[T, *shape]`.
    """
    now = np.arange(frames).reshape(-1, *[1] * len(shape)) / FPS
    waves = [np.sin(2 * np.pi * (rng.uniform(0.1, 0.6, shape) * now + rng.uniform(0, 1, shape))) for _ in range(3)]
    # A sine of random phase has the variance 1/2, three independent ones 3/2.
    return std * np.sqrt(2 / 3) * np.sum(waves, axis=0)


def smooth(values: np.ndarray, std: float) -> np.ndarray:
    """Smooth along the first axis by a Gaussian of standard deviation `std`, in frames."""
    reach = int(4 * std) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
    padded = np.pad(values, [(reach, reach)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=0)
    return windows @ (kernel / kernel.sum())
