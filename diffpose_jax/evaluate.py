"""Evaluate a trained lifter: `python -m diffpose_jax.evaluate --workdir runs/quickstart`.

Prints and writes `results.json` and `results.md`: every way to turn hypotheses into one pose, beside the mean pose, the
nearest neighbour in 2D and, with --baseline_workdir, another trained lifter, all on the same frames.
"""

from __future__ import annotations

import dataclasses
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
from diffpose_jax.config import copy_config
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.occlusions import PATTERNS
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation import report
from diffpose_jax.evaluation.aggregation import AGGREGATES, ALL, RANK, check_aggregates
from diffpose_jax.evaluation.jobs import Job, has_cameras, predict_frames
from diffpose_jax.evaluation.measure import Measured, aggregation_row, baseline_rows
from diffpose_jax.evaluation.metrics import mpjpe, spread
from diffpose_jax.evaluation.protocols import PROTOCOLS, default_protocol
from diffpose_jax.lifters.base import Lifter, Sampling
from diffpose_jax.lifters.building import make_plan, make_schedule_of
from diffpose_jax.registry import load_dataset, validate
from diffpose_jax.viz.poses import save_figure
from diffpose_jax.viz.prediction import draw_prediction
from diffpose_jax.workdir.directory import writable_directory
from diffpose_jax.workdir.trained import Trained, load_trained


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured, and how.

    Attributes:
        workdir: The work directory of the trained lifter.
        data: An archive or 'synthetic' in place of the data trained on.
        split: The split to measure.
        hypotheses: Hypotheses per frame. This, flip, protocol, stride and batch_size come from the `evaluation` section
            of
            the work directory's config where they are None.
        flip: Whether to average over the mirrored input, in the method's own way.
        protocol: A name of `evaluation.protocols`.
        stride: Every stride-th frame of each clip is measured.
        aggregations: Names of `evaluation.aggregation.AGGREGATES`; None: all that make sense.
        batch_size: Windows per device and compiled call.
        sampling_steps: Reverse steps in place of those of the config.
        occlusion: A pattern of `data.occlusions` in place of the one trained with, at its published rate.
        baseline_workdirs: Other trained lifters to measure on the same frames.
        output: Directory for results; None: the work directory.
        figure: Whether to draw one frame with its hypotheses.
        command: What the results say they were made by.
    """

    workdir: str | os.PathLike
    data: str | None = None
    split: str = "test"
    hypotheses: int | None = None
    flip: bool | None = None
    protocol: str | None = None
    stride: int | None = None
    aggregations: Sequence[str] | None = None
    batch_size: int | None = None
    sampling_steps: int | None = None
    occlusion: str | None = None
    baseline_workdirs: Sequence[str] = ()
    output: str | os.PathLike | None = None
    figure: bool = True
    command: str = ""

    def run(self) -> dict[str, Any]:
        """Measures, writes the results and returns them. Raises UserError for what a user can mend."""
        trained = load_trained(self.workdir)
        config = _override(trained.config, hypotheses=self.hypotheses, flip=self.flip, protocol=self.protocol,
                           stride=self.stride, batch_size=self.batch_size)  # fmt: skip
        output = writable_directory(self.output or self.workdir)
        job = _make_job(trained, config, self.occlusion, self.sampling_steps)
        clips, train = _load(trained.config, self.data, self.split)
        protocol = config.protocol or default_protocol(clips.skeleton)
        measured = Measured.of(clips, config.stride, protocol)
        chosen, notes = _choose(self.aggregations, trained.lifter, clips)
        notes += _notes(measured, config, trained, self.sampling_steps)
        ranked = job.sampling.hypotheses > 1 and clips.poses is not None
        job = job.replace(outputs=(*chosen, RANK) if ranked else chosen)
        label = Path(self.workdir).name
        poses = predict_frames(label, trained.lifter, trained.variables, clips, measured.indices, job)
        rows = [aggregation_row(measured, name, job.sampling.hypotheses, poses[name]) for name in chosen]
        if train is None or train.poses is None or not train.num_frames:
            notes.append(
                "mean pose and nearest neighbour left out: the data this workdir was trained on were not found"
            )
        else:
            rows += baseline_rows(measured, train)
        rows += [_workdir_row(measured, other, job) for other in self.baseline_workdirs]
        results = {
            "title": f"Evaluation of {self.workdir}",
            "protocol": {"name": protocol, "description": measured.protocol.description},
            "data": _describe_data(trained.config, self.data, self.split, measured, config.stride),
            "setting": _describe_job(trained, job, self.sampling_steps),
            "notes": notes,
            "units": {"lengths": "mm", "velocity_error": "mm per frame", "pck and auc": "percent", "coverage": "share"},
            "coverage": measured.coverage(poses[RANK]) if ranked else {},
            "rows": rows,
            "command": self.command or f"evaluate({str(self.workdir)!r})",
        }
        report.write_results(results, output)
        if self.figure:
            path = output / "figures" / f"{self.split}.png"
            draw_example(path, trained, measured, job, poses.get("mean", poses[chosen[0]]))
        return results


def evaluate(workdir: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Evaluates the best checkpoint of a work directory and returns (and writes) what `results.json` holds.

    Args:
        workdir: The work directory of the trained lifter.
        **options: Fields of `Evaluation`, such as `hypotheses=20`.

    Raises:
        UserError: Anything that a user can mend.
    """
    return Evaluation(workdir, **options).run()


def _override(config: ConfigDict, **given: Any) -> ConfigDict:
    changed = copy_config(config, evaluation={name: value for name, value in given.items() if value is not None})
    validate(changed)
    return changed.evaluation


def _make_job(trained: Trained, evaluation: ConfigDict, occlusion: str | None, sampling_steps: int | None) -> Job:
    config = trained.config
    pattern, rate = config.data.occlusion, config.data.occlusion_rate
    if occlusion is not None:
        validate(copy_config(config, data={"occlusion": occlusion}))
        pattern, rate = occlusion, 0.0
    plan = None
    if sampling_steps is not None:
        validate(copy_config(config, diffusion={"sampling_steps": sampling_steps}))
        plan = make_plan(config.diffusion, make_schedule_of(config.diffusion), sampling_steps)
    count = evaluation.hypotheses if trained.lifter.stochastic else 1
    sampling = Sampling(count, trained.temperature or 1.0, evaluation.flip, plan)
    return Job(sampling, (), evaluation.batch_size, config.seed, pattern, rate)


def _choose(names: Sequence[str] | None, lifter: Lifter, clips: ClipSet) -> tuple[tuple[str, ...], list[str]]:
    """The aggregations to report, all that make sense where none are asked for, and what had to be left out."""
    names = tuple(names or (AGGREGATES if lifter.stochastic else ("first",)))
    check_aggregates(names)
    kept = tuple(name for name in names if has_cameras(clips) or not AGGREGATES[name].needs_camera)
    if not kept:
        raise UserError(f"aggregation {', '.join(names)}: expected data with known cameras, found none")
    left_out = [
        f"aggregation {name} left out: the cameras of this data are not known" for name in names if name not in kept
    ]
    return kept, left_out


def _notes(measured: Measured, evaluation: ConfigDict, trained: Trained, sampling_steps: int | None) -> list[str]:
    notes = measured.notes()
    if trained.temperature is not None and sampling_steps is not None:
        notes.append(f"the temperature was calibrated for the steps of the config, not for {sampling_steps}")
    if evaluation.stride > 1:
        notes.append("velocity error left out: it needs neighbouring frames, so a stride of 1")
    return notes


def _load(config: ConfigDict, data: str | None, split: str) -> tuple[ClipSet, ClipSet | None]:
    """The split to measure and the training split the lifter learned from, None where that is gone."""
    if data is None or data == config.data.source:
        parts = load_dataset(config.data, sorted({"train", split}), without_mixtures={"train"} - {split})
        return parts[split], parts["train"]
    clips = load_dataset(copy_config(config, data={"source": data}).data, [split])[split]
    try:
        return clips, load_dataset(config.data, ["train"], without_mixtures=["train"])["train"]
    except UserError:
        return clips, None


def _workdir_row(measured: Measured, workdir: str, job: Job) -> dict[str, Any]:
    trained = load_trained(workdir)
    lifter = trained.lifter
    if lifter.skeleton != measured.clips.skeleton:
        raise UserError(f"{workdir}: expected a lifter of layout {measured.clips.skeleton.name}, "
                        f"found {lifter.skeleton.name}")  # fmt: skip
    count, name = job.sampling.hypotheses if lifter.stochastic else 1, Path(workdir).name
    sampling = job.sampling.replace(hypotheses=count, temperature=trained.temperature or 1.0, plan=None)
    job = job.replace(sampling=sampling, outputs=("mean",))
    poses = predict_frames(name, lifter, trained.variables, measured.clips, measured.indices, job)
    kind = f"mean of {count}" if lifter.stochastic else "supervised"
    return measured.row(str(workdir), f"{trained.config.lifter.name}, {kind} ({name})", poses["mean"], kind="baseline")


def _describe_data(config: ConfigDict, data: str | None, split: str, measured: Measured, stride: int) -> dict[str, Any]:
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
        "frames": len(measured.indices),
        "clips": clips.num_clips,
        "subjects": sorted(set(clips.subject)),
        "actions": sorted({report.action_name(action) for action in measured.actions}),
    }


def _describe_job(trained: Trained, job: Job, sampling_steps: int | None) -> dict[str, Any]:
    diffusion, stochastic, sampling = trained.config.diffusion, trained.lifter.stochastic, job.sampling
    steps = sampling_steps or diffusion.sampling_steps or diffusion.steps
    temperature = "" if trained.temperature is None else f", calibrated temperature {trained.temperature:.2f}"
    count = f"{sampling.hypotheses} hypothes{'es' if sampling.hypotheses > 1 else 'is'} per frame"
    sampler = f"; {diffusion.sampler.upper()}, {steps} of {diffusion.steps} steps{temperature}"
    return {
        "lifter": trained.config.lifter.name,
        "step": trained.step,
        "hypotheses": sampling.hypotheses,
        "hypotheses_text": count if stochastic else "deterministic, one pose per frame",
        "flip": sampling.flip,
        "temperature": trained.temperature,
        "sampling_steps": steps if stochastic else None,
        "sampling_text": sampler if stochastic else "",
        "seed": job.seed,
        "occlusion": job.occlusion,
    }


def draw_example(path: Path, trained: Trained, measured: Measured, job: Job, poses: np.ndarray) -> None:
    """Draws the frame in which `poses` have their median error, with the hypotheses that were measured.

    Args:
        path: The picture's path.
        trained: The lifter.
        measured: The frames that were measured.
        job: How they were lifted.
        poses: The poses `[M, J, 3]`, m.
    """
    clips, indices = measured.clips, measured.indices
    errors = np.asarray(mpjpe(poses, clips.poses[indices]))
    middle = int(np.argsort(errors)[len(errors) // 2])
    index = indices[middle]
    job = job.replace(outputs=(ALL, "mean"))
    found = predict_frames("figure", trained.lifter, trained.variables, clips, indices[middle : middle + 1], job)
    hypotheses = np.moveaxis(found[ALL], 1, 0)
    figure = draw_prediction(
        clips.keypoints[index],
        hypotheses[:, 0],
        found["mean"][0],
        1000 * np.asarray(spread(hypotheses))[0],
        clips.skeleton,
        truth=clips.poses[index],
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
    flags.DEFINE_list("aggregations", None, f"Some of {', '.join(AGGREGATES)}.", flag_values=values)
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
