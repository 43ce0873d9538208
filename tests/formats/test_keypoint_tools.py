"""The files of every tool give the keypoints that were put in them, person by person; mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from absl import logging as absl_logging

from diffpose_jax.data.sets.keypoints import read_keypoints, read_people
from diffpose_jax.errors import UserError
from diffpose_jax.formats.keypoint_tools import read_clips
from diffpose_jax.formats.tracks import LONGEST_GAP, Reading
from diffpose_jax.skeleton import H36M_17, SKELETONS

from .detector_files import CASES, FRAMES, SIZE, Seen, alphapose, coco_results, mediapipe_json, mmpose_video, watch

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def reading_of(case) -> Reading:
    return Reading() if case.sized else Reading(image_size=SIZE)


@every_case
def test_every_tool_gives_back_what_was_seen(tmp_path, case):
    seen = watch(case.layout, case.people)
    clips = read_clips(case.write(tmp_path, seen), reading_of(case))
    assert len(clips) == case.people
    for person, clip in enumerate(clips):
        assert clip.skeleton == SKELETONS[case.layout]
        assert tuple(clip.image_size) == SIZE
        there = seen.scores[person] > 0
        assert clip.keypoints.shape == seen.keypoints[person].shape
        np.testing.assert_allclose(clip.keypoints[there], seen.keypoints[person][there], atol=2e-3)
        found = np.ones(there.shape) if clip.scores is None else clip.scores
        np.testing.assert_array_equal(found > 0, there)
        if case.scored:
            np.testing.assert_allclose(found[there], seen.scores[person][there], atol=1e-6)


@every_case
def test_every_tool_becomes_seventeen_joints(tmp_path, case):
    seen = watch(case.layout, case.people)
    image_size = None if case.sized else SIZE
    clips = read_keypoints(case.write(tmp_path, seen), image_size=image_size)
    assert clips.skeleton == H36M_17
    assert clips.num_clips == case.people
    knee, source = H36M_17.joints.index("left_knee"), seen.layout.joints.index("left_knee")
    x, y = seen.keypoints[0, 3, source]
    np.testing.assert_allclose(clips.keypoints[3, knee], [x / 640 - 1, y / 640 - 720 / 1280], atol=1e-5)


@every_case
def test_a_tool_that_does_not_know_the_picture_asks_for_its_size(tmp_path, case):
    path = case.write(tmp_path, watch(case.layout, case.people))
    if case.sized:
        with pytest.raises(UserError, match=r"expected image_size 1280 x 720 as in the file, found 640 x 480"):
            read_clips(path, Reading(image_size=(640, 480)))
    else:
        with pytest.raises(UserError, match=r"expected the size of the image, .* --image_size 1920x1080"):
            read_clips(path)


@every_case
def test_a_picture_of_another_size_is_named(tmp_path, case):
    seen = watch(case.layout, case.people)
    if case.sized:
        return
    small = (1, 1) if case.layout == "blazepose33" else (200, 100)
    if case.layout != "blazepose33":
        with pytest.raises(UserError, match=r"expected keypoints within the image of 200 x 100"):
            read_clips(case.write(tmp_path, seen), Reading(image_size=small))


def test_people_are_read_with_their_frames_and_names(tmp_path):
    people = read_people(alphapose(tmp_path, watch("halpe26")), Reading(image_size=SIZE, fps=25))
    assert [track.name for track in people.tracks] == ["alphapose-results-1", "alphapose-results-2"]
    assert people.tracks[1].frames.tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    np.testing.assert_allclose(people.times, np.arange(12) / 25)
    assert people.image_size == SIZE


def test_people_who_cross_keep_their_identity_without_a_tracker(tmp_path):
    seen = watch("coco17", frames=12)
    order = np.random.default_rng(1).permuted(np.tile([0, 1], (12, 1)), axis=1)
    content = [
        {"frame_id": frame, "instances": [
            {"keypoints": seen.keypoints[person, frame].tolist(), "keypoint_scores": [0.9] * 17} for person in people
        ]} for frame, people in enumerate(order.tolist())
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    clips = read_clips(tmp_path / "a.json", Reading(image_size=SIZE))
    assert len(clips) == 2
    found = sorted(clips, key=lambda clip: clip.keypoints[0, 0, 0])
    expected = sorted(seen.keypoints, key=lambda person: person[0, 0, 0])
    for clip, person in zip(found, expected, strict=True):
        np.testing.assert_allclose(clip.keypoints, person, atol=1e-3)


def test_a_long_absence_starts_a_clip_and_takes_no_memory(tmp_path):
    seen = watch("coco17", 1)
    frames = [0, 1, 2, 3, LONGEST_GAP + 10, 10**8]
    content = [
        {"frame_id": frame, "instances": [{"keypoints": seen.keypoints[0, index].tolist(),
                                           "keypoint_scores": [0.9] * 17, "track_id": 1}]}
        for index, frame in enumerate(frames)
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    clips = read_clips(tmp_path / "a.json", Reading(image_size=SIZE))
    assert [(clip.start, len(clip.keypoints)) for clip in clips] == [(0, 4), (LONGEST_GAP + 10, 1), (10**8, 1)]
    with pytest.raises(UserError, match="expected at most 10000000 frames"):
        read_people(tmp_path / "a.json", Reading(image_size=SIZE))


def test_a_person_who_is_found_twice_in_a_frame_is_the_surer_one(tmp_path):
    seen = watch("coco17", 1, frames=2)
    good, bad = ({"keypoints": (seen.keypoints[0, 0] + shift).tolist(), "keypoint_scores": [score] * 17, "track_id": 3}
                 for shift, score in ((0, 0.9), (300, 0.5)))  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps([{"frame_id": 0, "instances": [bad, good]}]))
    (clip,) = read_clips(tmp_path / "a.json", Reading(image_size=SIZE))
    np.testing.assert_allclose(clip.keypoints[0], seen.keypoints[0, 0], atol=1e-6)


def test_normalised_openpose_is_scaled_to_the_picture(tmp_path):
    seen = watch("body25", 1)
    unit = Seen(seen.keypoints / SIZE, seen.scores, seen.layout)
    clips = read_clips(CASES["openpose"].write(tmp_path, unit), Reading(image_size=SIZE))
    np.testing.assert_allclose(clips[0].keypoints, seen.keypoints[0], atol=1e-6)


def test_landmarks_in_pixels_are_taken_as_they_are(tmp_path):
    seen = watch("blazepose33", 1)
    pixels = Seen(seen.keypoints * SIZE, seen.scores, seen.layout)  # the writer divides by the size
    clips = read_clips(mediapipe_json(tmp_path, pixels))
    np.testing.assert_allclose(clips[0].keypoints, seen.keypoints[0], atol=1e-6)


def test_world_landmarks_are_no_keypoints(tmp_path):
    seen = watch("blazepose33", 1)
    metres = (seen.keypoints - seen.keypoints.mean(axis=2, keepdims=True)) / 150 * SIZE
    with pytest.raises(UserError, match="pose_world_landmarks, which are metres"):
        read_clips(mediapipe_json(tmp_path, Seen(metres, seen.scores, seen.layout)))


def test_a_folder_with_a_file_of_each_image_is_one_recording(tmp_path):
    seen = watch("coco17")
    content = json.loads(alphapose(tmp_path, seen).read_text())
    (tmp_path / "parts").mkdir()
    for frame in range(FRAMES):
        people = [person for person in content if person["image_id"] == f"{frame}.jpg"]
        (tmp_path / "parts" / f"{frame}.json").write_text(json.dumps(people))
    clips = read_clips(tmp_path / "parts", Reading(image_size=SIZE))
    assert [len(clip.keypoints) for clip in clips] == [FRAMES, FRAMES]


def test_visibility_flags_of_annotations_are_not_scores(tmp_path):
    seen = watch("coco17", 1, frames=3)
    flags = np.tile([2.0, 1.0, 0.0, *[2.0] * 14], (1, 3, 1))
    (clip,) = read_clips(coco_results(tmp_path, Seen(seen.keypoints, flags, seen.layout)), Reading(image_size=SIZE))
    assert set(clip.scores[:, [0, 1]].ravel()) == {1.0}
    assert (clip.scores[:, 2] == 0).all()


def test_the_caller_may_name_a_layout_of_as_many_joints(tmp_path):
    path = mmpose_video(tmp_path, watch("h36m17"))
    clips = read_clips(path, Reading(layout="h36m17", image_size=SIZE))
    assert clips[0].skeleton == H36M_17
    with pytest.raises(UserError, match="expected 25 joints of body25, found 17"):
        read_clips(path, Reading(layout="body25", image_size=SIZE))


PERSON = [float(value) for value in range(51)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", [{"image_id": "0.jpg", "keypoints": PERSON[:50]}], "x, y, score of each joint, found 50 numbers"),
        ("a.json", [{"image_id": "0.jpg", "keypoints": PERSON[:48]}], "expected 17 (coco17), 26 (halpe26)"),
        ("a.json", [{"image_id": "0.jpg", "keypoints": ["x"] * 51}], "a list of numbers, found str 'x'"),
        ("a.json", [{"image_id": "0.jpg", "keypoints": [1e300] * 51}], "keypoints within 1e+06, found 1e+300"),
        ("a.json", [{"image_id": "0.jpg", "keypoints": [10**400] * 51}], "keypoints within 1e+06, found inf"),
        ("a.json", [{"image_id": "0.jpg", "keypoints": [-5.0] * 51}], "expected scores of 0 or more, found -5"),
        ("a.json", [{"image_id": "0.jpg", "keypoints": PERSON}, {"image_id": 3}], "entry 1: expected a person with"),
        ("a.json", [{"image_id": "0.jpg", "keypoints": PERSON, "idx": {}}], "expected an identity"),
        ("a.json", {"people": []}, "expected people, found none in any frame"),
        ("a.json", {"people": [{"pose": 3}]}, "expected pose_keypoints_2d"),
        ("a.json", {"instance_info": [{"frame_id": -1, "instances": []}]}, "a frame as a whole number"),
        ("a.json", {"instance_info": 3}, "expected instance_info as a list"),
        ("a.json", [{"instances": [{"keypoints": [[1, 2]] * 17, "keypoint_scores": [1.0]}]}], "expected 17 keypoint_"),
        (
            "a.json",
            {"annotations": [{"image_id": 1, "keypoints": PERSON}], "images": [{"id": 2}]},
            "among the images, found 1",
        ),
        ("a.json", {"annotations": {}}, "expected annotations as a list"),
        ("a.json", {"hello": 1}, "expected a keypoint file of MMPose"),
        ("a.json", 3, "expected a keypoint file of MMPose"),
        ("a.csv", "a,b\n1,2\n", "expected a table of DeepLabCut"),
        ("a.csv", "scorer,s,s\nbodyparts,tail,tail\ncoords,x,y\n0,1,2\n", "expected joints named such as left_hip"),
        ("a.csv", "frame,left_hip.x,left_hip.y\n0,1,2\n", "with both hips"),
        ("a.h5", "no", "expected SLEAP's analysis"),
        ("a.txt", "no", "found suffix '.txt'"),
    ],
)
def test_a_planted_mistake_is_one_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as refused:
        read_clips(path, Reading(image_size=SIZE))
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_an_empty_folder_and_one_without_people_are_named(tmp_path):
    with pytest.raises(UserError, match=r"expected a folder of \.json files"):
        read_clips(tmp_path)
    for frame in range(2):
        (tmp_path / f"{frame}_keypoints.json").write_text('{"people": []}')
    with pytest.raises(UserError, match="expected people, found none in any frame"):
        read_clips(tmp_path)


def test_what_seems_wrong_is_logged(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(absl_logging, "warning", lambda form, *words: said.append(form % words))
    seen = watch("coco17", 1)
    up = Seen(np.stack([seen.keypoints[..., 0], SIZE[1] - seen.keypoints[..., 1]], axis=-1), seen.scores, seen.layout)
    read_keypoints(mmpose_video(tmp_path, up), image_size=SIZE)
    assert any("y up in the file" in line for line in said)
    assert all(str(tmp_path) in line for line in said)


def test_paths_may_be_words(tmp_path):
    path = Path(alphapose(tmp_path, watch("coco17")))
    assert len(read_clips(str(path), Reading(image_size=SIZE))) == 2
