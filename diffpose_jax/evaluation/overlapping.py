"""Lifting clips by windows that overlap, so that poses do not step where one window ends and the next begins.

Windows side by side know nothing of each other: at their border a joint may jump by several times what it moves
otherwise. Here each window overlaps the next by half, a frame's poses are averages over the windows that hold it, and
the weights fall linearly from a window's middle to nothing beyond its ends. Hypothesis h is averaged with hypothesis h,
which has the same noise in all windows of a clip (`Sampling.noise`), so that it stays one motion. What averaging takes
away from the hypotheses' spread is given back, frame by frame. No published protocol does this: theirs have windows
side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffpose_jax.evaluation.aggregation import ALL, is_estimate
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.lifters.base import Lifter

# Names beside those of the outputs: the weighted sum of the hypotheses' total variances, m^2, and that of the weights.
_VARIANCE, _WEIGHT = "variance over windows", "weight of windows"


def blends_windows(lifter: Lifter, job: Job) -> bool:
    """Whether windows can be blended: they give several frames, and hypotheses keep their noise through a clip."""
    # A pattern of occlusion hides joints window by window: what it hides in one would be seen in the next.
    whole = job.sampling.noise == "clip" and job.occlusion == "none"
    return whole and lifter.frames > 1 and not lifter.middle_frame


def ask_for_blending(job: Job) -> Job:
    """The job with the outputs that blending needs: all hypotheses, and the estimates that were asked for."""
    return job.replace(outputs=(ALL, *(name for name in job.outputs if is_estimate(name))))


def weigh_windows(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is summed over windows, of the outputs `{output: [B, F, ...]}` of B windows.

    The outputs by the weights of their frames, the hypotheses' total variance likewise, `[B, F]` m^2, and the weights.
    """
    windows, frames = arrays[ALL].shape[:2]
    weights = _weigh(frames)
    found = {name: weights.reshape(-1, *[1] * (array.ndim - 2)) * array for name, array in arrays.items()}
    variance = weights * _total_variance(arrays[ALL])
    return {**found, _VARIANCE: variance, _WEIGHT: np.broadcast_to(weights, (windows, frames))}


def add_windows(
    rows: Mapping[str, np.ndarray], places: np.ndarray, inside: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> None:
    """Adds what `weigh_windows` gave to the sums of frames.

    Args:
        rows: The sums `{name: [n, ...]}`.
        places: The row of each frame of the windows, `[B, F]`.
        inside: Which frames lie in their clip, `[B, F]`.
        arrays: `{name: [B, F, ...]}`.
    """
    for window, here in enumerate(inside):  # a frame is in several windows, but only once in each
        for name, array in arrays.items():
            rows[name][places[window, here]] += array[window, here]


def average_windows(sums: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """The outputs `{output: [n, ...]}` of frames by their sums over all windows.

    Estimates are averaged as hypotheses are; `first` is the first of the averaged hypotheses. Hypotheses have the
    windows' spread around their mean.
    """
    weight = sums[_WEIGHT]
    found = {
        name: total / weight.reshape(-1, *[1] * (total.ndim - 1))
        for name, total in sums.items() if name not in (_VARIANCE, _WEIGHT)
    }  # fmt: skip
    # The average of samples x and y of one variance v and correlation c has the variance v (1 + c) / 2 < v.
    middle, left = found[ALL].mean(axis=1, keepdims=True), _total_variance(found[ALL])
    factor = np.sqrt(np.divide(sums[_VARIANCE] / weight, left, out=np.ones_like(left), where=left > 1e-12))
    found[ALL] = middle + factor[:, None, None, None] * (found[ALL] - middle)
    return {name: found[name] if name in found else found[ALL][:, 0] for name in outputs}


def _weigh(frames: int) -> np.ndarray:
    """The weights `[F]` of a window's frames, which fall linearly from its middle."""
    place = np.arange(frames)
    # The first and the last frame of a window have a weight of 1 and not of 0: no other window may hold them.
    return np.minimum(place + 1, frames - place).astype(np.float32)


def _total_variance(hypotheses: np.ndarray) -> np.ndarray:
    """The variance over the hypotheses `[..., H, J, 3]`, summed over joints and coordinates, `[...]` m^2."""
    return hypotheses.var(axis=-3).sum(axis=(-2, -1))
