"""The files of a prediction, `predictions.npz`, `predictions.json` and `prediction.png`, written while it is made.

The `.npz` holds, for M frames, H hypotheses and J joints:

    hypotheses   [M, H, J, 3] metres      poses    [M, J, 3] metres, the aggregate of the hypotheses
    spread_mm    [M, J] millimetres, the standard deviation of each joint over the hypotheses
    keypoints    [M, J, 2] the input in the lifter's layout, normalised image units (x/w*2-1, y/w*2-h/w)
    seen         [M, J] whether a joint was seen; where it was not, its keypoint is a guess
    clip_start, clip_length [C]; subject, action, fps [C]; joints [J] names; parents [J]; meta, a JSON text
    radius_50_mm, radius_90_mm   [M, J] millimetres, only after `calibrate`: the balls around the mean of the
                 hypotheses that hold the joint with that probability
    root         [M, 3] metres, only with a known camera: where the root is, by least squares on the keypoints

Poses are root-relative, in the camera frame: x right, y down, z away from the camera. The JSON file holds the same,
clip by clip and frame by frame, rounded to 0.1 mm.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.exports.frame_lists import MAX_JSON_VALUES, round_numbers, write_frame_lists
from diffpose_jax.formats.npz import open_array, write_array
from diffpose_jax.model import Lifting, Result
from diffpose_jax.viz.poses import save_figure
from diffpose_jax.viz.prediction import draw_prediction
from diffpose_jax.whole_files import write_whole
from diffpose_jax.workdir.directory import writable_directory

FORMAT = "diffpose_jax predictions 1"
# The radii of a result, and what the files call them.
_RADII = {"radius_50": "radius_50_mm", "radius_90": "radius_90_mm"}


class Saved(NamedTuple):
    """What was written.

    Attributes:
        paths: The files.
        frames: How many frames there are.
        hypotheses: How many of each.
        skeleton: The name of the layout.
        means: The means of spread and radii, mm, by the names of the arrays.
        has_root: Whether the root's positions are known.
        has_json: Whether the JSON file was written.
    """

    paths: list[Path]
    frames: int
    hypotheses: int
    skeleton: str
    means: Mapping[str, float]
    has_root: bool
    has_json: bool

    def describe(self) -> str:
        """A line for a terminal."""
        radii = (("50%", "radius_50_mm"), ("90%", "radius_90_mm"))
        return (
            f"{self.frames} frames, {self.hypotheses} hypotheses each, {self.skeleton}; "
            f"mean spread {self.means['spread_mm']:.1f} mm"
        ) + "".join(f", {label} radius {self.means[name]:.1f} mm" for label, name in radii if name in self.means)


def save_result(result: Result, directory: str | os.PathLike, json_too: bool | None = True) -> list[Path]:
    """Writes the files that the module's docstring describes; returns their paths. Raises UserError where it cannot."""
    lifting = Lifting(result.clips, result.hypotheses.shape[1], result.settings, iter([result]))
    return save_lifting(lifting, directory, json_too).paths


def save_lifting(lifting: Lifting, directory: str | os.PathLike, json_too: bool | None = None) -> Saved:
    """Lifts the frames and writes the files; each appears when all frames are in it.

    Args:
        lifting: The frames, which are read once.
        directory: Where the files go.
        json_too: Whether the JSON file is written; None: if it has no more than `MAX_JSON_VALUES` numbers.

    Raises:
        UserError: A file cannot be written.
    """
    directory, clips = writable_directory(directory), lifting.clips
    npz, text, picture = (directory / name for name in ("predictions.npz", "predictions.json", "prediction.png"))
    if json_too is None:
        json_too = clips.num_frames * clips.skeleton.num_joints * (3 * lifting.hypotheses + 8) <= MAX_JSON_VALUES
    first = next(lifting.parts)
    meta, shape = _describe(first), (clips.num_frames, *first.hypotheses.shape[1:])
    kept = _Kept(int(clips.clip_start[0] + clips.clip_length[0] // 2))
    with contextlib.ExitStack() as files:
        archive = files.enter_context(zipfile.ZipFile(files.enter_context(write_whole(npz)), "w"))
        with open_array(archive, "hypotheses", shape, first.hypotheses.dtype) as write:
            parts = kept.keep(itertools.chain([first], lifting.parts), write)
            if json_too:
                part = files.enter_context(write_whole(text))
                with part.open("w", encoding="utf-8") as stream:
                    _write_json(stream, clips, meta, parts)
            for _ in parts:  # without JSON nothing has read them yet
                pass
        arrays = kept.arrays()
        for name, array in {**arrays, **_describe_clips(clips), "meta": np.array(json.dumps(meta))}.items():
            write_array(archive, name, array)
    assert kept.middle is not None, "the first clip has frames"
    save_figure(_draw(kept.middle, clips), picture)
    means = {name: float(array.mean()) for name, array in arrays.items() if name.endswith("_mm")}
    paths = [npz, text, picture] if json_too else [npz, picture]
    has_root, skeleton = "root" in arrays, f"{clips.skeleton.num_joints} joints ({clips.skeleton.name})"
    return Saved(paths, shape[0], shape[1], skeleton, means, has_root, json_too)


class _Kept:
    """What is kept of all parts: everything but the hypotheses, and one frame for the figure.

    Args:
        place: That frame's index.
    """

    def __init__(self, place: int):
        self._place, self._done, self.middle = place, 0, None
        self._rows: dict[str, list[np.ndarray]] = {}

    middle: Result | None

    def keep(self, parts: Iterator[Result], write: Callable[[np.ndarray], None]) -> Iterator[Result]:
        """Yields the parts, each after its hypotheses were written."""
        for part in parts:
            write(part.hypotheses)
            for name, rows in part.arrays().items():
                if name != "hypotheses":
                    self._rows.setdefault(name, []).append(np.array(rows))  # a view would keep all hypotheses
            if 0 <= self._place - self._done < len(part.poses):
                row = self._place - self._done
                self.middle = part.rows(np.s_[row : row + 1])._replace(hypotheses=part.hypotheses[row : row + 1].copy())
            self._done += len(part.poses)
            yield part

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of all frames by their names in the file."""
        found = {name: np.concatenate(parts) for name, parts in self._rows.items()}
        lengths = {"spread": "spread_mm", **_RADII}
        return {lengths.get(name, name): 1000 * rows if name in lengths else rows for name, rows in found.items()}


def _describe(part: Result) -> dict[str, Any]:
    """Settings, units and axes of the files, by any part."""
    lengths = ("spread_mm", *(_RADII[name] for name in part.arrays() if name in _RADII))
    return {
        "format": FORMAT,
        **part.settings,
        "units": {
            "poses": "metres", "hypotheses": "metres", "root": "metres", **dict.fromkeys(lengths, "millimetres"),
        },
        "coordinate_frame": "camera: x right, y down, z away from the camera; poses are relative to the root joint",
        "skeleton": part.skeleton.name,
    }  # fmt: skip


def _describe_clips(clips: ClipSet) -> dict[str, np.ndarray]:
    return {
        "keypoints": clips.keypoints,
        "seen": clips.seen,
        "clip_start": clips.clip_start,
        "clip_length": clips.clip_length,
        "subject": np.array(clips.subject),
        "action": np.array(clips.action),
        "fps": clips.fps,
        "joints": np.array(clips.skeleton.joints),
        "parents": np.array(clips.skeleton.parents),
    }


def _write_json(stream: TextIO, clips: ClipSet, meta: Mapping[str, Any], parts: Iterator[Result]) -> None:
    header = {**meta, "joints": list(clips.skeleton.joints), "parents": list(clips.skeleton.parents)}
    frames = _list_frames(clips, parts)
    lists = (
        ({"subject": subject, "action": action, "fps": float(fps)}, itertools.islice(frames, int(length)))
        for subject, action, fps, length in zip(clips.subject, clips.action, clips.fps, clips.clip_length, strict=True)
    )
    write_frame_lists(stream, header, "clips", lists)


def _list_frames(clips: ClipSet, parts: Iterator[Result]) -> Iterator[dict[str, Any]]:
    """What the JSON file says of each frame, rounded to 0.1 mm."""
    done, seen = 0, clips.seen
    for part in parts:
        found = part.arrays()
        for row in range(len(part.poses)):
            frame = {
                "pose": round_numbers(part.poses[row], 4),
                "spread_mm": round_numbers(1000 * part.spread[row], 1),
                "keypoints": round_numbers(clips.keypoints[done], 5),
                "seen": seen[done].tolist(),
                "hypotheses": round_numbers(part.hypotheses[row], 4),
            }
            frame |= {name: round_numbers(1000 * found[key][row], 1) for key, name in _RADII.items() if key in found}
            if part.root is not None:
                frame["root"] = round_numbers(part.root[row], 4)
            done += 1
            yield frame


def _draw(frame: Result, clips: ClipSet) -> Any:
    """The figure of the middle frame of the first clip."""
    middle = int(clips.clip_length[0]) // 2
    place = int(clips.clip_start[0]) + middle
    return draw_prediction(
        clips.keypoints[place],
        frame.hypotheses[0],
        frame.poses[0],
        1000 * frame.spread[0],
        clips.skeleton,
        truth=None if clips.poses is None else clips.poses[place],
        aggregation=frame.settings["aggregation"],
        title=f"{clips.subject[0]}, {clips.action[0]}, frame {middle} of {clips.clip_length[0]}",
    )
