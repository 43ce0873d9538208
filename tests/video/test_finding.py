"""From a video to tracks: with a detector of another maker, and with BlazePose on a few frames of the sample clip."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from diffpose_jax.errors import UserError
from diffpose_jax.people import Track
from diffpose_jax.skeleton import BLAZEPOSE_33, COCO_17, H36M_17
from diffpose_jax.video.blazepose import tiles
from diffpose_jax.video.detectors import get_detector
from diffpose_jax.video.finding import PeopleFinder, choose, find_people
from diffpose_jax.video.frames import Frame, open_frames

from .films import grey, write_video

CLIP = Path(__file__).parents[2] / "experiments" / "data" / "beam.mp4"
FIGURE = np.random.default_rng(0).uniform(0, 1, (17, 2)) * [10, 30]


def two_walkers(image: np.ndarray, time: float) -> list[np.ndarray]:
    """A detector that sees two people walk towards each other, the second without a score and not all the time."""
    first = np.concatenate([FIGURE + np.array([10 + 20 * time, 10]), np.full((17, 1), 0.8)], axis=1)
    second = FIGURE * 0.9 + np.array([90 - 20 * time, 12])
    second[3] = np.nan
    return [first] if 0.9 < time < 1.1 else [second, first]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "film.mp4", [grey(50, 128, 64)] * 9)


def test_another_detector_takes_the_place_of_blazepose(film):
    calls = []
    found = find_people(film, detector=two_walkers, progress=lambda done, expected: calls.append((done, expected)))
    assert found.image_size == (128, 64)
    assert [track.name for track in found.tracks] == ["person 0", "person 1"]
    first, second = found.tracks
    assert first.skeleton is COCO_17
    assert first.mixture is None
    assert first.frames.tolist() == list(range(9))
    assert second.frames.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    np.testing.assert_allclose(first.keypoints[4], FIGURE + np.array([30, 10]), atol=1e-3)
    assert second.scores[0].tolist() == [1, 1, 1, 0] + [1] * 13
    assert calls == [(done, 9) for done in range(1, 10)]


def test_keypoints_of_a_reduced_picture_are_those_of_the_original():
    finder = PeopleFinder((2560, 1280), lambda image, time: [FIGURE])
    found = finder.update(Frame(0, 0.0, np.zeros((640, 1280, 3), np.uint8), 2.0))
    np.testing.assert_allclose(found[0].keypoints, 2 * FIGURE)


def test_a_detector_is_given_by_its_import_path_and_names_its_layout(film, monkeypatch):
    module = types.ModuleType("another_detector")
    monkeypatch.setitem(sys.modules, "another_detector", module)
    module.detect = lambda image, time: [np.concatenate([FIGURE + 10, np.ones((17, 1))], axis=1)]
    module.detect.layout = "h36m17"
    assert find_people(film, detector="another_detector.detect").tracks[0].skeleton is H36M_17


@pytest.mark.parametrize("path", ["detect", "no_such_package.detect", "math.pi"])
def test_an_import_path_that_leads_nowhere_is_one_line(path):
    with pytest.raises(UserError, match="detector: expected the import path"):
        get_detector(path)


def test_keypoints_of_another_layout_are_refused(film):
    with pytest.raises(UserError, match=r"\[17, 2 or 3\] for coco17, found \[33, 3\]"):
        find_people(film, detector=lambda image, time: [np.zeros((33, 3))])


def test_nobody_is_no_tracks(film):
    found = find_people(film, people="largest", detector=lambda image, time: [])
    assert found.tracks == ()
    assert len(found.times) == 9


def test_who_is_found_for_a_moment_only_is_left_out(tmp_path):
    film = write_video(tmp_path / "film.mp4", [grey(50)] * 50, times=list(range(0, 150, 3)))
    found = find_people(film, detector=lambda image, time: [FIGURE] + ([FIGURE + 200] if 0.5 < time < 0.6 else []))
    assert [len(track.frames) for track in found.tracks] == [50]


def test_one_picture_is_enough(tmp_path):
    Image.fromarray(grey(50)).save(tmp_path / "one.png")
    assert len(find_people(tmp_path / "one.png", detector=lambda image, time: [FIGURE]).tracks) == 1


def _track(name: str, size: float, frames: int) -> Track:
    keypoints = np.tile(FIGURE * size, (frames, 1, 1))
    return Track(name, np.arange(frames), keypoints, np.ones((frames, 17)), COCO_17)


def test_people_are_chosen_by_size_or_identity():
    tracks = (_track("person 0", 1, 10), _track("person 1", 2, 10), _track("person 2", 3, 2))
    assert choose(tracks, "all") == tracks
    assert choose(tracks, "largest") == (tracks[1],)
    assert choose(tracks, "person 2") == choose(tracks, 2) == choose(tracks, "2") == (tracks[2],)
    with pytest.raises(UserError, match="one of person 0, person 1, person 2, found 'person 7'"):
        choose(tracks, "person 7")


@pytest.mark.parametrize("size", [(1280, 720), (405, 720), (300, 300), (20, 1000)])
def test_tiles_cover_the_picture(size):
    covered = np.zeros(size[::-1], bool)
    for left, top, right, bottom in tiles(size):
        assert right - left == bottom - top
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        covered[top:bottom, left:right] = True
    assert covered.all()


@pytest.fixture(scope="module")
def clip_tracks() -> dict[str, Track]:
    pytest.importorskip("ai_edge_litert")
    frames = open_frames(CLIP)
    finder = PeopleFinder(frames.image_size, heatmaps=False)
    for frame in itertools.islice(frames, 12):
        finder.update(frame)
    return {track.name: track for track in finder.finish()}


def test_blazepose_finds_the_man_on_the_beam_and_the_woman_behind_him(clip_tracks):
    assert list(clip_tracks) == ["person 0", "person 1"]
    assert len(clip_tracks["person 0"].frames) == 12
    assert clip_tracks["person 0"].skeleton is BLAZEPOSE_33


@pytest.mark.parametrize(
    ("joint", "place"),
    [
        ("nose", (238, 224)),
        ("left_shoulder", (263, 251)),
        ("right_shoulder", (174, 243)),
        ("left_hip", (237, 372)),
        ("right_hip", (181, 366)),
        ("left_ankle", (207, 543)),
        ("right_ankle", (165, 504)),
    ],
)
def test_joints_are_where_one_sees_them_in_the_first_frame(clip_tracks, joint, place):
    """Places read off the picture by eye, in pixels of 540 x 960; the face is blurred there."""
    found = clip_tracks["person 0"].keypoints[0, BLAZEPOSE_33.joints.index(joint)]
    assert np.linalg.norm(found - np.array(place)) < 20
