"""Two people who walk, seen by a pinhole camera, and the files in which each tool would have written them down."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.data.sets.synthetic import generate_motion
from diffpose_jax.skeleton import H36M_17, SKELETONS, Skeleton

SIZE = (1280, 720)
FRAMES = 12


class Seen(NamedTuple):
    """What a detector saw: keypoints `[P, T, J, 2]` pixels, scores `[P, T, J]`, 0 in frames without a person."""

    keypoints: np.ndarray
    scores: np.ndarray
    layout: Skeleton


def watch(layout: str, people: int = 2, frames: int = FRAMES, seed: int = 0) -> Seen:
    """People beside each other in the layout of a detector; the second one is missing in frames 4 and 5."""
    motions = generate_motion(seed, subjects=people, frames=60, actions=["walk"])
    skeleton = SKELETONS[layout]
    rng = np.random.default_rng(seed)
    keypoints = np.stack([
        _project(_to_layout(motion.positions[10 : 10 + frames], skeleton), 2.5 * index - 1.25 * (people - 1))
        for index, motion in enumerate(motions)
    ])  # fmt: skip
    scores = rng.uniform(0.4, 0.95, keypoints.shape[:3])
    if people > 1:
        scores[1, 4:6] = 0
    return Seen(keypoints.round(3), scores.round(4), skeleton)


def _to_layout(world: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Positions `[T, 17, 3]` in another layout; what Human3.6M has no joint for lies near one that it has."""
    at = {name: world[:, index] for index, name in enumerate(H36M_17.joints)}
    face = at["neck_nose"] + (at["head_top"] - at["neck_nose"]) * 0.2
    nearest = {"toe": "ankle", "heel": "ankle", "foot_index": "ankle", "hand": "wrist", "pinky": "wrist",
               "index": "wrist", "thumb": "wrist"}  # fmt: skip
    made = []
    for number, name in enumerate(skeleton.joints):
        side = name.split("_")[0]
        near = next((f"{side}_{joint}" for part, joint in nearest.items() if part in name), None)
        alike = at.get(name, at["thorax"] if name == "neck" else at.get(near, face) if near else face)
        made.append(alike if name in at or name == "neck" else alike + 0.02 * np.cos([number, 2 * number, 3 * number]))
    return np.stack(made, axis=1)


def _project(world: np.ndarray, beside: float) -> np.ndarray:
    """Pixels `[T, J, 2]` of a person whose first pelvis is 5 m before a camera at 1 m height."""
    place = world - [*world[0, :, :2].mean(axis=0), 1.0]
    x, depth, up = place[..., 0] + beside, place[..., 1] + 5.0, place[..., 2]
    return np.stack([640 + 900 * x / depth, 360 - 900 * up / depth], axis=-1)


def flat(seen: Seen, person: int, frame: int) -> list[float]:
    """x1, y1, c1, x2, ..."""
    return np.column_stack([seen.keypoints[person, frame], seen.scores[person, frame]]).ravel().tolist()


def shown(seen: Seen, frame: int) -> list[int]:
    """The people of a frame."""
    return [person for person in range(len(seen.keypoints)) if seen.scores[person, frame].any()]


def _mmpose_instances(seen: Seen, frame: int, track: bool) -> list[dict[str, Any]]:
    return [
        {
            "keypoints": seen.keypoints[person, frame].tolist(),
            "keypoint_scores": seen.scores[person, frame].tolist(),
            "bbox": [[1.0, 2.0, 3.0, 4.0]],
            "bbox_score": 0.9,
            **({"track_id": person + 7} if track else {}),
        }
        for person in shown(seen, frame)
    ]


def mmpose_video(folder: Path, seen: Seen, track: bool = False) -> Path:
    frames = range(seen.keypoints.shape[1])
    content = [{"frame_id": frame, "instances": _mmpose_instances(seen, frame, track)} for frame in frames]
    return _write(folder / "walk.json", content)


def mmpose_demo(folder: Path, seen: Seen) -> Path:
    frames = range(seen.keypoints.shape[1])
    content = [{"frame_id": frame + 1, "instances": _mmpose_instances(seen, frame, True)} for frame in frames]
    names = {str(index): name for index, name in enumerate(seen.layout.joints)}
    return _write(folder / "results_walk.json", {"meta_info": {"keypoint_id2name": names}, "instance_info": content})


def mmpose_folder(folder: Path, seen: Seen) -> Path:
    inner = folder / "walk" / "predictions"
    inner.mkdir(parents=True)
    for frame in range(seen.keypoints.shape[1]):
        _write(inner / f"{frame:06d}.json", _mmpose_instances(seen, frame, False))
    return folder / "walk"


def alphapose(folder: Path, seen: Seen, track: bool = True) -> Path:
    content = [
        {
            "image_id": f"{frame}.jpg",
            "category_id": 1,
            "keypoints": flat(seen, person, frame),
            "score": 2.9,
            "box": [1.0, 2.0, 3.0, 4.0],
            **({"idx": person + 1} if track else {}),
        }
        for frame in range(seen.keypoints.shape[1])
        for person in shown(seen, frame)
    ]
    return _write(folder / "alphapose-results.json", content)


def openpose_folder(folder: Path, seen: Seen) -> Path:
    (folder / "walk").mkdir()
    for frame in range(seen.keypoints.shape[1]):
        people = [{"person_id": [-1], "pose_keypoints_2d": flat(seen, person, frame), "face_keypoints_2d": [],
                   "hand_left_keypoints_2d": [], "pose_keypoints_3d": []} for person in shown(seen, frame)]  # fmt: skip
        _write(folder / "walk" / f"walk_{frame:012d}_keypoints.json", {"version": 1.3, "people": people})
    return folder / "walk"


def coco_results(folder: Path, seen: Seen) -> Path:
    content = [
        {"image_id": 100 + frame, "category_id": 1, "keypoints": flat(seen, person, frame), "score": 0.9}
        for frame in range(seen.keypoints.shape[1])
        for person in shown(seen, frame)
    ]
    return _write(folder / "results.json", content)


def coco_wholebody(folder: Path, seen: Seen) -> Path:
    frames = seen.keypoints.shape[1]
    images = [{"id": 50 - frame, "file_name": f"img_{frame:04d}.png", "width": SIZE[0], "height": SIZE[1]}
              for frame in range(frames)]  # fmt: skip
    annotations = []
    for frame in range(frames):
        for person in shown(seen, frame):
            values = flat(seen, person, frame)
            parts = np.split(np.array(values), np.cumsum([17 * 3, 6 * 3, 68 * 3, 21 * 3]))
            names = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
            annotations.append({"image_id": 50 - frame, "id": len(annotations), "track_id": person, "category_id": 1,
                                **{name: part.tolist() for name, part in zip(names, parts, strict=True)}})  # fmt: skip
    return _write(folder / "whole.json", {"images": images, "annotations": annotations, "categories": []})


def mediapipe_json(folder: Path, seen: Seen) -> Path:
    frames = []
    for frame in range(seen.keypoints.shape[1]):
        unit = seen.keypoints[0, frame] / SIZE
        landmarks = [{"x": x, "y": y, "z": 0.1, "visibility": s} for (x, y), s in zip(
            unit.tolist(), seen.scores[0, frame].tolist(), strict=True)]  # fmt: skip
        frames.append({"pose_landmarks": landmarks})
    return _write(folder / "landmarks.json", {"width": SIZE[0], "height": SIZE[1], "fps": 30, "frames": frames})


def mediapipe_csv(folder: Path, seen: Seen) -> Path:
    header = ["frame"]
    header += [f"{name.upper()}_{part}" for name in seen.layout.joints for part in ("x", "y", "z", "visibility")]
    rows = []
    for frame in range(seen.keypoints.shape[1]):
        unit = seen.keypoints[0, frame] / SIZE
        table = np.column_stack([unit, np.zeros(len(unit)), seen.scores[0, frame]])
        rows.append([frame, *table.ravel().tolist()])
    return _table(folder / "landmarks.csv", [header, *rows])


def videopose3d(folder: Path, seen: Seen) -> Path:
    path = folder / "data_2d_custom_walk.npz"
    metadata = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": [[1, 3], [2, 4]],
                "video_metadata": {"walk.mp4": {"w": SIZE[0], "h": SIZE[1]}}}  # fmt: skip
    positions = {"walk.mp4": {"custom": [seen.keypoints[0].astype(np.float32)]}}
    np.savez_compressed(path, positions_2d=np.array(positions, object), metadata=np.array(metadata, object))
    return path


def videopose3d_detector(folder: Path, seen: Seen) -> Path:
    boxes, keypoints = [], []
    for frame in range(seen.keypoints.shape[1]):
        people = shown(seen, frame)
        points = np.stack([np.vstack([seen.keypoints[p, frame].T, np.ones((2, 17))]) for p in people])
        boxes.append([[], np.array([[0, 0, 9, 9, 0.9 - 0.1 * p] for p in people])])
        keypoints.append([[], points])
    path = folder / "walk.mp4.npz"
    arrays = {name: np.empty((len(parts), 2), object) for name, parts in (("boxes", boxes), ("keypoints", keypoints))}
    for name, parts in (("boxes", boxes), ("keypoints", keypoints)):
        for frame, (empty, found) in enumerate(parts):
            arrays[name][frame, 0], arrays[name][frame, 1] = empty, found
    np.savez_compressed(path, **arrays, metadata=np.array({"w": SIZE[0], "h": SIZE[1]}, object))
    return path


_DLC = {"left": "Left", "right": "Right"}


def deeplabcut(folder: Path, seen: Seen) -> Path:
    people = [f"person{index}" for index in range(len(seen.keypoints))]
    names = [_dlc_name(name) for name in seen.layout.joints]
    columns = [(person, name, coord) for person in people for name in names for coord in ("x", "y", "likelihood")]
    header = [["scorer", *["DLC_net"] * len(columns)]]
    if len(people) > 1:
        header.append(["individuals", *(person for person, _, _ in columns)])
    header += [["bodyparts", *(name for _, name, _ in columns)], ["coords", *(coord for _, _, coord in columns)]]
    rows = []
    for frame in range(seen.keypoints.shape[1]):
        row: list[Any] = [frame]
        for person in range(len(people)):
            row += flat(seen, person, frame) if person in shown(seen, frame) else [""] * (3 * len(names))
        rows.append(row)
    return _table(folder / "walkDLC.csv", [*header, *rows])


def _dlc_name(name: str) -> str:
    side, _, place = name.partition("_")
    return f"{place}{_DLC[side]}" if side in _DLC else name


def sleap_csv(folder: Path, seen: Seen) -> Path:
    header = ["track", "frame_idx", "instance.score"]
    header += [f"{name}.{part}" for name in seen.layout.joints for part in ("x", "y", "score")]
    rows = [
        [f"track_{person}", frame, 0.9, *flat(seen, person, frame)]
        for frame in range(seen.keypoints.shape[1])
        for person in shown(seen, frame)
    ]
    return _table(folder / "walk.analysis.csv", [header, *rows])


def sleap_h5(folder: Path, seen: Seen) -> Path:
    import h5py

    missing = (seen.scores == 0)[..., None]
    tracks = np.where(missing, np.nan, seen.keypoints).transpose(0, 3, 2, 1)  # tracks, 2, nodes, frames
    path = folder / "walk.analysis.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("tracks", data=tracks, compression="gzip")
        file.create_dataset("point_scores", data=seen.scores.transpose(0, 2, 1), compression="gzip")
        file.create_dataset("node_names", data=[name.encode() for name in seen.layout.joints])
        file.create_dataset("track_names", data=[f"track_{index}".encode() for index in range(len(tracks))])
    return path


def _write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def _table(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


class Case(NamedTuple):
    """A tool's file: how it is written, its layout, its people, and whether it knows the image's size."""

    write: Callable[[Path, Seen], Path]
    layout: str
    people: int = 2
    sized: bool = False
    scored: bool = True


CASES = {
    "mmpose_video": Case(mmpose_video, "coco17"),
    "mmpose_tracks": Case(lambda folder, seen: mmpose_video(folder, seen, True), "halpe26"),
    "mmpose_demo": Case(mmpose_demo, "coco_wholebody133"),
    "mmpose_demo_h36m": Case(mmpose_demo, "h36m17"),
    "mmpose_folder": Case(mmpose_folder, "coco17"),
    "alphapose": Case(alphapose, "halpe26"),
    "alphapose_untracked": Case(lambda folder, seen: alphapose(folder, seen, False), "coco17"),
    "openpose": Case(openpose_folder, "body25"),
    "openpose_coco": Case(openpose_folder, "openpose18"),
    "coco_results": Case(coco_results, "coco17"),
    "coco_wholebody": Case(coco_wholebody, "coco_wholebody133", sized=True),
    "mediapipe_json": Case(mediapipe_json, "blazepose33", 1, True),
    "mediapipe_csv": Case(mediapipe_csv, "blazepose33", 1),
    "videopose3d": Case(videopose3d, "coco17", 1, True, False),
    "videopose3d_detector": Case(videopose3d_detector, "coco17", 2, True, False),
    "deeplabcut": Case(deeplabcut, "coco17", 1),
    "deeplabcut_people": Case(deeplabcut, "coco17"),
    "sleap_csv": Case(sleap_csv, "h36m17"),
    "sleap_h5": Case(sleap_h5, "coco17"),
}
