"""Turn motion or keypoint files into the project's archive:

    python -m diffpose_jax.prepare SOURCE --source PATH --output data/NAME.npz

    synthetic      needs no source: embedded people, seen by random cameras
    cmu            the CMU archive cmu_h36m17.npz, filmed by Human3.6M's cameras
    mocap          a folder of .asf/.amc and .bvh files, likewise
    human36m       a folder with VideoPose3D's data_3d_h36m.npz and data_2d_h36m_{detections}.npz
    humaneva       a folder with VideoPose3D's data_3d_humaneva15.npz and data_2d_humaneva15_{detections}.npz
    mpi_inf_3dhp   a folder with data_train_3dhp.npz and data_test_3dhp.npz (or TS1/annot_data.mat, ...); --annotation
                   says which 3D targets, annot3 (the files named ..._3dhp_ori.npz) or univ_annot3
    keypoints      your own 2D keypoints (.npz or .json; `diffpose_jax.data.sets.keypoints` says how they look)

`prepare mixtures --input ARCHIVE --output ARCHIVE` adds mixtures of heatmaps: see `diffpose_jax.prepare_mixtures`.

Prints what it found and draws a sample sheet beside the archive. Look at it: wrong units, sides or axes show at once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from diffpose_jax import cli, prepare_mixtures
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.keypoint_noise import DetectorSettings, corrupt_clipset
from diffpose_jax.data.sets.cmu import load_cmu
from diffpose_jax.data.sets.human36m import load_human36m
from diffpose_jax.data.sets.humaneva import load_humaneva
from diffpose_jax.data.sets.keypoints import load_keypoints
from diffpose_jax.data.sets.mocap import load_mocap
from diffpose_jax.data.sets.mpi_inf_3dhp import load_mpi_inf_3dhp
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.errors import UserError
from diffpose_jax.progress import Progress
from diffpose_jax.skeleton import H36M_17, get_skeleton
from diffpose_jax.viz.poses import save_figure
from diffpose_jax.viz.sheet import sample_sheet

_COMMON = ("source", "output", "seed", "simulate_detector", "strength", "samples")

# What each source is read with, and the flags that mean something for it.
SOURCES: Mapping[str, tuple[Callable[..., dict[str, ClipSet]], tuple[str, ...]]] = {
    "synthetic": (load_synthetic, ("seed", "subjects", "takes", "frames", "cameras_per_clip")),
    "cmu": (load_cmu, ("seed", "valid_subjects", "cameras_per_clip")),
    "mocap": (
        load_mocap,
        ("seed", "valid_subjects", "test_subjects", "cameras_per_clip", "unit", "amc_fps", "name_pattern"),
    ),
    "human36m": (load_human36m, ("detections", "layout", "valid_subjects")),
    "humaneva": (load_humaneva, ("detections", "valid_share")),
    "mpi_inf_3dhp": (load_mpi_inf_3dhp, ("annotation", "valid_subjects")),
    "keypoints": (load_keypoints, ("layout", "target")),
}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    flags.DEFINE_string("source", None, "The file or folder to read.", flag_values=values)
    flags.DEFINE_string(
        "output", None, "The archive to write (.npz); the sample sheet goes beside it (.png).", flag_values=values
    )
    flags.DEFINE_integer(
        "seed", 0, "Seed of synthetic motion, cameras, simulated detections and the sheet.", flag_values=values
    )
    flags.DEFINE_string(
        "detections", "gt", "human36m, humaneva: which 2D file, gt, cpn, detectron_pt_coco, ...", flag_values=values
    )
    flags.DEFINE_string(
        "annotation", None, "mpi_inf_3dhp: the 3D targets, annot3 or univ_annot3; not comparable.", flag_values=values
    )
    flags.DEFINE_float(
        "valid_share", None, "humaneva: the share of every training piece for the valid split.", flag_values=values
    )
    flags.DEFINE_string(
        "layout", None, "keypoints: the file's joint layout; human36m: h36m17 or h36m16.", flag_values=values
    )
    flags.DEFINE_string("target", H36M_17.name, "keypoints: the joint layout to convert to.", flag_values=values)
    flags.DEFINE_list(
        "valid_subjects", None, "cmu, mocap, human36m, mpi_inf_3dhp: the subjects of valid.", flag_values=values
    )
    flags.DEFINE_list("test_subjects", None, "mocap: the subjects of the test split.", flag_values=values)
    flags.DEFINE_integer(
        "cameras_per_clip", None, "synthetic, cmu, mocap: how many cameras see each clip.", flag_values=values
    )
    flags.DEFINE_float(
        "unit", None, "mocap: the length unit of the BVH files in metres; CMU's if not given.", flag_values=values
    )
    flags.DEFINE_float("amc_fps", None, "mocap: the frame rate of the AMC files; 120 if not given.", flag_values=values)
    flags.DEFINE_string(
        "name_pattern", None, "mocap: finds (?P<subject>...) and (?P<action>...) in file names.", flag_values=values
    )
    flags.DEFINE_integer("subjects", None, "synthetic: how many people.", flag_values=values)
    flags.DEFINE_integer("takes", None, "synthetic: how often each person does each action.", flag_values=values)
    flags.DEFINE_integer("frames", None, "synthetic: frames of each take.", flag_values=values)
    flags.DEFINE_bool(
        "simulate_detector", False, "Replace the exact keypoints by simulated detections.", flag_values=values
    )
    flags.DEFINE_float(
        "strength", 1.0, "How bad the simulated detector is; 1 is like CPN on Human3.6M.", flag_values=values
    )
    flags.DEFINE_integer("samples", 15, "Samples on the sheet.", lower_bound=1, flag_values=values)
    prepare_mixtures.define_flags(values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, prepares the archive, and says where everything is."""
    if argv[1:] == ["mixtures"]:
        return _mixtures(given)
    if len(argv) != 2 or argv[1] not in SOURCES:
        raise UserError(
            f"expected one of {', '.join(SOURCES)} or mixtures as the source, found {' '.join(argv[1:]) or 'none'}"
        )
    kind = argv[1]
    options = _options(kind, given)
    if given.output is None:
        raise UserError("--output: required, found none")
    if kind != "synthetic" and given.source is None:
        raise UserError(f"--source: required for {kind}, found none")
    if not 0 <= given.strength < np.inf:
        raise UserError(f"--strength: expected 0 or more, found {given.strength}")
    detector = DetectorSettings(strength=given.strength) if given.simulate_detector else None
    prepare(kind, given.source, given.output, options, detector=detector, seed=given.seed, samples=given.samples)
    return 0


def _mixtures(given: flags.FlagValues) -> int:
    for name in ("input", "output"):
        if given[name].value is None:
            raise UserError(f"--{name}: required for mixtures, found none")
    if not 0 < given.strength < np.inf:
        raise UserError(f"--strength: expected more than 0, found {given.strength}")
    output, _ = _writable(given.output)
    names = ("gmm", "components", "points", "covariance", "seed", "strength")
    prepare_mixtures.prepare_mixtures(given.input, str(output), **{name: given[name].value for name in names})
    return 0


def prepare(
    kind: str,
    source: str | None,
    output: str,
    options: Mapping[str, Any] | None = None,
    *,
    detector: DetectorSettings | None = None,
    seed: int = 0,
    samples: int = 15,
) -> dict[str, ClipSet]:
    """Reads `source`, optionally simulates a detector, writes archive and sample sheet, and prints what there is.

    `options` go to the loader of that kind. Returns `{split: ClipSet}`. Raises UserError.
    """
    console, begin = Console(), time.monotonic()
    output_path, sheet_path = _writable(output)

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - begin:6.1f} s] {text}", highlight=False, markup=False, soft_wrap=True)

    say(f"reading {kind}" + (f" from {source}" if source else ""))
    load = SOURCES[kind][0]
    splits = load(**options or {}) if kind == "synthetic" else load(source, **options or {})
    splits = {split: clips for split, clips in splits.items() if clips.num_clips}
    if not splits:
        raise UserError(f"{source}: expected at least one clip, found none that shows a whole person")
    if detector is not None:
        say(f"simulating a detector of strength {detector.strength:g}")
        for split, clips in splits.items():
            splits[split] = corrupt_clipset(clips, seed, detector, track=functools.partial(_tracked, label=split))
    say(f"writing {output_path}")
    save_archive(output_path, splits)
    say(f"drawing {sheet_path}")
    title = f"{kind}" + (f", simulated detections (strength {detector.strength:g})" if detector else "")
    save_figure(_sheet(splits, samples, seed, title), sheet_path)
    console.print(summary(splits))
    for split, clips in splits.items():
        if clips.note:
            say(f"{split}: {clips.note}")
    say(f"done: archive {output_path}, sample sheet {sheet_path}")
    return splits


def _tracked(clips: Sequence[int], label: str) -> Iterator[int]:
    with Progress(f"simulating {label}", len(clips), "clips") as progress:
        for done, clip in enumerate(clips, 1):
            yield clip
            progress.update(done)


def summary(splits: Mapping[str, ClipSet]) -> Table:
    """A table of what the splits hold: amounts, subjects, actions and the ranges that show wrong units."""
    table = Table("", *splits, title="what was found", title_justify="left", show_lines=True)
    described = [_describe(clips) for clips in splits.values()]
    for row in described[0] if described else ():
        table.add_row(row, *(column[row] for column in described))
    return table


def _describe(clips: ClipSet) -> dict[str, str]:
    minutes = float(np.sum(clips.clip_length / clips.fps)) / 60
    rates = ", ".join(f"{rate:g}" for rate in np.unique(clips.fps))
    valid = "" if clips.valid_frame is None else f", {int(clips.valid_frame.sum()):,} of them valid"
    described = {
        "clips": f"{clips.num_clips:,} of {clips.clip_length.min()} to {clips.clip_length.max()} frames",
        "frames": f"{clips.num_frames:,} ({minutes:.1f} min at {rates} fps)" + valid,
        "layout": clips.skeleton.name,
        "subjects": _listed(clips.subject),
        "actions": _listed(clips.action),
        "cameras": f"{len(np.unique(clips.camera))}" if (clips.camera >= 0).all() else "unknown",
        "2D x, y (normalised)": "; ".join(_range(clips.keypoints[..., axis], 2) for axis in range(2)),
        "scores": "none" if clips.scores is None else _range(clips.scores, 2),
    }
    if clips.poses is None:
        return described | dict.fromkeys(("depth of the root (m)", "height in the image (m)", "bones (mm)"), "no 3D")
    child, parent = np.array(clips.skeleton.bones).T
    bones = np.linalg.norm(clips.poses[:, child] - clips.poses[:, parent], axis=-1) * 1000
    return described | {
        "depth of the root (m)": "unknown" if clips.root is None else _range(clips.root[:, 2], 1),
        "height in the image (m)": _range(np.ptp(clips.poses[..., 1], axis=1), 2),
        "bones (mm)": _bones(bones, clips),
    }


def _bones(lengths: np.ndarray, clips: ClipSet) -> str:
    """Mean length of every pair of bones, by the name of its outer joint."""
    groups: dict[str, list[float]] = {}
    for (child, _), mean in zip(clips.skeleton.bones, lengths.mean(axis=0), strict=True):
        name = clips.skeleton.joints[child].removeprefix("left_").removeprefix("right_")
        groups.setdefault(name, []).append(mean)
    return ", ".join(f"{name} {np.mean(values):.0f}" for name, values in groups.items())


def _range(values: np.ndarray, digits: int) -> str:
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def _listed(names: tuple[str, ...]) -> str:
    counts = {name: names.count(name) for name in sorted(set(names))}
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:16])
    return f"{len(counts)}: {shown}" + (", ..." if len(counts) > 16 else "")


def _sheet(splits: Mapping[str, ClipSet], samples: int, seed: int, title: str) -> Figure:
    """Samples spread over the splits, each from another clip while there are enough."""
    rng = np.random.default_rng(seed)
    chosen = []
    for number, (split, clips) in enumerate(splits.items()):
        share = samples // len(splits) + (number < samples % len(splits))
        order = rng.permutation(clips.num_clips)
        for index in [order[i % len(order)] for i in range(share)]:
            frame = int(clips.clip_start[index] + rng.integers(clips.clip_length[index]))
            label = f"{split}: {clips.subject[index]} {clips.action[index]}\nframe {frame - clips.clip_start[index]}"
            label += f", camera {clips.camera[index]}" if clips.camera[index] >= 0 else ""
            chosen.append((clips, frame, label))
    cameras = next(iter(splits.values())).cameras
    with_poses = all(clips.poses is not None for clips in splits.values())
    return sample_sheet(
        np.stack([clips.keypoints[frame] for clips, frame, _ in chosen]),
        np.stack([clips.poses[frame] for clips, frame, _ in chosen]) if with_poses else None,
        [label for _, _, label in chosen],
        next(iter(splits.values())).skeleton,
        title=title,
        half_height=None if cameras is None else float((cameras.size[:, 1] / cameras.size[:, 0]).max()),
    )


def _options(kind: str, given: flags.FlagValues) -> dict[str, Any]:
    """The loader's options among the flags; a flag that means nothing for this kind of source is refused."""
    known = SOURCES[kind][1]
    if kind == "synthetic" and given.source is not None:
        raise UserError("--source: synthetic has none, its motion is embedded")
    particular = {name for _, names in SOURCES.values() for name in names} - set(_COMMON)
    for name in sorted(particular - set(known)):
        if given[name].present:
            takes = ", ".join(f"--{known_name}" for known_name in dict.fromkeys((*_COMMON, *known)))
            raise UserError(f"--{name}: has no meaning for {kind}, which takes {takes}")
    options = {name: given[name].value for name in known}
    if "target" in options:
        options["target"] = get_skeleton(options["target"])
    return {name: value for name, value in options.items() if value is not None}


def _writable(output: str) -> tuple[Path, Path]:
    """The paths of archive and sheet; fails before the work if they cannot be written."""
    path = Path(output)
    if path.suffix != ".npz":
        raise UserError(f"--output {path}: expected a name that ends in .npz")
    if path.is_dir():
        raise UserError(f"--output {path}: expected a file to write, found a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(path.name + ".part")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written: {error.strerror}") from error
    return path, path.with_suffix(".png")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
