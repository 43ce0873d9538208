"""Evaluating the lifter of a work directory: its aggregations and the baselines, all measured on the same frames."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config, current_value
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.gaps import fill_gaps
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import AGGREGATES, CENTRE, RANK, SPREAD, check_aggregates
from diffpose_jax.evaluation.description import describe_data, describe_job, draw_example
from diffpose_jax.evaluation.distributions import (
    OUTPUTS,
    coverage_by_visibility,
    distribution_row,
    measure_hypotheses,
    regions_by_visibility,
)
from diffpose_jax.evaluation.error_gaussian import ErrorGaussian
from diffpose_jax.evaluation.hiding import hide_for
from diffpose_jax.evaluation.jobs import Job, predict_frames
from diffpose_jax.evaluation.measure import Measured, aggregation_row, baseline_rows
from diffpose_jax.evaluation.protocols import default_protocol, get_protocol
from diffpose_jax.evaluation.report import write_results
from diffpose_jax.evaluation.report_page import write_page
from diffpose_jax.evaluation.warnings import warn_of_keypoints
from diffpose_jax.evaluation.window_cameras import has_cameras
from diffpose_jax.lifters.base import Lifter, Sampling
from diffpose_jax.lifters.building import make_plan, make_schedule_of
from diffpose_jax.registry import load_dataset, load_source, source_layout, validate
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.workdir.directory import writable_directory
from diffpose_jax.workdir.releases import is_shipped, locate
from diffpose_jax.workdir.trained import Trained, load_trained

UNITS = {"lengths": "mm", "velocity_error": "mm per frame", "pck and auc": "percent", "coverage": "share",
         "scores": "mm; limb_direction_distance: 1/1000"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured, and how.

    Attributes:
        workdir: The work directory of the trained lifter.
        data: An archive or 'synthetic' in place of the data trained on.
        split: The split to measure.
        hypotheses: Hypotheses per frame. This, flip, noise, protocol, stride and batch_size come from the `evaluation`
            section of the work directory's config where they are None.
        flip: How the mirrored input enters: 'none', 'half' or 'average' (`lifters.sampling.Sampling`).
        noise: 'frame' or 'clip' (`lifters.sampling.Sampling`).
        protocol: A name of `evaluation.protocols.PROTOCOLS`; empty: that of the benchmark whose layout the data have.
        stride: Every stride-th frame of each clip is measured, from a first one drawn for each clip.
        aggregations: Names of `evaluation.aggregation.AGGREGATES`; None: all that the lifter and the data allow.
        batch_size: Windows per device and compiled call.
        sampling_steps: Reverse steps in place of those of the config.
        occlusion: A pattern of `data.occlusions` in place of the one trained with, at its published rate.
        baseline_workdirs: Other trained lifters to measure on the same frames.
        output: Directory for results; None: the work directory.
        figure: Whether to draw one frame with its hypotheses.
        uncalibrated: Whether to measure coverage without the work directory's calibration too.
        command: The command that the results name.
    """

    workdir: str | os.PathLike
    data: str | None = None
    split: str = "test"
    hypotheses: int | None = None
    flip: str | bool | None = None
    noise: str | None = None
    protocol: str | None = None
    stride: int | None = None
    aggregations: Sequence[str] | None = None
    batch_size: int | None = None
    sampling_steps: int | None = None
    occlusion: str | None = None
    baseline_workdirs: Sequence[str] = ()
    output: str | os.PathLike | None = None
    figure: bool = True
    uncalibrated: bool = False
    command: str = ""

    def run(self) -> dict[str, Any]:
        """Measures, writes the results and returns them. Raises UserError for a mistake of the user."""
        trained = load_trained(self.workdir)
        section = self._override(trained.config)
        if self.output is None and is_shipped(self.workdir):
            raise UserError(f"output: expected a directory for the results of {self.workdir}, found none")
        output = writable_directory(self.output or self.workdir)
        asked = self._make_job(trained, section)
        clips, train = self._load(trained.config)
        warn_of_keypoints(trained, clips)
        hidden, job = hide_for(trained.lifter, clips, asked)
        clips, train = fill_gaps(hidden), None if train is None else fill_gaps(train)
        data = copy_config(trained.config, data={"source": self.data or trained.config.data.source}).data
        layout = source_layout(data, self.split)
        protocol = section.protocol or default_protocol(layout)
        measured = Measured.of(clips, section.stride, protocol, self._load_target(data, layout, protocol))
        chosen, notes = _choose(self.aggregations, trained.lifter, clips)
        notes += self._list_notes(measured, trained, section, train is not None)
        outputs = _outputs(chosen, trained, job.sampling.hypotheses)
        poses = _predict(self.workdir, trained, measured, job.replace(outputs=outputs))
        rows = [aggregation_row(measured, name, job.sampling.hypotheses, poses[name]) for name in chosen]
        rows += [] if train is None else baseline_rows(measured, train)
        others = [_measure_workdir(measured, other, job) for other in self.baseline_workdirs]
        rows += [row for row, _ in others]
        results = {
            "title": f"Evaluation of {self.workdir}",
            "protocol": {"name": protocol, "description": measured.protocol.description},
            "data": {"source": data.source, "split": self.split, "stride": section.stride,
                     **describe_data(data, measured, layout)},
            "setting": describe_job(trained, asked, self.sampling_steps),
            "notes": notes,
            "units": UNITS,
            **self._distributions(trained, measured, job, poses, [row for _, row in others]),
            "rows": rows,
            "command": self.command or f"evaluate({str(self.workdir)!r})",
        }  # fmt: skip
        write_results(results, output)
        path = output / "figures" / f"{self.split}.png"
        if self.figure:
            draw_example(path, trained, measured, job, poses.get("mean", poses[chosen[0]]))
        write_page(results, output, path if self.figure else None)
        return results

    def _distributions(
        self,
        trained: Trained,
        measured: Measured,
        job: Job,
        poses: Mapping[str, np.ndarray],
        others: Sequence[dict[str, Any] | None],
    ) -> dict[str, Any]:
        """Coverage, conformal regions and scores; `{}` for what a single hypothesis or no calibration leaves out."""
        found: dict[str, Any] = {"coverage": {}, "distributions": []}
        if RANK in poses:
            label = f"{trained.config.lifter.name}, {job.sampling.hypotheses} hypotheses"
            row = distribution_row(measured, str(self.workdir), label, poses)
            found |= {"coverage": row["coverage"], "coverage_interval": row["coverage_interval"]}
            found["distributions"].append(row)
            found["distributions"] += _gaussian_rows(trained, measured, job.sampling.hypotheses, poses)
        found["distributions"] += [row for row in others if row is not None]
        if trained.calibration is not None and SPREAD in poses:
            if self.uncalibrated and RANK in poses:
                plain = load_trained(self.workdir, calibrated=False)
                plain_job = job.replace(sampling=job.sampling.replace(temperature=1.0), outputs=(RANK,))
                ranks = _predict(f"{self.workdir} not calibrated", plain, measured, plain_job)[RANK]
                found["uncalibrated"], found["uncalibrated_interval"] = coverage_by_visibility(measured, ranks)
            regions = trained.calibration.regions
            if regions is not None:
                shares = regions_by_visibility(measured, regions, poses[CENTRE], poses[SPREAD])
                found["regions"], found["regions_interval"] = shares
        return found

    def _override(self, config: ConfigDict) -> ConfigDict:
        """The `evaluation` section of a config with the fields that are given in place of its own."""
        names = ("hypotheses", "flip", "noise", "protocol", "stride", "batch_size")
        given = {name: current_value(f"evaluation.{name}", getattr(self, name)) for name in names}
        changed = copy_config(config, evaluation={name: value for name, value in given.items() if value is not None})
        validate(changed)
        return changed.evaluation

    def _make_job(self, trained: Trained, section: ConfigDict) -> Job:
        config, plan = trained.config, None
        pattern, rate = config.data.occlusion, config.data.occlusion_rate
        if self.occlusion is not None:
            validate(copy_config(config, data={"occlusion": self.occlusion}))
            pattern, rate = self.occlusion, 0.0  # a rate of 0 is the published one
        if self.sampling_steps is not None:
            validate(copy_config(config, diffusion={"sampling_steps": self.sampling_steps}))
            plan = make_plan(config.diffusion, make_schedule_of(config.diffusion), self.sampling_steps)
        count = section.hypotheses if trained.lifter.stochastic else 1
        sampling = Sampling(count, trained.temperature or 1.0, section.flip, section.noise, plan)
        return Job(sampling, (), section.batch_size, config.seed, pattern, rate, section.memory)

    def _load(self, config: ConfigDict) -> tuple[ClipSet, ClipSet | None]:
        """The split to measure and the split that was trained on, None where that is missing or has no poses."""
        if self.data is None or self.data == config.data.source:
            parts = load_dataset(config.data, sorted({"train", self.split}), without_mixtures={"train"} - {self.split})
        else:
            parts = load_dataset(copy_config(config, data={"source": self.data}).data, [self.split])
            try:
                parts["train"] = load_dataset(config.data, ["train"], without_mixtures=["train"])["train"]
            except UserError:
                return parts[self.split], None
        train = parts["train"]
        return parts[self.split], None if train.poses is None or not train.num_frames else train

    def _load_target(self, data: ConfigDict, layout: Skeleton, protocol: str) -> ClipSet | None:
        """The split as its source has it, where the protocol measures that layout and the lifter has another one."""
        if get_protocol(protocol, layout).layout != layout.name or layout.name == data.layout:
            return None
        return load_source(data, [self.split])[self.split]

    def _list_notes(self, measured: Measured, trained: Trained, section: ConfigDict, has_train: bool) -> list[str]:
        notes, lifter = measured.notes(), trained.lifter
        if section.flip == "average" and lifter.stochastic and not lifter.averages_flips:
            notes.append(
                "one hypothesis, best hypotheses and coverage are those of the samples before averaging over flips, "
                "because averages have too little spread"
            )
        if trained.calibration is not None and self.sampling_steps is not None:
            notes.append(f"the spread was calibrated for the steps of the config, not for {self.sampling_steps}")
        if section.stride > 1:
            notes.append("velocity error left out: it needs neighbouring frames, so a stride of 1")
        if not has_train:
            notes.append(
                "mean pose and nearest neighbour left out: the data this workdir was trained on were not found"
            )
        return notes


def evaluate(workdir: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Evaluates the best checkpoint of a work directory and returns (and writes) what `results.json` holds.

    Args:
        workdir: The work directory of the trained lifter.
        **options: Fields of `Evaluation`, such as `hypotheses=20`.

    Raises:
        UserError: A mistake of the user, in one line.
    """
    return Evaluation(workdir, **options).run()


def _choose(names: Sequence[str] | None, lifter: Lifter, clips: ClipSet) -> tuple[tuple[str, ...], list[str]]:
    """The aggregations to report, by default all that the lifter and the data allow, and notes on those left out."""
    names = tuple(names or (AGGREGATES if lifter.stochastic else ("first",)))
    check_aggregates(names)
    kept = tuple(name for name in names if has_cameras(clips) or not AGGREGATES[name].needs_camera)
    if not kept:
        raise UserError(f"aggregation {', '.join(names)}: expected data with known cameras, found none")
    left_out = [name for name in names if name not in kept]
    return kept, [f"aggregation {name} left out: the cameras of this data are not known" for name in left_out]


def _outputs(chosen: Sequence[str], trained: Trained, hypotheses: int) -> tuple[str, ...]:
    """The aggregations, and what rows of distributions and conformal regions need."""
    more: tuple[str, ...] = OUTPUTS if hypotheses > 1 else ()
    calibration = trained.calibration
    if calibration is not None and calibration.regions is not None and (more or not trained.lifter.stochastic):
        more = (*more, SPREAD, CENTRE)
    return tuple(dict.fromkeys((*chosen, *more)))


def _gaussian_rows(
    trained: Trained, measured: Measured, hypotheses: int, poses: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """The row of a distribution without diffusion: the same mean, with the errors that it had when it was calibrated.

    Args:
        trained: The lifter; without a calibration there is no row, nor where another layout is measured.
        measured: The frames.
        hypotheses: How many are drawn for each.
        poses: What was predicted, the mean of the samples ('centre') among it.
    """
    errors = None if trained.calibration is None else trained.calibration.errors
    if errors is None or CENTRE not in poses or measured.skeleton != measured.clips.skeleton:
        return []
    gaussian = ErrorGaussian(errors, measured.clips.skeleton.root)
    drawn = gaussian.draw(poses[CENTRE], hypotheses)
    label = "Gaussian around the mean of the hypotheses, no diffusion"
    return [distribution_row(measured, "error_gaussian", label, measure_hypotheses(measured, drawn))]


def _predict(workdir: str | os.PathLike, trained: Trained, measured: Measured, job: Job) -> dict[str, np.ndarray]:
    label = locate(workdir).name
    return predict_frames(label, trained.lifter, trained.variables, measured.clips, measured.indices, job)


def _measure_workdir(measured: Measured, workdir: str, job: Job) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The rows of another work directory: of its poses, and of its distribution where it has hypotheses."""
    trained = load_trained(workdir)
    lifter = trained.lifter
    if lifter.skeleton != measured.clips.skeleton:
        raise UserError(f"{workdir}: expected a lifter of layout {measured.clips.skeleton.name}, "
                        f"found {lifter.skeleton.name}")  # fmt: skip
    count, name = job.sampling.hypotheses if lifter.stochastic else 1, locate(workdir).name
    # The baseline samples with its own reverse steps and temperature; all else is that of the evaluation.
    sampling = job.sampling.replace(hypotheses=count, temperature=trained.temperature or 1.0, plan=None)
    outputs = ("mean", *(OUTPUTS if count > 1 else ()))
    poses = _predict(workdir, trained, measured, job.replace(sampling=sampling, outputs=outputs))
    kind = f"mean of {count}" if lifter.stochastic else "supervised"
    label = f"{trained.config.lifter.name}, {kind} ({name})"
    row = measured.row(str(workdir), label, poses["mean"], kind="baseline")
    if count == 1:
        return row, None
    label = f"{trained.config.lifter.name}, {count} hypotheses ({name})"
    return row, distribution_row(measured, str(workdir), label, poses)
