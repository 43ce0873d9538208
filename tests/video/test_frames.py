"""Frames are upright, in order, timed, one at a time, and of bounded size; what cannot be read is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

import av

from diffpose_jax.errors import UserError
from diffpose_jax.video.frames import open_frames

from .films import bright_corner, grey, write_video

KINDS = [(".mp4", "mpeg4"), (".mov", "mpeg4"), (".avi", "mpeg4"), (".webm", "libvpx-vp9")]


@pytest.mark.parametrize(("suffix", "codec"), KINDS)
def test_a_video_of_any_usual_kind_is_read_frame_by_frame(tmp_path, suffix, codec):
    levels = [40, 90, 140, 190]
    path = write_video(tmp_path / f"film{suffix}", [grey(level) for level in levels], codec=codec)
    frames = open_frames(path)
    assert frames.image_size == (64, 48)
    read = list(frames)
    assert [frame.index for frame in read] == [0, 1, 2, 3]
    assert [round(frame.image.mean() / 10) * 10 for frame in read] == levels
    np.testing.assert_allclose([frame.time for frame in read], [0, 0.25, 0.5, 0.75], atol=0.02)


def test_the_focal_length_that_a_phone_wrote_into_its_video_is_read(tmp_path):
    metadata = {"com.apple.quicktime.camera.focal_length.35mm_equivalent": "27"}
    frames = open_frames(write_video(tmp_path / "film.mov", [grey(50)] * 2, rotation=90, metadata=metadata))
    assert frames.image_size == (48, 64)
    assert frames.focal == pytest.approx(27 / np.hypot(36, 24) * 80)
    assert open_frames(write_video(tmp_path / "plain.mov", [grey(50)])).focal is None


def test_frames_of_a_variable_rate_keep_their_times(tmp_path):
    path = write_video(tmp_path / "film.mp4", [grey(50)] * 4, times=[10, 20, 60, 70])
    np.testing.assert_allclose([frame.time for frame in open_frames(path)], [0, 0.1, 0.5, 0.6], atol=1e-6)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (0, -1)), (-90, (-1, 0)), (180, (-1, -1))])
def test_a_picture_is_turned_as_the_phone_says(tmp_path, rotation, corner):
    """Corners are (column, row). A matrix that turns by 90 degrees to the left brings the upper left corner down."""
    path = write_video(tmp_path / "film.mp4", [bright_corner()], rotation=rotation)
    frames = open_frames(path)
    assert frames.image_size == ((64, 48) if rotation in (0, 180) else (48, 64))
    image = next(iter(frames)).image
    assert image.shape[:2] == frames.image_size[::-1]
    rows, columns = image.shape[0] // 8, image.shape[1] // 8
    levels = {(0, 0): image[rows, columns], (-1, 0): image[rows, -columns]}
    levels |= {(0, -1): image[-rows, columns], (-1, -1): image[-rows, -columns]}
    assert [place for place, colour in levels.items() if colour.mean() > 120] == [corner]


def test_large_pictures_are_reduced_and_say_by_how_much(tmp_path):
    frames = open_frames(write_video(tmp_path / "film.mp4", [grey(100, 320, 160)]), longest=80)
    frame = next(iter(frames))
    assert frames.image_size == (320, 160)
    assert frame.image.shape == (40, 80, 3)
    assert frame.scale == 4


def test_an_image_is_one_frame_turned_as_its_exif_data_say(tmp_path):
    image = Image.fromarray(bright_corner())
    exif = image.getexif()
    exif[0x0112] = 6  # the picture is to be turned by 90 degrees to the right
    image.save(tmp_path / "photo.jpg", exif=exif)
    frames = open_frames(tmp_path / "photo.jpg")
    (frame,) = frames
    assert frames.image_size == (48, 64)
    assert frame.image[4, -4].mean() > 200 > frame.image[4, 4].mean()


def test_images_of_a_folder_are_frames_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        Image.fromarray(grey(number * 10)).save(tmp_path / f"frame_{number}.png")
    frames = open_frames(tmp_path, fps=10)
    assert frames.expected == 3
    assert [(int(frame.image[0, 0, 0]), round(frame.time, 3)) for frame in frames] == [(10, 0), (20, 0.1), (100, 0.2)]


def test_images_of_a_folder_have_one_size(tmp_path):
    Image.fromarray(grey(10)).save(tmp_path / "1.png")
    Image.fromarray(grey(10, 32, 32)).save(tmp_path / "2.png")
    with pytest.raises(UserError, match=r"2\.png: expected 64 x 48 pixels as before, found \(32, 32\)"):
        list(open_frames(tmp_path))


def test_a_video_that_ends_in_the_middle_gives_the_frames_before(tmp_path):
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(10)]
    whole = write_video(tmp_path / "whole.avi", images).read_bytes()
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    assert 1 <= len(list(open_frames(tmp_path / "half.avi"))) < 10


def _silence(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: path / "nowhere.mp4", "found nothing"),
        (lambda path: _written(path / "noise.mp4", bytes(range(256)) * 20), "cannot be read"),
        (lambda path: _written(path / "empty.mp4", b""), "cannot be read"),
        (lambda path: _written(path / "noise.png", bytes(range(256))), "expected an image"),
        (lambda path: _silence(path / "silence.wav"), "without pictures"),
        (lambda path: write_video(path / "none.avi", []), "found none"),
        (lambda path: path, "expected images"),
    ],
)
def test_what_is_no_video_is_one_line(tmp_path, make, found):
    with pytest.raises(UserError, match=found) as error:
        list(open_frames(make(tmp_path)))
    assert "\n" not in str(error.value)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_without_the_decoder_a_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_video(tmp_path / "film.mp4", [grey(50)])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'diffpose_jax\[video\]'"):
        open_frames(path)
