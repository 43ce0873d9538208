"""Writing frames as a video that browsers play."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np

from diffpose_jax.errors import UserError

# RGB pictures `[h, w, 3]` uint8, upright, the first one that of the first time of the video; or what makes them.
Frames = Iterable[np.ndarray] | Callable[[], Iterable[np.ndarray]]

# All of these may stand in an MP4 file. Browsers play the first three.
_CODECS = ("libx264", "libopenh264", "libvpx-vp9", "mpeg4")
_TICKS_PER_SECOND = 90_000
_TICK = Fraction(1, _TICKS_PER_SECOND)


class FilmQuality(NamedTuple):
    """How large a film is and how well it is kept.

    Attributes:
        long_side: Greatest width or height in pixels; larger frames are made smaller.
        rate: Greatest mean rate, bits per second.
        quality: Constant rate factor of x264 and VP9: less is better.
        keyframe_every: Frames from one key frame to the next; a browser that jumps decodes that many.
    """

    long_side: int = 640
    rate: int = 1_200_000
    quality: int = 27
    keyframe_every: int = 15


def open_frames(frames: Frames) -> Iterator[np.ndarray]:
    """Iterate over frames from the first one."""
    return iter(frames() if callable(frames) else frames)


def fit_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height whose longer one is at most `long_side`; both even, as the codecs need them."""
    scale = min(1.0, long_side / max(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


class FilmWriter:
    """Writes frames at their own times as MP4 into a file; a context manager.

    Args:
        file: Where to: a path, or a file open for writing and seekable.
        size: Width and height, both even; frames of another size are resized.
        times: Time of every frame, seconds, ascending.
        options: Quality and rate.

    Raises:
        UserError: PyAV is not installed.
    """

    def __init__(self, file: IO[bytes] | Path, size: tuple[int, int], times: np.ndarray, options: FilmQuality) -> None:
        self._av = import_av()
        # In a file of its own the index stands first, so that a player can start before it has read all.
        named = isinstance(file, Path)
        flags = {"movflags": "+faststart"} if named else {}
        self._container: Any = self._av.open(str(file) if named else file, "w", format="mp4", options=flags)
        ticks = np.round((np.asarray(times, np.float64) - times[0]) * _TICKS_PER_SECOND).astype(np.int64)
        # Times that repeat are a tick apart: encoders want them to rise.
        steps = np.maximum(np.diff(ticks, prepend=-1), 1)
        self._ticks = np.cumsum(steps) - 1
        self._stream = self._open_stream(size, options)
        self.written = 0

    def _open_stream(self, size: tuple[int, int], options: FilmQuality) -> Any:
        length = max(1, len(self._ticks) - 1)
        per_second = length * _TICKS_PER_SECOND / max(int(self._ticks[-1]), 1) if len(self._ticks) > 1 else 25.0
        rate = max(1, math.ceil(per_second))
        codec = next(name for name in _CODECS if name in self._av.codecs_available)
        stream = self._container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = _TICK
        stream.codec_context.gop_size = options.keyframe_every
        stream.codec_context.max_b_frames = 0
        stream.codec_context.thread_type = "AUTO"
        highest = {"maxrate": str(options.rate), "bufsize": str(2 * options.rate)}
        if codec == "libx264":
            stream.codec_context.options = {"preset": "veryfast", "crf": str(options.quality), **highest}
        elif codec == "libvpx-vp9":
            stream.codec_context.options = {"deadline": "realtime", "cpu-used": "8", "crf": str(options.quality + 8)}
            stream.codec_context.bit_rate = options.rate
        else:
            stream.codec_context.bit_rate = options.rate
        return stream

    def write(self, rgb: np.ndarray) -> None:
        """Add the next frame, `[h, w, 3]` uint8 RGB."""
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        picture = picture.reformat(width=self._stream.width, height=self._stream.height, format="yuv420p")
        picture.pts, picture.time_base = int(self._ticks[self.written]), _TICK
        self._container.mux(self._stream.encode(picture))
        self.written += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.written:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def import_av() -> Any:
    """PyAV, or a `UserError` that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise UserError("video: expected the package av, found none; pip install 'diffpose_jax[video]'") from error
    return av
