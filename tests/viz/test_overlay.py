"""The overlay: people where the camera sees them, in the colours of their uncertainty, written as a film."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.viz.overlay import draw_frame, draw_legend, prepare_people, write_overlay
from diffpose_jax.viz.uncertainty import colour_uncertainty

from .lifted_people import HEIGHT, WIDTH, lifted_video, painted_frames

SIZE = (WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def video():
    return lifted_video(frames=20)[0]


def test_the_pose_is_drawn_where_the_keypoints_are(video):
    sure = video._replace(people=tuple(p._replace(poses=p.hypotheses[:, 0]) for p in video.people))
    halves = prepare_people(sure, (WIDTH // 2, HEIGHT // 2))
    for drawn, half, person in zip(prepare_people(sure, SIZE), halves, sure.people, strict=True):
        # The hypotheses differ from the truth mostly along the line of sight.
        assert np.median(np.abs(drawn.joints - person.keypoints)) < 8
        np.testing.assert_allclose(half.joints, drawn.joints / 2, atol=1e-3)


def test_only_people_in_the_frame_change_the_picture(video):
    picture = painted_frames(video)[0]
    people, legend = prepare_people(video, SIZE), draw_legend(video, SIZE)
    plain = draw_frame(picture, SIZE, [], 0, legend)
    late = draw_frame(picture, SIZE, people[1:], 0, legend)  # the second person comes at frame 4
    np.testing.assert_array_equal(plain, late)
    there = draw_frame(picture, SIZE, people[:1], 0, legend)
    changed = np.flatnonzero((there != plain).any(axis=(0, 2)))
    reach = people[0].hypotheses[0, ..., 0]
    assert changed.min() > reach.min() - 40
    assert changed.max() < reach.max() + 40


def test_a_joint_has_the_colour_of_its_uncertainty(video):
    people, legend = prepare_people(video, SIZE), draw_legend(video, SIZE)
    drawn = draw_frame(painted_frames(video)[0], SIZE, people[:1], 0, legend)
    ankle = video.people[0].skeleton.joints.index("left_ankle")
    person = people[0]._replace(seen=np.ones_like(people[0].seen))
    drawn = draw_frame(painted_frames(video)[0], SIZE, [person], 0, legend)
    x, y = np.round(person.joints[0, ankle]).astype(int)
    np.testing.assert_allclose(drawn[y, x].astype(int), person.colours[0, ankle].astype(int), atol=30)


def test_people_behind_the_camera_and_outside_the_picture_are_left_out(video):
    person = video.people[0]
    for root in (-person.root, person.root + np.array([1000.0, 0, 0])):
        gone = video._replace(people=(person._replace(root=root),))
        people = prepare_people(gone, SIZE)
        legend = draw_legend(video, SIZE)
        picture = painted_frames(video)[0]
        np.testing.assert_array_equal(
            draw_frame(picture, SIZE, people, 0, legend), draw_frame(picture, SIZE, [], 0, legend)
        )


def test_colours_go_from_blue_to_red_and_are_grey_where_nothing_is_known():
    sure, unsure, unknown = colour_uncertainty(np.array([0.0, 100.0, np.nan]), 100.0)
    assert sure[2] > sure[0]
    assert unsure[0] > unsure[2]
    assert np.ptp(unknown) == 0


def test_the_film_has_all_frames_in_the_size_asked_for(video, tmp_path):
    av = pytest.importorskip("av")
    path = write_overlay(video, painted_frames(video), tmp_path / "new" / "overlay.mp4")
    with av.open(str(path)) as film:
        shapes = [frame.to_ndarray(format="rgb24").shape for frame in film.decode(video=0)]
    assert shapes == [(HEIGHT, WIDTH, 3)] * 20
    assert [file.name for file in path.parent.iterdir()] == ["overlay.mp4"]


def test_a_place_that_cannot_be_written_is_one_line(video, tmp_path):
    pytest.importorskip("av")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_overlay(video, painted_frames(video), tmp_path / "file" / "overlay.mp4")


def test_without_pyav_a_line_says_what_to_install(video, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'diffpose_jax\[video\]'"):
        write_overlay(video, painted_frames(video), tmp_path / "overlay.mp4")


def test_an_overlay_that_fails_half_way_leaves_nothing(video, tmp_path):
    pytest.importorskip("av")

    def broken():
        yield painted_frames(video)[0]
        raise ValueError("the camera fell")

    with pytest.raises(ValueError, match="the camera fell"):
        write_overlay(video, broken, tmp_path / "overlay.mp4")
    assert not list(tmp_path.iterdir())


def test_a_video_without_frames_is_one_line_and_leaves_nothing(video, tmp_path):
    pytest.importorskip("av")
    with pytest.raises(UserError, match=r"clip\.mp4: expected frames to draw on, found none"):
        write_overlay(video, [], tmp_path / "overlay.mp4")
    assert not list(tmp_path.iterdir())
