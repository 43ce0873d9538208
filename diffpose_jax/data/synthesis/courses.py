"""Courses of a quantity over time, from which the synthetic programmes are made: smooth, seeded, vectorised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FPS = 50.0

Rng = np.random.Generator


def ease(share: np.ndarray) -> np.ndarray:
    """The minimum-jerk course from 0 to 1 (Flash and Hogan 1985) over `share` in [0, 1]."""
    share = np.clip(share, 0, 1)
    return share**3 * (10 - 15 * share + 6 * share**2)


def glide(frames: int, times: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Passes through `values` `[K, ...]` at `times` `[K]` (s), minimum-jerk between them: `[T, ...]`."""
    times, values = np.asarray(times, np.float64), np.asarray(values, np.float64)
    now = np.arange(frames) / FPS
    leg = np.clip(np.searchsorted(times, now, side="right") - 1, 0, len(times) - 2)
    share = ease((now - times[leg]) / (times[leg + 1] - times[leg]))
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return values[leg] * (1 - share) + values[leg + 1] * share


def rhythm(rng: Rng, frames: int, rise: tuple[float, float], stay: tuple[float, float], rest: tuple[float, float]):
    """How far something done again and again has gone: bouts `[R, T]`, each from 0 to 1 and back, one after another."""
    start, bouts = rng.uniform(0.1, 0.5), []
    now = np.arange(frames) / FPS
    while start < frames / FPS - 0.5 or not bouts:
        up, hold, down = rng.uniform(*rise), rng.uniform(*stay), rng.uniform(*rise)
        bouts.append(ease((now - start) / up) - ease((now - start - up - hold) / down))
        start += up + hold + down + rng.uniform(*rest)
    return np.stack(bouts)


def wander(rng: Rng, frames: int, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Slow unrest `[T, *shape]` of standard deviation `scale`: three sines of 0.1 to 0.6 Hz."""
    now = np.arange(frames).reshape(-1, *[1] * len(shape)) / FPS
    waves = [np.sin(2 * np.pi * (rng.uniform(0.1, 0.6, shape) * now + rng.uniform(0, 1, shape))) for _ in range(3)]
    return scale * np.sqrt(2 / 3) * np.sum(waves, axis=0)


def smooth(values: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian smoothing along the first axis; `deviation` in frames."""
    reach = int(4 * deviation) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    padded = np.pad(values, [(reach, reach)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=0)
    return windows @ (kernel / kernel.sum())
