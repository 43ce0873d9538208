"""Turn motion or keypoint files into the project's archive:

    python -m diffpose_jax.prepare SOURCE --source PATH --output data/NAME.npz

    synthetic      needs no source: embedded people, seen by random cameras
    cmu            the CMU archive cmu_h36m17.npz, another of its form, or a folder with the database's own files
                   (.asf, .amc), filmed by Human3.6M's cameras
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

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from rich.console import Console

from diffpose_jax import cli, prepare_mixtures
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.error_model import DetectorSettings
from diffpose_jax.data.detector.heatmap_clips import MixtureOptions
from diffpose_jax.data.detector.keypoint_noise import add_keypoint_noise
from diffpose_jax.data.sets.cmu import load_cmu
from diffpose_jax.data.sets.figures import name_nodes
from diffpose_jax.data.sets.human36m import load_human36m
from diffpose_jax.data.sets.humaneva import load_humaneva
from diffpose_jax.data.sets.keypoints import load_keypoints
from diffpose_jax.data.sets.mocap import FileOptions, load_mocap
from diffpose_jax.data.sets.mpi_inf_3dhp import load_mpi_inf_3dhp
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.data.summary import describe_clips, tabulate
from diffpose_jax.errors import UserError
from diffpose_jax.progress import timed_printer
from diffpose_jax.skeleton import H36M_17, get_skeleton
from diffpose_jax.viz.poses import save_figure
from diffpose_jax.viz.sheet import draw_sample_sheet

_COMMON = ("source", "output", "seed", "simulate_detector", "strength", "samples")

# What each source is read with, and the flags that mean something for it.
SOURCES: Mapping[str, tuple[Callable[..., dict[str, ClipSet]], tuple[str, ...]]] = {
    "synthetic": (load_synthetic, ("seed", "subjects", "takes", "frames", "cameras_per_clip")),
    "cmu": (load_cmu, ("seed", "valid_subjects", "test_subjects", "cameras_per_clip")),
    "mocap": (load_mocap, ("seed", "valid_subjects", "test_subjects", "cameras_per_clip", *FileOptions._fields)),
    "human36m": (load_human36m, ("detections", "layout", "valid_subjects")),
    "humaneva": (load_humaneva, ("detections", "valid_share", "actions")),
    "mpi_inf_3dhp": (load_mpi_inf_3dhp, ("annotation", "valid_subjects")),
    "keypoints": (load_keypoints, ("layout", "target", "joint_names")),
}


# The kind, name, default and help of every flag but `samples`.
_FLAGS: tuple[tuple[str, str, Any, str], ...] = (
    ("string", "source", None, "The file or folder to read."),
    ("string", "output", None, "The archive to write (.npz); the sample sheet goes beside it (.png)."),
    ("integer", "seed", 0, "Seed of synthetic motion, cameras, simulated detections and the sheet."),
    ("string", "detections", "gt", "human36m, humaneva: which 2D file, gt, cpn, detectron_pt_coco, ..."),
    ("string", "annotation", None, "mpi_inf_3dhp: the 3D targets, annot3 or univ_annot3; not comparable."),
    ("float", "valid_share", None, "humaneva: the share of every training piece for the valid split, or 0."),
    ("list", "actions", None, "humaneva: the actions to read; all if not given."),
    ("string", "layout", None, "keypoints: the file's joint layout; human36m: h36m17 or h36m16."),
    ("string", "target", H36M_17.name, "keypoints: the joint layout to convert to."),
    ("list", "valid_subjects", None, "cmu, mocap, human36m, mpi_inf_3dhp: those of valid, or none."),
    ("list", "test_subjects", None, "cmu, mocap: the subjects of the test split, or none."),
    ("integer", "cameras_per_clip", None, "synthetic, cmu, mocap: how many cameras see each clip."),
    ("float", "unit", None, "mocap: the length unit of the BVH files in metres; CMU's if not given."),
    ("float", "amc_fps", None, "mocap: the frame rate of the AMC files; 120 if not given."),
    ("string", "name_pattern", None, "mocap: finds (?P<subject>...) and (?P<action>...) in file names."),
    (
        "list",
        "joint_names",
        None,
        "mocap: the nodes of the figures at the 17 joints and the toes; keypoints: the joints.",
    ),
    ("integer", "subjects", None, "synthetic: how many people."),
    ("integer", "takes", None, "synthetic: how often each person does each action."),
    ("integer", "frames", None, "synthetic: frames of each take."),
    ("bool", "simulate_detector", False, "Replace the exact keypoints by simulated detections."),
    ("float", "strength", 1.0, "How bad the simulated detector is; 1 is like CPN on Human3.6M."),
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags of this program; not at import, where several programs would claim the same names."""
    for kind, name, default, text in _FLAGS:
        bound = {"lower_bound": 0 if name == "seed" else 1} if kind == "integer" else {}
        getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=values, **bound)
    flags.DEFINE_integer("samples", 15, "Samples on the sheet.", lower_bound=1, flag_values=values)
    prepare_mixtures.define_flags(values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Read the flags, prepare the archive, and print where everything is."""
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
    fit = dataclasses.replace(MixtureOptions().fit, covariance=given.covariance)
    options = MixtureOptions(given.components, given.points, fit)
    prepare_mixtures.prepare_mixtures(
        given.input, str(output), options, gmm=given.gmm, seed=given.seed, strength=given.strength
    )
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
    """Read a source, write archive and sample sheet, and print what there is.

    Args:
        kind: One of `SOURCES`.
        source: The file or folder to read; None for 'synthetic'.
        output: The archive to write (.npz); the sample sheet goes beside it (.png).
        options: Options of that kind's loader.
        detector: Simulate a detector that is as good as this; None keeps the keypoints.
        seed: Seed of the simulated detector and of the choice of samples.
        samples: Samples on the sheet.

    Returns:
        `{split: ClipSet}`, as written; splits without clips are left out.

    Raises:
        UserError: For a source that cannot be used and an output that cannot be written.
    """
    say = timed_printer()
    output_path, sheet_path = _writable(output)
    say(f"reading {kind}" + (f" from {source}" if source else ""))
    load = SOURCES[kind][0]
    splits = load(**options or {}) if kind == "synthetic" else load(source, **options or {})
    splits = {split: clips for split, clips in splits.items() if clips.num_clips}
    if not splits:
        raise UserError(f"{source}: expected at least one clip, found none that shows a whole person")
    if detector is not None:
        say(f"simulating a detector of strength {detector.strength:g}")
        for split, clips in splits.items():
            splits[split] = add_keypoint_noise(clips, seed, detector, label=split)
    say(f"writing {output_path}")
    save_archive(output_path, splits)
    say(f"drawing {sheet_path}")
    title = f"{kind}" + (f", simulated detections (strength {detector.strength:g})" if detector else "")
    save_figure(_sheet(splits, samples, seed, title), sheet_path)
    Console().print(tabulate("what was found", {split: describe_clips(clips) for split, clips in splits.items()}))
    for split, clips in splits.items():
        if clips.note:
            say(f"{split}: {clips.note}")
    say(f"done: archive {output_path}, sample sheet {sheet_path}")
    return splits


def _sheet(splits: Mapping[str, ClipSet], samples: int, seed: int, title: str) -> Figure:
    """Samples spread over the splits, each from another clip while there are enough."""
    rng = np.random.default_rng(seed)
    chosen = []
    for index, (split, clips) in enumerate(splits.items()):
        share = samples // len(splits) + (index < samples % len(splits))
        order = rng.permutation(clips.num_clips)
        for clip in [order[i % len(order)] for i in range(share)]:
            frame = int(clips.clip_start[clip] + rng.integers(clips.clip_length[clip]))
            label = f"{split}: {clips.subject[clip]} {clips.action[clip]}\nframe {frame - clips.clip_start[clip]}"
            label += f", camera {clips.camera[clip]}" if clips.camera[clip] >= 0 else ""
            chosen.append((clips.keypoints[frame], None if clips.poses is None else clips.poses[frame], label))
    keypoints, poses, labels = zip(*chosen, strict=True)
    first = next(iter(splits.values()))
    size = None if first.cameras is None else np.asarray(first.cameras.size)
    return draw_sample_sheet(
        np.stack(keypoints),
        None if any(pose is None for pose in poses) else np.stack(poses),
        labels,
        first.skeleton,
        title=title,
        half_height=None if size is None else float((size[:, 1] / size[:, 0]).max()),
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
    options: dict[str, Any] = {name: given[name].value for name in known}
    if "target" in options:
        options["target"] = get_skeleton(options["target"])
    options = {name: value for name, value in options.items() if value is not None}
    options |= {name: [] for name in ("valid_subjects", "test_subjects") if options.get(name) == ["none"]}
    if kind == "mocap":
        if "joint_names" in options:
            options["joint_names"] = name_nodes(options["joint_names"])
        of_files = {name: options.pop(name) for name in FileOptions._fields if name in options}
        options["files"] = FileOptions(**of_files)
    return options


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
