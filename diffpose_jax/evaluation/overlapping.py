"""Lifting clips by windows that overlap, so that poses do not step where one window ends and the next begins.

Windows side by side know nothing of each other: at their border a joint may jump by several times what it moves
otherwise. Here each window overlaps the next by half, a frame's poses are averages over the windows that hold it, and
the weights fall linearly from a window's middle to nothing beyond its ends. Hypothesis h is averaged with hypothesis h,
which has the same noise in all windows of a clip (`Sampling.noise`), so that it stays one motion. What averaging takes
away from the hypotheses' spread is given back, frame by frame. No published protocol does this: `jobs` measures those.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import device_clips, overlapping_windows
from diffpose_jax.evaluation.aggregation import ALL, is_estimate
from diffpose_jax.evaluation.jobs import Job, frames_of, lift_windows
from diffpose_jax.evaluation.window_cameras import window_cameras
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.progress import Progress


def blends_windows(lifter: Lifter, job: Job) -> bool:
    """Whether windows can be blended: they give several frames, and hypotheses keep their noise through a clip."""
    return lifter.frames > 1 and not lifter.middle_frame and job.sampling.noise == "clip"


def predict_blended(
    label: str, lifter: Lifter, variables: Variables, clips: ClipSet, job: Job
) -> dict[str, np.ndarray]:
    """Lifts all frames of a set: all hypotheses `[N, H, J, 3]` and the job's estimates `[N, J, 3]`, root-relative m.

    Estimates are averaged over the windows as hypotheses are; `first` is the first of the averaged hypotheses.

    Args:
        label: What the progress bar is called.
        lifter: A method of sequences.
        variables: Its variables.
        clips: The set.
        job: How they are lifted; its outputs are 'all' and names of `AGGREGATES`.
    """
    windows = overlapping_windows(clips, lifter.frames)
    indices, inside = frames_of(windows, lifter)
    weights = _weigh(lifter.frames)
    estimates = tuple(name for name in job.outputs if is_estimate(name))
    asked = job.replace(outputs=(ALL, *estimates))
    chunks = lift_windows(lifter, variables, device_clips(clips), windows, asked, window_cameras(clips, windows))
    sums: _Sums | None = None
    done = 0
    with Progress(label, clips.num_frames, "frames") as progress:
        for ids, arrays in chunks:
            sums = sums or _Sums.zeros(clips.num_frames, arrays)
            for row, window in enumerate(ids):
                here = inside[window]
                sums.add(indices[window, here], weights[here], {name: one[row, here] for name, one in arrays.items()})
            done += len(ids)
            progress.update(round(done / len(indices) * clips.num_frames))
    assert sums is not None, "a set has at least one clip"
    found = sums.average()
    return {name: found[name] if name in found else found[ALL][:, 0] for name in job.outputs}


def _weigh(frames: int) -> np.ndarray:
    """The weights `[F]` of a window's frames, which fall linearly from its middle."""
    place = np.arange(frames)
    # The first and the last frame of a window have a weight of 1 and not of 0: no other window may hold them.
    return np.minimum(place + 1, frames - place).astype(np.float32)


class _Sums(NamedTuple):
    """Weighted sums over windows, of N frames.

    Attributes:
        outputs: `{output: [N, ...]}`.
        variance: The weighted sum of the hypotheses' total variances, `[N]` m^2.
        weight: The sum of the weights, `[N]`.
    """

    outputs: dict[str, np.ndarray]
    variance: np.ndarray
    weight: np.ndarray

    @classmethod
    def zeros(cls, frames: int, arrays: dict[str, np.ndarray]) -> _Sums:
        outputs = {name: np.zeros((frames, *array.shape[2:]), np.float32) for name, array in arrays.items()}
        return cls(outputs, np.zeros(frames, np.float32), np.zeros(frames, np.float32))

    def add(self, frames: np.ndarray, weights: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Adds one window's outputs `[K, ...]` of different frames `[K]`."""
        for name, array in arrays.items():
            self.outputs[name][frames] += weights.reshape(-1, *[1] * (array.ndim - 1)) * array
        self.variance[frames] += weights * _total_variance(arrays[ALL])
        self.weight[frames] += weights

    def average(self) -> dict[str, np.ndarray]:
        """The averages over the windows; hypotheses have the windows' spread around their mean."""
        found = {name: total / self.weight.reshape(-1, *[1] * (total.ndim - 1)) for name, total in self.outputs.items()}
        # The average of samples x and y of one variance v and correlation c has the variance v (1 + c) / 2 < v.
        middle, left = found[ALL].mean(axis=1, keepdims=True), _total_variance(found[ALL])
        factor = np.sqrt(np.divide(self.variance / self.weight, left, out=np.ones_like(left), where=left > 1e-12))
        found[ALL] = middle + factor[:, None, None, None] * (found[ALL] - middle)
        return found


def _total_variance(hypotheses: np.ndarray) -> np.ndarray:
    """The variance over the hypotheses `[K, H, J, 3]`, summed over joints and coordinates, `[K]` m^2."""
    return hypotheses.var(axis=1).sum(axis=(1, 2))
