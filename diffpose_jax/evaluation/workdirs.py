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
from diffpose_jax.evaluation.aggregation import CENTRE, RANK, SPREAD
from diffpose_jax.evaluation.description import describe_data, describe_job, draw_example
from diffpose_jax.evaluation.distributions import coverage_by_visibility, distribution_row, regions_by_visibility
from diffpose_jax.evaluation.hiding import hide_for
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.measure import Measured, aggregation_row, baseline_rows
from diffpose_jax.evaluation.other_rows import gaussian_rows, load_other, measure_other, predict_measured
from diffpose_jax.evaluation.prepared import Prepared, choose_aggregations, needed_outputs
from diffpose_jax.evaluation.protocols import default_protocol, get_protocol
from diffpose_jax.evaluation.report import write_results
from diffpose_jax.evaluation.report_page import write_page
from diffpose_jax.evaluation.warnings import warn_of_keypoints
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.building import make_plan, make_schedule_of
from diffpose_jax.registry import load_dataset, load_source, source_layout, validate
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.workdir.directory import writable_directory
from diffpose_jax.workdir.releases import is_shipped
from diffpose_jax.workdir.trained import Trained, load_trained

UNITS = {"lengths": "mm", "velocity_error": "mm per frame", "pck and auc": "percent", "coverage": "share",
         "scores": "mm; limb_direction_distance: 1/1000"}  # fmt: skip
_NO_TRAIN = "mean pose and nearest neighbour left out: the data this workdir was trained on were not found"


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
        occlusion: A pattern of `data.occlusions` in place of the one trained with.
        occlusion_rate: The rate of that pattern; 0: its published one.
        detector_strength: The strength of the simulated keypoint noise in place of the config's; 0: none.
        seed: The seed of hypotheses and of what is hidden, in place of the config's.
        baseline_workdirs: Other trained lifters to measure on the same frames.
        output: Directory for results; None: the work directory.
        figure: Whether to draw one frame with its hypotheses.
        uncalibrated: Whether to measure coverage without the work directory's calibration too.
        command: The command that the results name.
    """

    workdir: str | os.PathLike
    data: str | os.PathLike | None = None
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
    occlusion_rate: float = 0.0
    detector_strength: float | None = None
    seed: int | None = None
    baseline_workdirs: Sequence[str] = ()
    output: str | os.PathLike | None = None
    figure: bool = True
    uncalibrated: bool = False
    command: str = ""

    def run(self) -> dict[str, Any]:
        """Measures, writes the results and returns them. Raises UserError for a mistake of the user."""
        trained = load_trained(self.workdir)
        self.check(trained)  # names a mistake before anything is written or loaded
        if self.output is None and is_shipped(self.workdir):
            raise UserError(f"output: expected a directory for the results of {self.workdir}, found none")
        baselines = {other: load_other(other, trained) for other in self.baseline_workdirs}
        output = writable_directory(self.output or self.workdir)
        clips, train = self._load(trained.config)
        train = None if train is None else fill_gaps(train)
        prepared = self.prepare(trained, clips)
        measured, job, chosen = prepared.measured, prepared.job, prepared.chosen
        notes = prepared.notes + ([] if train is not None else [_NO_TRAIN])
        poses = predict_measured(self.workdir, trained, measured, job)
        rows = [aggregation_row(measured, name, job.sampling.hypotheses, poses[name]) for name in chosen]
        rows += [] if train is None else baseline_rows(measured, train)
        others = [measure_other(measured, *other, job) for other in baselines.items()]
        rows += [row for row, _ in others]
        results = {
            "title": f"Evaluation of {self.workdir}",
            **prepared.described,
            "notes": notes,
            "units": UNITS,
            **self.measure_distributions(trained, prepared, poses, [row for _, row in others]),
            "rows": rows,
            "command": self.command or f"evaluate({str(self.workdir)!r})",
        }  # fmt: skip
        write_results(results, output)
        path = output / "figures" / f"{self.split}.png"
        if self.figure:
            draw_example(path, trained, measured, job, poses.get("mean", poses[chosen[0]]))
        write_page(results, output, path if self.figure else None)
        return results

    def prepare(self, trained: Trained, clips: ClipSet) -> Prepared:
        """The frames to measure, how they are lifted and what is kept. Raises UserError for a mistake of the user.

        Args:
            trained: The lifter of the work directory.
            clips: The split, in the layout of the lifter (`load_split`).
        """
        section, asked = self._override(trained.config), self.make_job(trained)
        warn_of_keypoints(trained, clips)
        hidden, job = hide_for(trained.lifter, clips, asked)
        clips = fill_gaps(hidden)
        data = self.data_section(trained.config)
        layout = source_layout(data, self.split)
        protocol = section.protocol or default_protocol(layout)
        measured = Measured.of(clips, section.stride, protocol, self._load_target(data, layout, protocol))
        chosen, notes = choose_aggregations(self.aggregations, trained.lifter, clips)
        notes += self._list_notes(measured, trained, section)
        outputs = needed_outputs(chosen, trained, job.sampling.hypotheses)
        described = {
            "protocol": {"name": protocol, "description": measured.protocol.description},
            "data": {"source": data.source, "split": self.split, "stride": section.stride,
                     **describe_data(data, measured, layout)},
            "setting": describe_job(trained, asked, self.sampling_steps),
        }  # fmt: skip
        return Prepared(measured, job.replace(outputs=outputs), chosen, notes, described)

    def measure_distributions(
        self,
        trained: Trained,
        prepared: Prepared,
        poses: Mapping[str, np.ndarray],
        others: Sequence[dict[str, Any] | None] = (),
    ) -> dict[str, Any]:
        """Coverage, conformal regions and scores; `{}` for what a single hypothesis or no calibration leaves out.

        Args:
            trained: The lifter.
            prepared: What was measured.
            poses: What was predicted, `{output: [M, ...]}`.
            others: Rows of other lifters' distributions.
        """
        measured, job = prepared.measured, prepared.job
        found: dict[str, Any] = {"coverage": {}, "distributions": []}
        if RANK in poses:
            label = f"{trained.config.lifter.name}, {job.sampling.hypotheses} hypotheses"
            row = distribution_row(measured, str(self.workdir), label, poses)
            found |= {"coverage": row["coverage"], "coverage_interval": row["coverage_interval"]}
            found["distributions"].append(row)
            found["distributions"] += gaussian_rows(trained, measured, job.sampling.hypotheses, poses)
        found["distributions"] += [row for row in others if row is not None]
        if trained.calibration is not None and SPREAD in poses:
            if self.uncalibrated and RANK in poses:
                # Calibration is in two places: its scales are part of the lifter, its temperature of the job.
                plain = load_trained(self.workdir, calibrated=False)
                plain_job = job.replace(sampling=job.sampling.replace(temperature=1.0), outputs=(RANK,))
                ranks = predict_measured(f"{self.workdir} not calibrated", plain, measured, plain_job)[RANK]
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

    def check(self, trained: Trained) -> None:
        """Raises UserError for a choice that makes no sense for a lifter; reads no data."""
        self._override(trained.config)
        self.make_job(trained)
        self.data_section(trained.config)

    def make_job(self, trained: Trained) -> Job:
        """How frames are lifted, without outputs and before anything is hidden in the data."""
        section, config, plan = self._override(trained.config), trained.config, None
        pattern, rate = config.data.occlusion, config.data.occlusion_rate
        if self.occlusion is not None:
            validate(copy_config(config, data={"occlusion": self.occlusion, "occlusion_rate": self.occlusion_rate}))
            pattern, rate = self.occlusion, float(self.occlusion_rate)  # a rate of 0 is the published one
        if self.sampling_steps is not None:
            validate(copy_config(config, diffusion={"sampling_steps": self.sampling_steps}))
            plan = make_plan(config.diffusion, make_schedule_of(config.diffusion), self.sampling_steps)
        count = section.hypotheses if trained.lifter.stochastic else 1
        sampling = Sampling(count, trained.temperature or 1.0, section.flip, section.noise, plan)
        seed = config.seed if self.seed is None else self.seed
        return Job(sampling, (), section.batch_size, seed, pattern, rate, section.memory)

    def data_section(self, config: ConfigDict) -> ConfigDict:
        """The `data` section of a config with the source and the detector that are given in place of its own."""
        changed: dict[str, Any] = {"source": str(self.data or config.data.source)}
        if self.detector_strength is not None:
            changed["detector_strength"] = float(self.detector_strength)
            if not self.detector_strength and config.data.mixtures:
                raise UserError("input exact: expected a lifter that reads keypoints, found one of heatmaps' mixtures")
            changed["heatmaps"] = config.data.heatmaps and self.detector_strength > 0
        validate(section := copy_config(config, data=changed))
        return section.data

    def load_split(self, config: ConfigDict) -> ClipSet:
        """The split to measure, in the layout of the lifter."""
        return load_dataset(self.data_section(config), [self.split])[self.split]

    def _load(self, config: ConfigDict) -> tuple[ClipSet, ClipSet | None]:
        """The split to measure and the split that was trained on, None where that is missing or has no poses."""
        data = self.data_section(config)
        if data.source == config.data.source:
            # The baselines read keypoints and poses of the training split alone, and fitting mixtures takes long.
            parts = load_dataset(data, sorted({"train", self.split}), without_mixtures={"train"} - {self.split})
        else:
            parts = load_dataset(data, [self.split])
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

    def _list_notes(self, measured: Measured, trained: Trained, section: ConfigDict) -> list[str]:
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
