"""The frames of a video, of images or of a camera, one after the other, upright and with their times."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from diffpose_jax.errors import UserError
from diffpose_jax.video.focal_lengths import convert_focal, find_video_focal, read_image_focal

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LONGEST = 1280  # pixels: larger pictures are reduced to it, for a person's crop has 256 in the end
FOLDER_FPS = 30.0  # of images in a folder, which have no times
# How cameras are called and read by FFmpeg: the name of its device and of the first camera.
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}


@dataclass(frozen=True)
class Frame:
    """One upright picture.

    Attributes:
        index: Its place in the video, from 0.
        time: Seconds since the first frame.
        image: `[h, w, 3]` uint8, RGB, perhaps reduced.
        scale: Pixels of the original picture in one pixel of `image`.
    """

    index: int
    time: float
    image: np.ndarray
    scale: float


@dataclass
class Frames:
    """The frames of one source, decoded while one iterates over them; once only.

    Attributes:
        source: What is read: a file's name.
        image_size: Width and height of the upright picture in pixels.
        expected: How many frames the file says it has; None where that is not known. Phones often do not know.
        damaged: How many parts of the file could not be decoded so far, and were left out.
        focal: Focal length in pixels by the metadata of the file, or of the first image; None: they do not say.
    """

    source: str
    image_size: tuple[int, int]
    expected: int | None
    frames: Iterator[Frame]
    damaged: int = 0
    focal: float | None = None

    def __iter__(self) -> Iterator[Frame]:
        return self.frames


def open_frames(source: str | os.PathLike, longest: int = LONGEST, fps: float = FOLDER_FPS) -> Frames:
    """Open a video, an image, a folder of images, or a camera.

    Only the first frame is read at once, and one is in memory at a time. A picture is turned as the phone that filmed
    it says, pixels that are not square are made so, and one larger than `longest` is reduced.

    Args:
        source: A file that FFmpeg reads (.mp4, .mov, .webm, .avi and others), an image, a folder, or `camera:0`.
        longest: Most pixels along the longer side of the images.
        fps: Frames per second of the images of a folder, which are taken in the order of the numbers in their names.

    Raises:
        UserError: There is no such file, it cannot be decoded, or it has no frame; or the package av is missing.
    """
    name = os.fspath(source)
    if re.fullmatch(r"camera:\S+", name):
        return _open_video(name, longest)
    path = Path(name)
    if path.is_dir():
        images = [each for each in path.iterdir() if each.suffix.lower() in IMAGES]
        if not images:
            raise UserError(f"{path}: expected images ({', '.join(IMAGES)}) in the folder, found none")
        return _open_images(path, sorted(images, key=_numbers), longest, fps)
    if not path.is_file():
        raise UserError(f"{path}: expected a video, an image or a folder of images, found nothing")
    if path.suffix.lower() in IMAGES:
        return _open_images(path, [path], longest, fps)
    return _open_video(name, longest)


def _numbers(path: Path) -> tuple:
    """A key that sorts names by the numbers in them: frame_2 before frame_10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name))


def _open_images(source: Path, paths: list[Path], longest: int, fps: float) -> Frames:
    """Images as frames; all must have the size of the first."""
    size, focal = _read_image(paths[0]).size, _read_focal(paths[0])

    def read() -> Iterator[Frame]:
        for index, path in enumerate(paths):
            picture = _read_image(path)
            if picture.size != size:
                raise UserError(f"{path}: expected {size[0]} x {size[1]} pixels as before, found {picture.size}")
            reduced = _reduced(size, longest)
            if reduced != size:
                picture = picture.resize(reduced, Image.Resampling.BOX)
            yield Frame(index, index / fps, np.asarray(picture), size[0] / reduced[0])

    return Frames(str(source), size, len(paths), read(), focal=None if focal is None else convert_focal(focal, size))


def _read_image(path: Path) -> Image.Image:
    """An image, RGB, turned as its EXIF data say."""
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: expected an image, found a file that cannot be read ({error})") from None


def _read_focal(path: Path) -> float | None:
    with Image.open(path) as opened:
        return read_image_focal(opened)


def _open_video(name: str, longest: int) -> Frames:
    """The first picture track of a file, or a camera, by FFmpeg."""
    container = _open_container(name)
    stream = next(iter(container.streams.video), None)
    if stream is None:
        raise UserError(f"{name}: expected a video, found a file without pictures")
    if stream.codec_context is None:
        raise UserError(f"{name}: expected a video that FFmpeg decodes, found one of a codec it does not know")
    stream.thread_type = "AUTO"
    frames = Frames(name, (0, 0), stream.frames or _count(stream), iter(()))
    decoded = _decode(container, stream, frames)
    first = next(decoded, None)
    if first is None:
        found = "a damaged file" if frames.damaged else "none"
        raise UserError(f"{name}: expected at least one frame, found {found}")
    frames.image_size = _upright_size(first, stream.sample_aspect_ratio)
    if (focal := find_video_focal(stream.metadata, container.metadata)) is not None:
        frames.focal = convert_focal(focal, frames.image_size)
    frames.frames = _to_frames(first, decoded, frames.image_size, longest, stream.average_rate)
    return frames


def _open_container(name: str) -> Any:
    try:
        import av
    except ImportError:
        raise UserError(
            "reading a video: expected the package av, found none; pip install 'diffpose_jax[video]'"
        ) from None
    try:
        if name.startswith("camera:"):
            device, pattern = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
            return av.open(pattern.format(name.removeprefix("camera:")), format=device)
        return av.open(name)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{name}: expected a video, found a file that cannot be read ({reason})") from None


def _count(stream: Any) -> int | None:
    """How many frames a stream has by its duration and rate, where it says both."""
    duration = stream.duration * stream.time_base if stream.duration else None
    if duration is None and stream.container.duration:
        duration = stream.container.duration / 1e6
    return round(duration * stream.average_rate) if duration and stream.average_rate else None


def _decode(container: Any, stream: Any, frames: Frames) -> Iterator[Any]:
    """Decoded pictures; parts that cannot be decoded are counted and left out."""
    import av

    with container:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                yield from packet.decode()
            except StopIteration:
                return
            except av.error.EOFError:
                return
            except av.error.InvalidDataError:
                frames.damaged += 1
            except av.error.FFmpegError as error:
                raise UserError(f"{frames.source}: expected a video, found one that breaks off ({error})") from None


def _upright_size(picture: Any, aspect: Any) -> tuple[int, int]:
    """Width and height as a picture of pixels of an aspect ratio is shown: with square pixels, turned."""
    width, height = round(picture.width * float(aspect or 1)), picture.height
    return (height, width) if _quarter_turns(picture) % 2 else (width, height)


def _quarter_turns(picture: Any) -> int:
    """By how many quarter turns to the left a picture is to be turned for showing."""
    return round(picture.rotation / 90) % 4


def _to_frames(first: Any, others: Iterator[Any], size: tuple[int, int], longest: int, rate: Any) -> Iterator[Frame]:
    """Turn, reduce and time pictures, which are all brought to the size of the first."""
    step = 1 / float(rate) if rate else 1 / FOLDER_FPS
    turns = _quarter_turns(first)
    reduced = _reduced(size, longest)
    stored = reduced[::-1] if turns % 2 else reduced
    begin, last = first.time or 0.0, -step
    for index, picture in enumerate(itertools.chain([first], others)):
        small = picture.reformat(width=stored[0], height=stored[1], format="rgb24", interpolation="AREA")
        image = np.ascontiguousarray(np.rot90(small.to_ndarray(), turns))
        # Times of damaged files may be missing, or go back.
        time = last + step if picture.time is None or picture.time - begin <= last else picture.time - begin
        yield Frame(index, time, image, size[0] / reduced[0])
        last = time


def _reduced(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """The size with its longer side at most `longest`, in the same shape."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
