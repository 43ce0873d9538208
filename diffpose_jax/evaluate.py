"""Evaluate a trained lifter: `python -m diffpose_jax.evaluate --workdir runs/quickstart`.

Prints and writes `results.json` and `results.md`: every way to turn hypotheses into one pose, beside the mean pose, the
nearest neighbour in 2D and, with --baseline_workdir, another trained lifter, all on the same frames.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from diffpose_jax import cli
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.occlusions import PATTERNS
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation import report
from diffpose_jax.evaluation.jobs import ALL, CHOICES, RANK, check_aggregations, knows_cameras
from diffpose_jax.evaluation.measure import Measured, Setting, aggregation_row, baseline_rows, lift
from diffpose_jax.evaluation.metrics import mpjpe, spread
from diffpose_jax.evaluation.protocols import PROTOCOLS, default_protocol
from diffpose_jax.lifters.base import Lifter, Variables
from diffpose_jax.registry import build_lifter, load_dataset, validate
from diffpose_jax.viz.poses import hypotheses_figure, save_figure
from diffpose_jax.workdir.checkpoints import Trained, restore_workdir


def evaluate(
    workdir: str | os.PathLike,
    *,
    data: str | None = None,
    split: str = "test",
    hypotheses: int | None = None,
    flip: bool | None = None,
    protocol: str | None = None,
    stride: int | None = None,
    aggregations: Sequence[str] | None = None,
    batch_size: int | None = None,
    sampling_steps: int | None = None,
    occlusion: str | None = None,
    baseline_workdirs: Sequence[str] = (),
    output: str | os.PathLike | None = None,
    figure: bool = True,
    command: str = "",
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a work directory and returns (and writes to `output`) the results.

    What is None comes from the `evaluation` section of the work directory's config; `data` is an archive or
    'synthetic' in place of the data trained on; `occlusion` is a pattern of `data.occlusions` in place of the one
    trained with, at its published rate; `figure` draws one frame with its hypotheses. Raises UserError for what a user
    can mend.
    """
    trained = restore_workdir(workdir)
    config = _overridden(trained.config, hypotheses=hypotheses, flip=flip, protocol=protocol, stride=stride,
                         batch_size=batch_size)  # fmt: skip
    output = report.writable_directory(output or workdir)
    lifter = trained.lifter if sampling_steps is None else _resampled(trained.config, sampling_steps)
    count = config.hypotheses if lifter.stochastic else 1
    setting = Setting(
        count, config.flip, config.batch_size, trained.config.seed, *_occlusion(trained.config, occlusion)
    )
    clips, train = _load(trained.config, data, split)
    protocol = config.protocol or default_protocol(clips.skeleton)
    measured = Measured.of(clips, config.stride, protocol)
    chosen, notes = _chosen(aggregations, lifter, clips)
    notes += measured.notes()
    if trained.temperature is not None and sampling_steps is not None:
        notes.append(f"the temperature was calibrated for the steps of the config, not for {sampling_steps}")
    if config.stride > 1:
        notes.append("velocity error left out: it needs neighbouring frames, so a stride of 1")
    asked = (*chosen, RANK) if count > 1 and clips.poses is not None else chosen
    poses = lift(Path(workdir).name, lifter, trained.variables, clips, measured.numbers, setting, asked)
    rows = [aggregation_row(measured, name, count, poses[name]) for name in chosen]
    if train is None or train.poses is None or not train.num_frames:
        notes.append("mean pose and nearest neighbour left out: the data this workdir was trained on were not found")
    else:
        rows += baseline_rows(measured, train)
    rows += [_workdir_row(measured, other, setting) for other in baseline_workdirs]
    results = {
        "title": f"Evaluation of {workdir}",
        "protocol": {"name": protocol, "description": measured.protocol.description},
        "data": _describe(trained.config, data, split, measured, config.stride),
        "setting": _describe_setting(trained, lifter, setting, sampling_steps),
        "notes": notes,
        "units": {"lengths": "mm", "velocity_error": "mm per frame", "pck and auc": "percent", "coverage": "share"},
        "coverage": measured.coverage(poses[RANK]) if RANK in poses else {},
        "rows": rows,
        "command": command or f"evaluate({str(workdir)!r})",
    }
    report.write_results(results, output)
    if figure:
        path = output / "figures" / f"{split}.png"
        draw_example(path, lifter, trained.variables, measured, setting, poses.get("mean", poses[chosen[0]]))
    return results


def _occlusion(config: ConfigDict, asked: str | None) -> tuple[str, float]:
    if asked is None:
        return config.data.occlusion, config.data.occlusion_rate
    if asked not in (*PATTERNS, "any"):
        raise UserError(f"--occlusion: expected one of {', '.join(PATTERNS)}, any, found {asked!r}")
    return asked, 0.0


def _overridden(config: ConfigDict, **given: Any) -> ConfigDict:
    copy = ConfigDict(config.to_dict())
    copy.evaluation.update({name: value for name, value in given.items() if value is not None})
    validate(copy)
    return copy.evaluation


def _resampled(config: ConfigDict, sampling_steps: int) -> Lifter:
    copy = ConfigDict(config.to_dict())
    copy.diffusion.sampling_steps = sampling_steps
    validate(copy)
    return build_lifter(copy)


def _chosen(names: Sequence[str] | None, lifter: Lifter, clips: ClipSet) -> tuple[tuple[str, ...], list[str]]:
    """The aggregations to report, all that make sense where none are asked for, and what had to be left out."""
    names = tuple(names or (CHOICES if lifter.stochastic else ("first",)))
    check_aggregations(names)
    kept = tuple(name for name in names if knows_cameras(clips) or not CHOICES[name].needs_camera)
    if not kept:
        raise UserError(f"aggregation {', '.join(names)}: expected data with known cameras, found none")
    left_out = [
        f"aggregation {name} left out: the cameras of this data are not known" for name in names if name not in kept
    ]
    return kept, left_out


def _load(config: ConfigDict, data: str | None, split: str) -> tuple[ClipSet, ClipSet | None]:
    """The split to measure and the training split the lifter learned from, None where that is gone."""
    if data is None or data == config.data.source:
        parts = load_dataset(config.data, sorted({"train", split}), without_mixtures={"train"} - {split})
        return parts[split], parts["train"]
    asked = ConfigDict(config.data.to_dict())
    asked.source = data
    clips = load_dataset(asked, [split])[split]
    try:
        return clips, load_dataset(config.data, ["train"], without_mixtures=["train"])["train"]
    except UserError:
        return clips, None


def _workdir_row(measured: Measured, workdir: str, setting: Setting) -> dict[str, Any]:
    trained = restore_workdir(workdir)
    if trained.lifter.skeleton != measured.clips.skeleton:
        raise UserError(f"{workdir}: expected a lifter of layout {measured.clips.skeleton.name}, "
                        f"found {trained.lifter.skeleton.name}")  # fmt: skip
    hypotheses = setting.hypotheses if trained.lifter.stochastic else 1
    name = Path(workdir).name
    setting = setting._replace(hypotheses=hypotheses)
    poses = lift(name, trained.lifter, trained.variables, measured.clips, measured.numbers, setting, ("mean",))
    kind = f"mean of {hypotheses}" if trained.lifter.stochastic else "supervised"
    return measured.row(str(workdir), f"{trained.config.lifter.name}, {kind} ({name})", poses["mean"], kind="baseline")


def _describe(config: ConfigDict, data: str | None, split: str, measured: Measured, stride: int) -> dict[str, Any]:
    clips, strength = measured.clips, config.data.detector_strength
    keypoints = f"as in the data, layout {clips.skeleton.name}"
    if config.data.heatmaps:
        keypoints += ", estimated from heatmaps"
    elif strength > 0:
        keypoints += f", with the detector simulation at strength {strength:g}"
    return {
        "source": data or config.data.source,
        "split": split,
        "keypoints": keypoints,
        "stride": stride,
        "frames": len(measured.numbers),
        "clips": clips.num_clips,
        "subjects": sorted(set(clips.subject)),
        "actions": sorted({report.action_name(action) for action in measured.actions}),
    }


def _describe_setting(trained: Trained, lifter: Lifter, setting: Setting, sampling_steps: int | None) -> dict[str, Any]:
    diffusion = trained.config.diffusion
    steps = sampling_steps or diffusion.sampling_steps or diffusion.steps
    temperature = "" if trained.temperature is None else f", calibrated temperature {trained.temperature:.2f}"
    count = f"{setting.hypotheses} hypothes{'es' if setting.hypotheses > 1 else 'is'} per frame"
    return {
        "lifter": trained.config.lifter.name,
        "step": trained.step,
        "hypotheses": setting.hypotheses,
        "hypotheses_text": count if lifter.stochastic else "deterministic, one pose per frame",
        "flip": setting.flip,
        "temperature": trained.temperature,
        "sampling_steps": steps if lifter.stochastic else None,
        "sampling_text": f"; {diffusion.sampler.upper()}, {steps} of {diffusion.steps} steps{temperature}"
        if lifter.stochastic
        else "",
        "seed": setting.seed,
        "occlusion": setting.occlusion,
    }


def draw_example(
    path: Path, lifter: Lifter, variables: Variables, measured: Measured, setting: Setting, poses: np.ndarray
) -> None:
    """Draws the frame in which `poses [M, J, 3]` have their median error, with the hypotheses that were measured."""
    clips, numbers = measured.clips, measured.numbers
    errors = np.asarray(mpjpe(poses, clips.poses[numbers]))
    middle = int(np.argsort(errors)[len(errors) // 2])
    number = numbers[middle]
    found = lift("figure", lifter, variables, clips, numbers[middle : middle + 1], setting, (ALL, "mean"))
    hypotheses = np.moveaxis(found[ALL], 1, 0)
    figure = hypotheses_figure(
        clips.keypoints[number],
        hypotheses[:, 0],
        found["mean"][0],
        1000 * np.asarray(spread(hypotheses))[0],
        clips.skeleton,
        truth=clips.poses[number],
        title=f"{measured.subjects[middle]}, {measured.actions[middle]}: median error, {1000 * errors[middle]:.0f} mm",
    )
    path.parent.mkdir(exist_ok=True)
    save_figure(figure, path)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    flags.DEFINE_string("workdir", None, "Work directory of the trained lifter.", flag_values=values)
    flags.DEFINE_string(
        "data", None, "Archive to measure on, or 'synthetic'; the data trained on if not given.", flag_values=values
    )
    flags.DEFINE_string("split", "test", "Split to measure.", flag_values=values)
    flags.DEFINE_integer("hypotheses", None, "Hypotheses per frame.", flag_values=values)
    flags.DEFINE_boolean("flip", None, "Average every hypothesis with one of the mirrored input.", flag_values=values)
    protocols = f"One of {', '.join(PROTOCOLS)}; by the layout of the data if not given."
    flags.DEFINE_string("protocol", None, protocols, flag_values=values)
    flags.DEFINE_integer("stride", None, "Measure every n-th frame of each clip.", flag_values=values)
    flags.DEFINE_list("aggregations", None, f"Some of {', '.join(CHOICES)}.", flag_values=values)
    flags.DEFINE_integer("batch_size", None, "Windows per device and compiled call.", flag_values=values)
    flags.DEFINE_integer("steps", None, "Reverse steps in place of those of the config.", flag_values=values)
    hidden = f"Joints hidden at test time: {', '.join(PATTERNS)} or any; as in training if not given."
    flags.DEFINE_string("occlusion", None, hidden, flag_values=values)
    flags.DEFINE_multi_string(
        "baseline_workdir", [], "Another trained lifter to measure on the same frames.", flag_values=values
    )
    flags.DEFINE_boolean("figure", True, "Draw one frame with its hypotheses.", flag_values=values)
    flags.DEFINE_string("output", None, "Directory for results; the work directory if not given.", flag_values=values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, evaluates, prints the tables and says where they are."""
    cli.require(argv, given, "workdir")
    results = evaluate(
        given.workdir,
        data=given.data,
        split=given.split,
        hypotheses=given.hypotheses,
        flip=given.flip,
        protocol=given.protocol,
        stride=given.stride,
        aggregations=given.aggregations,
        batch_size=given.batch_size,
        sampling_steps=given.steps,
        occlusion=given.occlusion,
        baseline_workdirs=given.baseline_workdir,
        output=given.output,
        figure=given.figure,
        command=shlex.join(["python", "-m", "diffpose_jax.evaluate", *sys.argv[1:]]),
    )
    report.print_results(results)
    output = Path(given.output or given.workdir)
    figure = output / "figures" / f"{given.split}.png"
    print(f"results: {output / 'results.json'}, {output / 'results.md'}" + f"   figure: {figure}" * given.figure)
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
