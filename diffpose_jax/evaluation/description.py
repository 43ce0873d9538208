"""What the report of an evaluation says about data and sampling, and its figure of one frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.measure import Measured
from diffpose_jax.evaluation.metrics import mpjpe, spread
from diffpose_jax.evaluation.report import strip_take
from diffpose_jax.skeleton import Skeleton, describe_map
from diffpose_jax.viz.poses import save_figure
from diffpose_jax.viz.prediction import draw_prediction
from diffpose_jax.workdir.trained import Trained


def describe_data(data: ConfigDict, measured: Measured, layout: Skeleton) -> dict[str, Any]:
    """The 2D input, by the config's data section, and how many frames, clips, subjects and actions are measured.

    `layout` is that of the data before they were mapped to the lifter's.
    """
    clips, strength = measured.clips, data.detector_strength
    keypoints = f"as in the data, layout {clips.skeleton.name}"
    if layout != clips.skeleton:
        found = describe_map(layout, clips.skeleton) or "all joints are copied"
        keypoints += f", mapped from {layout.name}: {found}"
    if data.heatmaps:
        keypoints += ", estimated from heatmaps"
    elif strength > 0:
        keypoints += f", with the detector simulation at strength {strength:g}"
    return {
        "layout": layout.name,
        "keypoints": keypoints,
        "frames": len(measured.indices),
        "clips": clips.num_clips,
        "subjects": sorted(set(clips.subject)),
        "actions": sorted({strip_take(action) for action in measured.actions}),
    }


_FLIPS = {"none": "no flips", "half": "every second hypothesis from the mirrored input", "average": "flip averaging"}


def describe_job(trained: Trained, job: Job, sampling_steps: int | None) -> dict[str, Any]:
    """The lifter and how its hypotheses are drawn; `sampling_steps` in place of the config's reverse steps."""
    diffusion, lifter, sampling = trained.config.diffusion, trained.lifter, job.sampling
    stochastic, steps = lifter.stochastic, sampling_steps or diffusion.sampling_steps or diffusion.steps
    calibrated = "" if trained.calibration is None else f", {trained.calibration.describe()}"
    count = f"{sampling.hypotheses} hypothes{'es' if sampling.hypotheses > 1 else 'is'} per frame"
    noise = ", one noise per clip" if sampling.noise == "clip" else ""
    sampler = f"; {diffusion.sampler.upper()}, {steps} of {diffusion.steps} steps" if lifter.diffuses else ""
    return {
        "lifter": trained.config.lifter.name,
        "step": trained.step,
        "hypotheses": sampling.hypotheses,
        "hypotheses_text": count if stochastic else "deterministic, one pose per frame",
        "flip": sampling.flip,
        "flip_text": _FLIPS[sampling.flip if stochastic or sampling.flip == "none" else "average"],
        "noise": sampling.noise,
        "temperature": trained.temperature,
        "sampling_steps": steps if lifter.diffuses else None,
        "sampling_text": sampler + calibrated + noise if stochastic else "",
        "seed": job.seed,
        "occlusion": job.occlusion,
    }


def draw_example(path: Path, trained: Trained, measured: Measured, job: Job, poses: np.ndarray) -> None:
    """Draws the frame with the median error of `poses`, with the hypotheses that were measured.

    Args:
        path: The picture's path.
        trained: The lifter.
        measured: The frames that were measured.
        job: How they were lifted.
        poses: The poses `[M, J, 3]`, m.
    """
    clips, indices = measured.clips, measured.indices
    assert clips.poses is not None, "`Measured.of` refuses sets without poses"
    errors = np.asarray(mpjpe(jnp.asarray(poses), jnp.asarray(clips.poses[indices])))
    middle = int(np.argsort(errors)[len(errors) // 2])
    index = indices[middle]
    found = predict_frames("figure", trained.lifter, trained.variables, clips, indices[middle : middle + 1],
                           job.replace(outputs=(ALL, "mean")))  # fmt: skip
    hypotheses = jnp.asarray(found[ALL][0])
    figure = draw_prediction(
        clips.keypoints[index],
        np.asarray(hypotheses),
        found["mean"][0],
        1000 * np.asarray(spread(hypotheses)),
        clips.skeleton,
        truth=clips.poses[index],
        title=f"{measured.subjects[middle]}, {measured.actions[middle]}: median error, {1000 * errors[middle]:.0f} mm",
    )
    path.parent.mkdir(exist_ok=True)
    save_figure(figure, path)
