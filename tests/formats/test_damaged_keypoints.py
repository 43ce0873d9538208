"""Whatever a keypoint file holds ends in clips or in one line: truncated, changed, with numbers beyond all bounds."""

from __future__ import annotations

import functools
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffpose_jax.data.layout_checks import find_mistakes
from diffpose_jax.errors import UserError
from diffpose_jax.formats.keypoint_tools import read_clips
from diffpose_jax.formats.tracks import Reading

from .detector_files import CASES, SIZE, watch

READING = Reading(image_size=SIZE)
JSON_CASES = ["mmpose_video", "mmpose_demo_h36m", "alphapose", "coco_results", "coco_wholebody", "mediapipe_json"]
TABLE_CASES = ["deeplabcut", "deeplabcut_people", "sleap_csv", "mediapipe_csv"]
BINARY_CASES = ["videopose3d", "videopose3d_detector", "sleap_h5"]
thorough = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

numbers = st.one_of(
    st.integers(), st.sampled_from([10**18, 10**400, -(10**30), 0, 1]), st.floats(), st.booleans(), st.none()
)
values = st.recursive(
    st.one_of(numbers, st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["keypoints", "frame_id", "image_id", "instances", "people", "x", "y"]), inner),
    ),
    max_leaves=6,
)


@functools.cache
def content_of(name: str) -> bytes:
    """The bytes of a tool's file of three frames."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        return case.write(Path(folder), watch(case.layout, case.people, frames=3)).read_bytes()


def suffix_of(name: str) -> str:
    return {"sleap_h5": ".h5"}.get(name, ".npz" if name in BINARY_CASES else ".csv" if name in TABLE_CASES else ".json")


def read(path: Path) -> None:
    """Reads a file; anything but clips or one line is a failure."""
    try:
        clips = read_clips(path, READING)
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError("more than one line") from error
        return
    assert clips
    for clip in clips:
        assert np.isfinite(clip.keypoints).all()
        assert clip.scores is None or (np.isfinite(clip.scores).all() and (clip.scores >= 0).all())
    find_mistakes(clips)


@thorough
@given(data=st.data(), name=st.sampled_from([*JSON_CASES, *TABLE_CASES, *BINARY_CASES]))
def test_a_truncated_or_damaged_file(tmp_path_factory, data, name):
    content = bytearray(content_of(name))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)):
        if content:
            content[place % len(content)] = byte
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix_of(name)}"
    path.write_bytes(bytes(content))
    read(path)


def places_of(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of some parts of a JSON value: the first two entries of every list, every key."""
    steps = list(enumerate(value))[:2] if isinstance(value, list) else []
    parts = list(value.items()) if isinstance(value, dict) else steps
    return [path, *(place for key, part in parts for place in places_of(part, (*path, key)))]


@thorough
@given(data=st.data(), name=st.sampled_from(JSON_CASES))
def test_a_part_that_is_something_else(tmp_path_factory, data, name):
    content = json.loads(content_of(name))
    place = data.draw(st.sampled_from(places_of(content)))
    strange = data.draw(values)
    if not place:
        content = strange
    else:
        *above, key = place
        parent = functools.reduce(lambda part, step: part[step], above, content)
        parent[key] = strange
    path = tmp_path_factory.mktemp("changed") / "a.json"
    path.write_text(json.dumps(content))
    read(path)


@thorough
@given(content=values)
def test_any_json(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a.json"
    path.write_text(json.dumps(content))
    read(path)


@settings(thorough, max_examples=60)
@given(
    cells=st.lists(
        st.lists(st.sampled_from(["scorer", "bodyparts", "coords", "x", "y", "likelihood", "left_hip.x", "left_hip.y",
                                  "RHip_x", "frame", "", "1e999", "nan", "-3", "7", "é"]), max_size=6),
        max_size=6,
    )
)  # fmt: skip
def test_any_table(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("any") / "a.csv"
    path.write_text("\n".join(",".join(row) for row in cells), encoding="utf-8")
    read(path)


@pytest.mark.parametrize("frames", [[0, 10**8], [0, 99, 198, 297], list(range(0, 90 * 300, 90))])
def test_frames_far_apart_take_no_memory(tmp_path, frames):
    seen = watch("coco17", 1, frames=1)
    person = {"keypoints": seen.keypoints[0, 0].tolist(), "keypoint_scores": [0.9] * 17, "track_id": 1}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"frame_id": frame, "instances": [person]} for frame in frames]))
    read_clips(path, READING)  # imports and caches
    tracemalloc.start()
    try:
        clips = read_clips(path, READING)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * path.stat().st_size + 2_000_000
    assert sum(len(clip.keypoints) for clip in clips) <= 9 * len(frames) + 1000
