"""Motion at a constant frame rate, which BVH, TRC, MOT and C3D files assume and videos need not have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.people import LiftedPerson, LiftedVideo

DEFAULT_FRAME_TIME = 1 / 30  # seconds, of a video of one frame
_JITTER = 0.02  # of a frame's time, by which decoders round


class Timeline(NamedTuple):
    """The frames of a file: `times [N]` seconds, `frame_time` seconds apart, sampled from `source [T]` seconds."""

    times: np.ndarray
    frame_time: float
    source: np.ndarray

    @property
    def resampled(self) -> bool:
        """Whether the frames of the file are others than those of the person."""
        return self.times is not self.source

    def sample(self, values: np.ndarray) -> np.ndarray:
        """Values `[T, ...]` of the person's frames at the times of the file, `[N, ...]`, linear in between."""
        if not self.resampled:
            return values
        after = np.clip(np.searchsorted(self.source, self.times), 1, max(len(self.source) - 1, 1))
        after = np.minimum(after, len(self.source) - 1)
        before = np.maximum(after - 1, 0)
        width = np.maximum(self.source[after] - self.source[before], 1e-12)
        share = np.clip((self.times - self.source[before]) / width, 0, 1)
        share = share.reshape(-1, *(1,) * (values.ndim - 1))
        return values[before] * (1 - share) + values[after] * share


def lay_out_frames(video: LiftedVideo, person: LiftedPerson) -> Timeline:
    """The frames of a person's file: the video's own where they are evenly spaced and none is missing.

    Otherwise the median time between the frames of the video is the frame time, from the first to the last frame that
    shows the person: motion through frames that do not show the person is a straight line.
    """
    gaps = np.diff(video.times)
    frame_time = float(np.median(gaps)) if len(gaps) and np.median(gaps) > 0 else DEFAULT_FRAME_TIME
    times = np.asarray(person.times, np.float64)
    if np.all(np.abs(np.diff(times) - frame_time) <= _JITTER * frame_time):
        return Timeline(times, frame_time, times)
    count = int(np.floor((times[-1] - times[0]) / frame_time + 0.5)) + 1
    return Timeline(times[0] + frame_time * np.arange(count), frame_time, times)
