"""From a video to people in 3D: `diffpose lift video.mp4 --output out/`.

Finds everybody in the picture with the detector that ships with the package, follows them, lifts them with a released
or trained model, and writes for each video, into OUTPUT (of several videos into a folder of its own):

    index.html    the people in 3D, which one can turn, with their uncertainty and the video; open it in a browser
    overlay.mp4   the video with the reprojected people
    poses.bvh, poses.trc, angles.mot, poses.csv, poses.npz, poses.json   see docs/exports.md

A source is a video, an image, a folder of images, a camera (`camera:0`), or keypoints of another tool: a file, or a
folder of OpenPose's files. Where such files do not say size and frame rate, `--image_size` and `--fps` do. All of it
is in docs/lift.md.
`diffpose lift --live` shows what a camera sees on a page of this machine while it films, and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from absl import flags

from diffpose_jax import cli
from diffpose_jax.data.sets.keypoints import read_people
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import AGGREGATES
from diffpose_jax.exports.files import FORMATS, check_formats, save_exports
from diffpose_jax.formats.tracks import Reading
from diffpose_jax.lifted_video import LiftOptions, Smoothing, lift_people
from diffpose_jax.live import LiveOptions, show_live
from diffpose_jax.model import Model, load
from diffpose_jax.people import FilmedPeople, LiftedVideo
from diffpose_jax.progress import Progress
from diffpose_jax.video.finding import choose, find_people
from diffpose_jax.video.frames import open_frames
from diffpose_jax.viz.overlay import write_overlay
from diffpose_jax.viz.page.writing import write_page
from diffpose_jax.workdir.directory import writable_directory

DEFAULT, LIVE_DEFAULT = "pretrained:sequence", "pretrained:frame"
# Flags that say what becomes of a whole video.
_NOT_LIVE = ("output", "aggregation", "up", "height", "smooth", "formats", "page", "overlay")
# Files of keypoints instead of pictures.
_KEYPOINT_FILES = (".json", ".npz", ".csv", ".h5")
_OPTIONS, _READING = LiftOptions(), Reading()
_MANY = 1_000_000  # frames of a source that does not say how many it has


def lift(
    source: str | Path,
    model: Model,
    options: LiftOptions = _OPTIONS,
    *,
    people: str = "all",
    detector: str | None = None,
    threads: int = 2,
    reading: Reading = _READING,
) -> LiftedVideo:
    """Finds the people of a source and lifts them.

    Args:
        source: A video, an image, a folder of images, a camera, or a keypoint file.
        model: The lifter.
        options: How they are lifted.
        people: 'all', 'largest' or an identity such as 'person 1'.
        detector: The import path of another detector than BlazePose.
        threads: Threads of BlazePose's networks.
        reading: What a keypoint file does not say.

    Raises:
        UserError: A source that cannot be read, or without people.
    """
    filmed = find(source, people, detector, threads, reading, model.needs_mixtures)
    video = lift_people(model, filmed, options)
    if not video.people:
        raise UserError(f"{source}: expected people in {len(filmed.times)} frames, found nobody")
    return video


def find(
    source: str | Path,
    people: str,
    detector: str | None,
    threads: int,
    reading: Reading = _READING,
    heatmaps: bool = False,
) -> FilmedPeople:
    """The people of a source, with a progress bar where they are looked for.

    Args:
        source: As in `lift`, and so are people, detector, threads and reading.
        people: Who.
        detector: The detector.
        threads: Its threads.
        reading: What a keypoint file does not say.
        heatmaps: Whether tracks have mixtures fitted to the detector's heatmaps.
    """
    if holds_keypoints(source):
        filmed = read_people(source, reading)
        return filmed._replace(tracks=choose(filmed.tracks, people))
    expected = open_frames(source).expected or _MANY
    with Progress(f"people in {Path(source).name}", expected, "frames") as bar:
        return find_people(
            source, people, detector, lambda done, _: bar.update(done), heatmaps=heatmaps, threads=threads
        )  # fmt: skip


def holds_keypoints(source: str | Path) -> bool:
    """Whether a source holds keypoints instead of pictures: a file of them, or a folder of OpenPose's."""
    path = Path(source)
    return path.suffix.lower() in _KEYPOINT_FILES or (path.is_dir() and any(path.glob("*.json")))


def save(video: LiftedVideo, source: str | Path, directory: Path, given: Any) -> list[Path]:
    """Writes all files of a lifted video; returns their paths.

    Args:
        video: The people.
        source: Where the pictures are.
        directory: Where the files go.
        given: The flags `formats`, `page`, `overlay`.
    """
    directory = writable_directory(directory)
    filmed = Path(source).exists() and not holds_keypoints(source)

    def frames() -> Any:
        return (frame.image for frame in open_frames(source))

    paths = []
    if given.page:
        paths.append(write_page(video, directory / "index.html", frames if filmed else None))
    if given.overlay and filmed:
        paths.append(write_overlay(video, frames, directory / "overlay.mp4"))
    return paths + save_exports(video, directory, given.formats or None)


def name_folders(sources: Sequence[str], output: Path) -> list[Path]:
    """Where the files of each source go: into the output, of several sources into a folder of its own name each."""
    if len(sources) == 1:
        return [output]
    names: list[str] = []
    for source in sources:
        name, count = Path(source).stem, 1
        while name in names:
            count += 1
            name = f"{Path(source).stem}_{count}"
        names.append(name)
    return [output / name for name in names]


def describe(video: LiftedVideo) -> list[str]:
    """What was found, in lines for a terminal."""
    people = _count(len(video.people), "person", "people")
    lines = [f"{video.source}: {_count(len(video.times), 'frame', 'frames')}, {people}"]
    for person in video.people:
        height = np.median(np.linalg.norm(person.poses.max(axis=1) - person.poses.min(axis=1), axis=-1))
        radius = "" if person.radius_90 is None else f", 90 % radius {1000 * np.median(person.radius_90):.0f}"
        lines.append(
            f"  {person.name}: {_count(len(person.frames), 'frame', 'frames')}, "
            f"spread {1000 * np.median(person.spread):.0f} mm{radius}, {np.median(person.root[:, 2]):.1f} m away, "
            f"extent {height:.2f} m, {1 - person.seen.mean():.0%} of joints not seen"
        )
    return lines


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    string, boolean = (partial(kind, flag_values=values) for kind in (flags.DEFINE_string, flags.DEFINE_boolean))
    integer, number = (partial(kind, flag_values=values) for kind in (flags.DEFINE_integer, flags.DEFINE_float))
    string("output", None, "Directory for the results; 'lifted' if not given.")
    cli.define_model(values)
    string("people", "all", "'all', 'largest', or the identity of one, such as 1.")
    string("detector", None, "Import path of another 2D detector (docs/video.md).")
    integer("hypotheses", 20, "Hypotheses per frame.", lower_bound=1)
    aggregates = [name for name, chosen in AGGREGATES.items() if not chosen.oracle]
    flags.DEFINE_enum("aggregation", "mean", aggregates, "How one pose is made of them.", flag_values=values)
    integer("seed", None, "Seed of the noise; that of the model if not given.", lower_bound=0)
    number("focal", None, "Focal length in pixels; by the file's metadata, else a phone's main camera.")
    string("up", "camera", "Which way is up: 'camera' (held level), 'person' (who stands), or three numbers x,y,z.")
    number("height", None, "Height of the people in metres, which fixes the scale.")
    smoothing = "What a smoother that knows the uncertainty runs over."
    flags.DEFINE_enum("smooth", "root", get_args(Smoothing), smoothing, flag_values=values)
    flags.DEFINE_list("formats", [], f"Some of {', '.join(FORMATS)}; all but c3d if not given.", flag_values=values)
    string("layout", None, "Joint layout of a keypoint file that does not name it.")
    string("image_size", None, "Width and height in pixels, 1920x1080, of a keypoint file that does not say.")
    number("fps", None, "Frames per second of a keypoint file that does not say; 50 if not given.")
    boolean("page", True, "Write index.html.")
    boolean("overlay", True, "Write overlay.mp4.")
    integer("threads", 2, "Threads of the detector.", lower_bound=1)
    boolean("live", False, "Show a camera (camera:0 if none is named), or a file, while it is lifted; write nothing.")
    integer("live_port", 8765, "Port of the page that shows it, on this machine only; 0: any that is free.")
    number("live_seconds", None, "When to stop; at the end, or with Ctrl-C, if not given.")


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, lifts every source, and says what was found and where it is."""
    sources = argv[1:]
    if given.live:
        return _main_live(sources or ["camera:0"], given)
    if not sources:
        raise UserError("expected a video: diffpose lift video.mp4 [--output out]")
    options = LiftOptions(
        given.hypotheses, given.aggregation, given.seed, given.focal, given.up, given.height, given.smooth
    )
    check_formats(given.formats, "--formats")
    reading = Reading(given.layout, cli.parse_image_size(given.image_size), given.fps)
    output = writable_directory(given.output or "lifted")
    model = load(cli.chosen_model(given, DEFAULT))
    failed = []
    detecting: dict[str, Any] = {name: given[name].value for name in ("people", "detector", "threads")}
    for source, directory in zip(sources, name_folders(sources, output), strict=True):
        try:
            video = lift(source, model, options, reading=reading, **detecting)
            paths = save(video, source, directory, given)
        except UserError as error:
            if len(sources) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
            failed.append(source)
            continue
        print("\n".join(describe(video)))
        print("results: " + ", ".join(str(path) for path in paths))
    if failed:
        raise UserError(f"{len(failed)} of {len(sources)} sources could not be lifted: {', '.join(failed)}")
    return 0


def _main_live(sources: list[str], given: flags.FlagValues) -> int:
    if len(sources) > 1:
        raise UserError(f"--live: expected one camera or video, found {len(sources)}")
    for name in _NOT_LIVE:
        if given[name].present:
            raise UserError(f"--{name}: has no meaning with --live, which writes nothing")
    options = LiveOptions(
        given.hypotheses, given.seed, given.focal, given.people, given.detector, given.threads, given.live_port,
        given.live_seconds,
    )  # fmt: skip
    print(show_live(sources[0], load(cli.chosen_model(given, LIVE_DEFAULT)), options).describe())
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
