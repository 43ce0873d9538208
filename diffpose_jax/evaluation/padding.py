"""A few sizes for sets of any length, so that clips of a hundred lengths are lifted by a handful of compiled programs.

Shapes are part of a compiled program: without padding every new number of frames or windows compiles the sampler anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffpose_jax.data.windows import DeviceClips, Windows
from diffpose_jax.evaluation.window_cameras import WindowCameras

# Larger sets stay as they are: there are few of them, and copying costs more.
LARGEST = 1 << 14


def pad_count(count: int) -> int:
    """The number of frames or windows to pad to: the next of 64, 256, 1024, ..., or `count` above `LARGEST`."""
    size = 64
    while size < count:
        size *= 4
    return size if size <= LARGEST else count


def pad_batch(count: int, most: int) -> int:
    """The windows of a compiled call for `count` of them: the next of 1, 4, 16, 32, 64, ..., and at most `most`."""
    size = 1
    while size < count:
        size *= 4 if size < 16 else 2
    return min(size, most)


def pad_clips(clips: DeviceClips) -> DeviceClips:
    """The same frames, followed by copies of the last one that no window reads."""
    per_frame = {name: value for name, value in clips._asdict().items() if value is not None and name != "cameras"}
    return clips._replace(**{name: _pad(value) for name, value in per_frame.items()})


def pad_windows(windows: Windows, cameras: WindowCameras | None) -> tuple[Windows, WindowCameras | None]:
    """The same windows and their cameras, followed by copies of the last one that nobody asks for."""
    padded = Windows(*(_pad(part) for part in windows))
    return padded, None if cameras is None else cameras._replace(camera=_pad(cameras.camera))


def _pad(array: Any) -> Any:
    missing = pad_count(len(array)) - len(array)
    # In numpy: padding on the device would be a compiled program for every length itself.
    host = np.asarray(array)
    return np.concatenate([host, np.repeat(host[-1:], missing, axis=0)]) if missing else array
