"""The focal length by the metadata of images and videos, where they say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from diffpose_jax.video.focal_lengths import convert_focal, find_video_focal, read_image_focal
from diffpose_jax.video.frames import open_frames

KEY = "com.apple.quicktime.camera.focal_length.35mm_equivalent"


def photograph(path: Path, millimetres: float | None, size: tuple[int, int] = (64, 48)) -> Path:
    exif = Image.Exif()
    if millimetres is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimetres
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path, exif=exif)
    return path


def test_a_picture_of_the_shape_of_film_has_the_focal_length_of_its_width():
    # 36 mm on film 36 mm wide see 53 degrees: the focal length is the width.
    assert convert_focal(36, (3000, 2000)) == pytest.approx(3000)
    assert convert_focal(36, (2000, 3000)) == pytest.approx(3000)


def test_the_exif_data_of_an_image_give_it(tmp_path: Path):
    frames = open_frames(photograph(tmp_path / "a.jpg", 26))
    assert frames.focal == pytest.approx(26 / np.hypot(36, 24) * 80)
    assert open_frames(photograph(tmp_path / "b.jpg", None)).focal is None


@pytest.mark.parametrize("found", [0, 65535, 3])
def test_what_no_lens_has_is_not_believed(tmp_path: Path, found: int):
    with Image.open(photograph(tmp_path / "a.jpg", found)) as image:
        assert read_image_focal(image) is None
    assert find_video_focal({KEY: str(found)}) is None


def test_metadata_of_a_track_come_before_those_of_its_file():
    assert find_video_focal({KEY: "27"}, {KEY: "13"}) == 27
    assert find_video_focal({"title": "x"}, {KEY: "13.5"}) == 13.5
    assert find_video_focal({KEY: "-13"}, {KEY: "wide"}) is None
