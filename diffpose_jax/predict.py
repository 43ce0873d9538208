"""Lift your own keypoints: `python -m diffpose_jax.predict --workdir runs/quickstart --input points.json --output out`.

The input is a keypoint file of this package (`diffpose_jax.formats.keypoint_files`), of MMPose, AlphaPose, OpenPose,
COCO, MediaPipe, VideoPose3D, DeepLabCut or SLEAP (`diffpose_jax.formats.keypoint_tools`), or an archive of `prepare`.
Writes `predictions.npz`, `predictions.json` and `prediction.png`. The `.npz` holds, for M frames, H hypotheses and J
joints:

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

import json
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from absl import flags

from diffpose_jax import cli
from diffpose_jax.data.archives import load_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.sets.keypoints import read_keypoints
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import AGGREGATES
from diffpose_jax.formats.keypoint_files import MIN_SCORE
from diffpose_jax.formats.npz import DAMAGE
from diffpose_jax.formats.pickle_machine import one_line
from diffpose_jax.formats.tracks import Reading
from diffpose_jax.model import Result, load
from diffpose_jax.sections import Noise
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.viz.poses import save_figure
from diffpose_jax.viz.prediction import draw_prediction
from diffpose_jax.whole_files import write_text, write_whole
from diffpose_jax.workdir.directory import writable_directory

FORMAT = "diffpose_jax predictions 1"


def predict(
    workdir: str | os.PathLike,
    source: str | os.PathLike,
    *,
    split: str = "test",
    reading: Reading = Reading(),  # noqa: B008  # immutable
    batch_size: int | None = None,
    flip: str | bool | None = None,
    **options: Any,
) -> Result:
    """Lifts all frames of a keypoint file or archive with the best checkpoint of a work directory.

    Args:
        workdir: The work directory of the trained lifter.
        source: The keypoint file or archive.
        split: The one that is taken from an archive.
        reading: What a keypoint file does not say, and what counts as seen: without a lowest score, 0.1 in keypoint
            files and what the scores of an archive say.
        batch_size: Windows per device and compiled call; that of the config by default.
        flip: How the mirrored input enters, see `Model`; as in the config by default.
        **options: Those of `Model.lift`, such as `hypotheses=20`.

    Raises:
        UserError: A mistake of the user, in one line.
    """
    model = load(workdir, batch_size, flip)
    result = model.lift(read_input(source, model.skeleton, split, reading), **options)
    return result._replace(settings={"workdir": str(workdir), "input": str(source), **result.settings})


def read_input(
    path: str | os.PathLike,
    skeleton: Skeleton,
    split: str,
    reading: Reading = Reading(),  # noqa: B008  # immutable
) -> ClipSet:
    """The clips of a keypoint file, or of one split of a project archive, in the layout `skeleton`.

    Args:
        path: The file.
        skeleton: The layout to convert to.
        split: The one that is taken from an archive.
        reading: As in `predict`.

    Raises:
        UserError: A file or a split that is missing, or that cannot be read.
    """
    path = Path(path)
    if path.suffix == ".npz" and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                ours = "meta.npy" in archive.namelist()
        except DAMAGE as error:
            raise UserError(f"{path}: expected an .npz file, found a damaged one ({one_line(error)})") from error
        if ours:
            return load_archive(path, [split])[split].hide_below(reading.min_score or 0.0).to_layout(skeleton)
    return read_keypoints(path, target=skeleton, **reading._asdict())


def save_result(result: Result, directory: str | os.PathLike, json_too: bool = True) -> list[Path]:
    """Writes the files that the module's docstring describes; returns their paths. Raises UserError where it cannot."""
    directory = writable_directory(directory)
    paths = [directory / name for name in ("predictions.npz", "predictions.json", "prediction.png")]
    with write_whole(paths[0]) as part, part.open("wb") as file:
        np.savez(file, **_arrays(result))  # type: ignore[arg-type]  # numpy's stub takes a keyword for allow_pickle
    if json_too:
        write_text(paths[1], json.dumps(_document(result), separators=(",", ":")) + "\n")
    else:
        del paths[1]
    save_figure(_figure(result), paths[-1])
    return paths


def _meta(result: Result) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **result.settings,
        "units": {
            "poses": "metres",
            "hypotheses": "metres",
            "root": "metres",
            "spread_mm": "millimetres",
            **dict.fromkeys(_radii(result), "millimetres"),
        },
        "coordinate_frame": "camera: x right, y down, z away from the camera; poses are relative to the root joint",
        "skeleton": result.skeleton.name,
    }


def _arrays(result: Result) -> dict[str, np.ndarray]:
    clips = result.clips
    arrays = {
        "hypotheses": result.hypotheses,
        "poses": result.poses,
        "spread_mm": 1000 * result.spread,
        "keypoints": clips.keypoints,
        "seen": result.seen,
        "clip_start": clips.clip_start,
        "clip_length": clips.clip_length,
        "subject": np.array(clips.subject),
        "action": np.array(clips.action),
        "fps": clips.fps,
        "joints": np.array(clips.skeleton.joints),
        "parents": np.array(clips.skeleton.parents),
        "meta": np.array(json.dumps(_meta(result))),
    }
    arrays |= {name: 1000 * radius for name, radius in _radii(result).items()}
    return arrays if result.root is None else {**arrays, "root": result.root}


def _radii(result: Result) -> dict[str, np.ndarray]:
    """The radii `[M, J]`, m, by their names in the files; none without a calibration."""
    radii = {"radius_50_mm": result.radius_50, "radius_90_mm": result.radius_90}
    return {name: radius for name, radius in radii.items() if radius is not None}


def _document(result: Result) -> dict[str, Any]:
    clips, skeleton = result.clips, result.skeleton
    columns = {
        "pose": _round(result.poses, 4),
        "spread_mm": _round(1000 * result.spread, 1),
        "keypoints": _round(clips.keypoints, 5),
        "seen": result.seen.tolist(),
        "hypotheses": _round(result.hypotheses, 4),
    }
    columns |= {name: _round(1000 * radius, 1) for name, radius in _radii(result).items()}
    if result.root is not None:
        columns["root"] = _round(result.root, 4)
    frames = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {
        **_meta(result),
        "joints": list(skeleton.joints),
        "parents": list(skeleton.parents),
        "clips": [
            {"subject": subject, "action": action, "fps": float(fps), "frames": frames[start : start + length]}
            for subject, action, fps, start, length in zip(
                clips.subject, clips.action, clips.fps, clips.clip_start, clips.clip_length, strict=True
            )
        ],
    }


def _round(array: np.ndarray, decimals: int) -> list[Any]:
    return np.round(np.asarray(array, np.float64), decimals).tolist()


def _figure(result: Result) -> Any:
    clips = result.clips
    middle = int(clips.clip_length[0]) // 2
    return draw_prediction(
        clips.keypoints[middle],
        result.hypotheses[middle],
        result.poses[middle],
        1000 * result.spread[middle],
        clips.skeleton,
        truth=None if clips.poses is None else clips.poses[middle],
        aggregation=result.settings["aggregation"],
        title=f"{clips.subject[0]}, {clips.action[0]}, frame {middle} of {clips.clip_length[0]}",
    )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    aggregates = ", ".join(name for name, chosen in AGGREGATES.items() if not chosen.oracle)
    string = partial(flags.DEFINE_string, flag_values=values)
    integer = partial(flags.DEFINE_integer, flag_values=values)
    boolean = partial(flags.DEFINE_boolean, flag_values=values)
    cli.define_model(values)
    string("input", None, "Keypoints of any known tool (file or folder), or an archive made by prepare (.npz).")
    string("output", None, "Directory for predictions.npz, predictions.json and prediction.png.")
    string("aggregation", "mean", f"One of {aggregates}.")
    string("layout", None, "Joint layout of the keypoints where the file does not name it.")
    string("image_size", None, "Width and height in pixels, 1920x1080, where the file does not say.")
    flags.DEFINE_float("fps", None, "Frames per second, where the file does not say; 50 if not given.",
                       lower_bound=0, flag_values=values)  # fmt: skip
    string("split", "test", "Split to lift when the input is an archive.")
    integer("hypotheses", 20, "Hypotheses per frame.", lower_bound=1)
    integer("seed", None, "Seed of the noise; that of the config if not given.", lower_bound=0)
    focal = "Focal length in halves of the image's width (Human3.6M: 2.29); gives the root."
    flags.DEFINE_float("focal", None, focal, flag_values=values)
    score = f"Joints of a lower score were not seen; {MIN_SCORE} in keypoint files, 0 in archives if not given."
    flags.DEFINE_float("min_score", None, score, lower_bound=0, flag_values=values)
    cli.define_flip(values)
    flags.DEFINE_enum("noise", "clip", get_args(Noise), "Whether a hypothesis keeps its noise through a clip.",
                      flag_values=values)  # fmt: skip
    integer("batch_size", None, "Windows per device and compiled call.", lower_bound=1)
    boolean("json", True, "Write predictions.json too; it is large for long inputs.")


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, predicts, and says what was written where."""
    cli.require(argv, given, "input", "output")
    model = cli.chosen_model(given)
    writable_directory(given.output)
    names = ("split", "hypotheses", "aggregation", "seed", "focal", "flip", "noise", "batch_size")
    options: dict[str, Any] = {name: given[name].value for name in names}
    reading = Reading(given.layout, cli.parse_image_size(given.image_size), given.fps, given.min_score)
    result = predict(model, given.input, reading=reading, **options)
    paths = save_result(result, given.output, given.json)
    frames, count, joints = result.hypotheses.shape[:3]
    print(f"{frames} frames, {count} hypotheses each, {joints} joints ({result.skeleton.name}); "
          f"mean spread {1000 * result.spread.mean():.1f} mm" + "".join(
              f", {label} radius {1000 * radius.mean():.1f} mm"
              for label, radius in (("50%", result.radius_50), ("90%", result.radius_90)) if radius is not None
          ))  # fmt: skip
    print("poses are root-relative, metres, camera frame (x right, y down, z away from the camera); " + (
        "the root position, which the network does not predict, is solved from the keypoints"
        if result.root is not None else "for the root position give the camera: --focal"
    ))  # fmt: skip
    print("results: " + ", ".join(str(path) for path in paths))
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
