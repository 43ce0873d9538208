"""Tiny videos for tests, written by PyAV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    rotation: int | None = None,
    codec: str = "mpeg4",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write images `[h, w, 3]` (RGB, even sides) as a video; times are in hundredths of a second, else 25 apart."""
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"} if metadata else {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=Fraction(4))
        height, width = images[0].shape[:2] if len(images) else (48, 64)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        stream.codec_context.bit_rate = 4_000_000
        if rotation is not None:
            stream.set_display_rotation(rotation)
        container.start_encoding()
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (times[index] if times is not None else 25 * index), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def bright_corner(width: int = 64, height: int = 48) -> np.ndarray:
    """A dark picture whose upper left corner is white."""
    image = np.full((height, width, 3), 20, np.uint8)
    image[: height // 4, : width // 4] = 240
    return image


def grey(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture of one level of grey."""
    return np.full((height, width, 3), level, np.uint8)
