"""Lift your own keypoints: `python -m diffpose_jax.predict --workdir runs/quickstart --input points.json --output out`.

The input is a keypoint file of this package (`diffpose_jax.formats.keypoint_files`), of MMPose, AlphaPose, OpenPose,
COCO, MediaPipe, VideoPose3D, DeepLabCut or SLEAP (`diffpose_jax.formats.keypoint_tools`), or an archive of `prepare`.
Writes `predictions.npz`, `predictions.json` and `prediction.png` (see `diffpose_jax.prediction_files`) while it lifts,
so that memory does not grow with the hypotheses of all frames.
"""

from __future__ import annotations

import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, get_args

from absl import flags

from diffpose_jax import cli
from diffpose_jax.data.archives import load_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.sets.keypoints import read_keypoints
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import AGGREGATES
from diffpose_jax.exports.frame_lists import MAX_JSON_VALUES
from diffpose_jax.formats.keypoint_files import MIN_SCORE
from diffpose_jax.formats.npz import DAMAGE
from diffpose_jax.formats.pickle_machine import one_line
from diffpose_jax.formats.tracks import Reading
from diffpose_jax.model import Lifting, Result, load
from diffpose_jax.prediction_files import save_lifting
from diffpose_jax.sections import Noise
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.workdir.directory import writable_directory


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
        **options: Those of `Model.lift_parts`, such as `hypotheses=20`.

    Raises:
        UserError: A mistake of the user, in one line.
    """
    model = load(workdir, batch_size, flip)
    clips = read_input(source, model.skeleton, split, reading)
    return _name_input(model.lift_parts(clips, **options), workdir, source).collect()


def _name_input(lifting: Lifting, workdir: str | os.PathLike, source: str | os.PathLike) -> Lifting:
    """The same with the names of the model and the input in its settings."""
    settings = {"workdir": str(workdir), "input": str(source), **lifting.settings}
    return lifting._replace(settings=settings, parts=(part._replace(settings=settings) for part in lifting.parts))


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
    boolean("json", None, f"Write predictions.json too; up to {MAX_JSON_VALUES:,} numbers (30 MB) if not given.")


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, predicts, and says what was written where."""
    cli.require(argv, given, "input", "output")
    model = cli.chosen_model(given)
    writable_directory(given.output)
    names = ("hypotheses", "aggregation", "seed", "focal", "noise")
    options: dict[str, Any] = {name: given[name].value for name in names}
    reading = Reading(given.layout, cli.parse_image_size(given.image_size), given.fps, given.min_score)
    loaded = load(model, given.batch_size, given.flip)
    clips = read_input(given.input, loaded.skeleton, given.split, reading)
    saved = save_lifting(_name_input(loaded.lift_parts(clips, **options), model, given.input), given.output, given.json)
    print(saved.describe())
    print("poses are root-relative, metres, camera frame (x right, y down, z away from the camera); " + (
        "the root position, which the network does not predict, is solved from the keypoints"
        if saved.has_root else "for the root position give the camera: --focal"
    ))  # fmt: skip
    if given.json is None and not saved.has_json:
        print(f"predictions.json is left out, of more than {MAX_JSON_VALUES:,} numbers; --json writes it too")
    print("results: " + ", ".join(str(path) for path in saved.paths))
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
