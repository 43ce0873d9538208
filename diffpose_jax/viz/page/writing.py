"""Writing the page: its parts put together into one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.people import LiftedVideo
from diffpose_jax.viz.film import FilmQuality, FilmWriter, Frames, fit_size, open_frames
from diffpose_jax.viz.page.content import describe_video
from diffpose_jax.whole_files import write_whole

# In the order in which the page runs them.
SCRIPTS = ("data.js", "view.js", "bodies.js", "stage.js", "picture.js", "plot.js", "panels.js", "keys.js", "main.js")

# The film may not grow beyond this many bytes before base64, whatever its length.
FILM_BYTES = 10_000_000
_LEAST_RATE = 100_000


def write_page(
    video: LiftedVideo,
    path: str | os.PathLike,
    frames: Frames | None = None,
    truth: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write one HTML file that shows the people of a video in 3D, with their uncertainty; it needs no network.

    Args:
        video: The people, lifted.
        path: The file; replaced atomically.
        frames: The pictures of the video in the order of `video.times`, or a function that gives them; they are
            embedded as a small film. None leaves them out.
        truth: By a person's name, the true joints `[T, J, 3]` m in the camera's frame, absolute or root-relative; NaN
            where they are not known. The page then shows the errors.

    Returns:
        The path.

    Raises:
        UserError: The file cannot be written, `truth` does not fit, or frames are given and PyAV is not installed.
    """
    path = Path(path)
    text = compose_page(video, frames, truth)
    with write_whole(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def compose_page(
    video: LiftedVideo, frames: Frames | None = None, truth: Mapping[str, np.ndarray] | None = None
) -> str:
    """The text of the page; arguments as in `write_page`."""
    film = b"" if frames is None or not len(video.times) else encode_film(video, frames)
    parts = {
        "title": html.escape(f"{video.source}: people in 3D"),
        "style": _read("assets/page.css"),
        "data": escape_json(describe_video(video, truth)),
        "film": base64.b64encode(film).decode(),
        "library": f"/*\n{_read('vendor/THREE_LICENSE')}*/\n{_read('vendor/three.min.js')}",
        "scripts": "\n".join(_read(f"assets/{name}") for name in SCRIPTS),
    }
    # One pass: what a value holds is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("assets/page.html"))


def escape_json(content: Any) -> str:
    """JSON that can stand inside a script element, whatever its texts are."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def encode_film(video: LiftedVideo, frames: Frames) -> bytes:
    """The frames as a small MP4 of bounded size, each at its time; frames beyond the last time are left out."""
    seconds = max(float(video.times[-1] - video.times[0]), 1.0)
    quality = FilmQuality()
    rate = int(min(quality.rate, max(_LEAST_RATE, 8 * FILM_BYTES / seconds)))
    # At a low rate a large picture is only blocks.
    long_side = quality.long_side if rate > 300_000 else quality.long_side // 2
    file = io.BytesIO()
    size = fit_size(*video.image_size, long_side)
    with FilmWriter(file, size, video.times, quality._replace(rate=rate, long_side=long_side)) as film:
        for _, rgb in zip(video.times, open_frames(frames), strict=False):
            film.write(rgb)
    return file.getvalue()


def _read(name: str) -> str:
    return (resources.files("diffpose_jax.viz.page") / name).read_text(encoding="utf-8")
