"""Rows beside those of the lifter that is evaluated: other work directories, and its mean with Gaussian errors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import CENTRE
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.distributions import OUTPUTS, distribution_row, measure_hypotheses
from diffpose_jax.evaluation.error_gaussian import ErrorGaussian
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.measure import Measured
from diffpose_jax.workdir.releases import locate
from diffpose_jax.workdir.trained import Trained, load_trained


def gaussian_rows(
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
    drawn = gaussian.draw_parts(poses[CENTRE], hypotheses)
    label = "Gaussian around the mean of the hypotheses, no diffusion"
    return [distribution_row(measured, "error_gaussian", label, measure_hypotheses(measured, drawn))]


def predict_measured(
    workdir: str | os.PathLike, trained: Trained, measured: Measured, job: Job
) -> dict[str, np.ndarray]:
    """Predicts the outputs of a job for all measured frames, `{output: [M, ...]}`.

    Args:
        workdir: The work directory; its name labels the progress.
        trained: What was loaded from it.
        measured: The frames.
        job: How they are lifted and what is kept.
    """
    label = locate(workdir).name
    return predict_frames(label, trained.lifter, trained.variables, measured.clips, measured.indices, job)


def load_other(workdir: str, trained: Trained) -> Trained:
    """Another lifter to measure beside one. Raises UserError where it cannot be loaded or has another layout."""
    other, expected = load_trained(workdir), trained.lifter.skeleton
    if other.lifter.skeleton != expected:
        raise UserError(f"{workdir}: expected a lifter of layout {expected.name}, found {other.lifter.skeleton.name}")
    return other


def measure_other(
    measured: Measured, workdir: str, trained: Trained, job: Job
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The rows of another lifter: of its poses, and of its distribution where it has hypotheses.

    Args:
        measured: The frames.
        workdir: Its work directory, for the labels.
        trained: What `load_other` gave.
        job: How the lifter is evaluated that it stands beside.
    """
    lifter = trained.lifter
    count, name = job.sampling.hypotheses if lifter.stochastic else 1, locate(workdir).name
    # The baseline samples with its own reverse steps and temperature; all else is that of the evaluation.
    sampling = job.sampling.replace(hypotheses=count, temperature=trained.temperature or 1.0, plan=None)
    outputs = ("mean", *(OUTPUTS if count > 1 else ()))
    poses = predict_measured(workdir, trained, measured, job.replace(sampling=sampling, outputs=outputs))
    kind = f"mean of {count}" if lifter.stochastic else "supervised"
    label = f"{trained.config.lifter.name}, {kind} ({name})"
    row = measured.row(str(workdir), label, poses["mean"], kind="baseline")
    if count == 1:
        return row, None
    label = f"{trained.config.lifter.name}, {count} hypotheses ({name})"
    return row, distribution_row(measured, str(workdir), label, poses)
