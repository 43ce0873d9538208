"""The video with the 3D people drawn back over it: the aggregate in the colours of its uncertainty, and the hypotheses.

Lines are drawn by Pillow at twice the size on the part of the picture that holds a person, which smooths their edges.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffpose_jax.errors import UserError
from diffpose_jax.people import LiftedPerson, LiftedVideo
from diffpose_jax.viz.film import FilmQuality, FilmWriter, Frames, fit_size, open_frames
from diffpose_jax.viz.uncertainty import colour_uncertainty, measure_uncertainty
from diffpose_jax.whole_files import write_whole

QUALITY = FilmQuality(long_side=960, rate=5_000_000, quality=23, keyframe_every=60)

_SMOOTHING = 2
_NEAREST = 0.05  # m; what is nearer to the camera or behind it is not drawn
_MARGIN = 24  # pixels around a person


class DrawnPerson(NamedTuple):
    """One person, ready to be drawn in every frame.

    Attributes:
        name: What is written above the head.
        rows: The row of every frame of the video, -1 where the person is not in it.
        bones: Pairs of joints.
        joints: Pixels of the aggregate in the film, `[T, J, 2]`; NaN behind the camera.
        hypotheses: The same of the hypotheses, `[T, H, J, 2]`.
        colours: Of the joints, `[T, J, 3]` 0..255.
        seen: Which joints the detector saw, `[T, J]`.
        depth: Distance of the root from the camera's plane, `[T]` m.
    """

    name: str
    rows: np.ndarray
    bones: tuple[tuple[int, int], ...]
    joints: np.ndarray
    hypotheses: np.ndarray
    colours: np.ndarray
    seen: np.ndarray
    depth: np.ndarray


def write_overlay(video: LiftedVideo, frames: Frames, path: str | os.PathLike, quality: FilmQuality = QUALITY) -> Path:
    """Write the frames with the reprojected people as an MP4.

    Args:
        video: The people, lifted.
        frames: The pictures of the video in the order of `video.times`, or a function that gives them.
        path: The file; replaced when it is complete.
        quality: Size and rate of the film.

    Returns:
        The path.

    Raises:
        UserError: There is no frame, the file cannot be written or PyAV is not installed.
    """
    path = Path(path)
    size = fit_size(*video.image_size, quality.long_side)
    people, legend = prepare_people(video, size), draw_legend(video, size)
    with write_whole(path) as part:
        with FilmWriter(part, size, video.times, quality) as film:
            for index, rgb in zip(range(len(video.times)), open_frames(frames), strict=False):
                film.write(draw_frame(rgb, size, people, index, legend))
        if not film.written:
            raise UserError(f"{video.source}: expected frames to draw on, found none")
    return path


def prepare_people(video: LiftedVideo, size: tuple[int, int]) -> list[DrawnPerson]:
    """Project everybody into a film of a size, all frames at once."""
    scale = measure_uncertainty(video)
    drawn = []
    for person, millimetres in zip(video.people, scale.values, strict=True):
        rows = np.full(len(video.times), -1)
        rows[person.frames] = np.arange(len(person.frames))
        drawn.append(
            DrawnPerson(
                name=person.name,
                rows=rows,
                bones=person.skeleton.bones,
                joints=_project(video, person.poses + person.root[:, None], size),
                hypotheses=_project(video, person.hypotheses + person.root[:, None, None], size),
                colours=np.round(255 * colour_uncertainty(millimetres, scale.top)).astype(np.uint8),
                seen=np.asarray(person.seen, bool),
                depth=_depth(person),
            )
        )
    return drawn


def _depth(person: LiftedPerson) -> np.ndarray:
    return np.asarray(person.root)[:, 2]


def _project(video: LiftedVideo, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    depth = np.where(points[..., 2:] > _NEAREST, points[..., 2:], np.nan)
    pixels = video.focal * points[..., :2] / depth + np.asarray(video.image_size) / 2
    return (pixels * (np.asarray(size) / np.asarray(video.image_size))).astype(np.float32)


def draw_frame(
    rgb: np.ndarray, size: tuple[int, int], people: list[DrawnPerson], index: int, legend: Image.Image
) -> np.ndarray:
    """Draw the people of one frame.

    Args:
        rgb: The picture `[h, w, 3]` uint8.
        size: Width and height of the film.
        people: From `prepare_people`.
        index: Which frame of the video it is.
        legend: From `draw_legend`.

    Returns:
        `[size[1], size[0], 3]` uint8.
    """
    picture = Image.fromarray(rgb)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    here = [(person, int(person.rows[index])) for person in people if person.rows[index] >= 0]
    for person, row in sorted(here, key=lambda pair: -pair[0].depth[pair[1]]):
        _draw_person(picture, person, row)
    picture.paste(legend, (12, size[1] - legend.height - 12), legend)
    return np.asarray(picture)


def _draw_person(picture: Image.Image, person: DrawnPerson, row: int) -> None:
    joints, hypotheses = person.joints[row], person.hypotheses[row]
    points = np.concatenate([joints, hypotheses.reshape(-1, 2)])
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return
    low = np.maximum(np.floor(points.min(axis=0)) - _MARGIN, 0).astype(int)
    high = np.minimum(np.ceil(points.max(axis=0)) + _MARGIN, picture.size).astype(int)
    if not (high > low).all():
        return
    box = (*low.tolist(), *high.tolist())
    part = picture.crop(box).resize(tuple((high - low) * _SMOOTHING), Image.Resampling.NEAREST)
    brush = ImageDraw.Draw(part, "RGBA")
    unit = _SMOOTHING * max(1.0, max(picture.size) / 960)
    _draw_bones(brush, person, (hypotheses - low) * _SMOOTHING, unit)
    _draw_body(brush, person, row, (joints - low) * _SMOOTHING, unit)
    picture.paste(part.reduce(_SMOOTHING), box)
    top = joints[np.nanargmin(joints[:, 1])] if np.isfinite(joints).any() else points[0]
    _write_name(picture, person.name, top)


def _draw_bones(brush: ImageDraw.ImageDraw, person: DrawnPerson, hypotheses: np.ndarray, unit: float) -> None:
    """All hypotheses as thin white lines, fainter where there are more of them."""
    opacity = int(np.clip(1000 / max(len(hypotheses), 1), 24, 160))
    ends = hypotheses[:, np.array(person.bones)].reshape(-1, 4)
    for segment in ends[np.isfinite(ends).all(axis=1)].tolist():
        brush.line(segment, fill=(255, 255, 255, opacity), width=round(unit))


def _draw_body(brush: ImageDraw.ImageDraw, person: DrawnPerson, row: int, joints: np.ndarray, unit: float) -> None:
    """The aggregate: bones in two halves, each in the colour of its end, joints that were not seen as rings."""
    colours = [tuple(colour) for colour in person.colours[row].tolist()]
    known = np.isfinite(joints).all(axis=1)
    bones = [(child, parent) for child, parent in person.bones if known[child] and known[parent]]
    for child, parent in bones:
        brush.line([*joints[child], *joints[parent]], fill=(0, 0, 0, 110), width=round(4.6 * unit))
    for child, parent in bones:
        middle = (joints[child] + joints[parent]) / 2
        brush.line([*joints[child], *middle], fill=colours[child], width=round(3 * unit))
        brush.line([*middle, *joints[parent]], fill=colours[parent], width=round(3 * unit))
    radius = 3.6 * unit
    for joint in np.flatnonzero(known):
        x, y = joints[joint].tolist()
        fill = colours[joint] if person.seen[row, joint] else (20, 20, 20)
        outline = (255, 255, 255) if person.seen[row, joint] else colours[joint]
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=outline, width=round(unit))


@functools.cache
def _font(height: float) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, which has the letters of most alphabets."""
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), height)


def _write_name(picture: Image.Image, name: str, top: np.ndarray) -> None:
    brush = ImageDraw.Draw(picture, "RGBA")
    x, y = float(top[0]), max(float(top[1]) - 14, 8)
    font = _font(max(12.0, max(picture.size) / 70))
    brush.text((x, y), name, font=font, anchor="ms", fill="white", stroke_width=2, stroke_fill=(0, 0, 0, 160))


def draw_legend(video: LiftedVideo, size: tuple[int, int]) -> Image.Image:
    """The colour bar of the film, `RGBA`."""
    scale = measure_uncertainty(video)
    height = max(12.0, max(size) / 75)
    font = _font(height)
    width = int(max(font.getlength(scale.label), 12 * height)) + 16
    legend = Image.new("RGBA", (width, int(4.1 * height)), (15, 18, 24, 170))
    brush = ImageDraw.Draw(legend)
    brush.text((8, 0.3 * height), scale.label, font=font, fill="white")
    bar = np.linspace(0, scale.top, width - 16)
    colours = np.round(255 * colour_uncertainty(bar, scale.top)).astype(np.uint8)
    rows = np.repeat(colours[None], max(4, int(0.6 * height)), axis=0)
    legend.paste(Image.fromarray(rows), (8, int(1.7 * height)))
    for share, anchor in ((0.0, "la"), (1.0, "ra")):
        text = f"{scale.top:.0f} mm or more" if share else "0"
        brush.text((8 + share * (width - 16), 2.5 * height), text, font=font, fill="white", anchor=anchor)
    return legend
