"""Checkpoints nested and named as the releases publish theirs, with small networks' weights that follow a rule."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.diffusion.schedules import make_schedule

from .parity.vectors import Vector, generate_weights, read_vector

VECTORS = Path(__file__).parent / "parity" / "data"
Tensors = dict[str, np.ndarray]


class Published(NamedTuple):
    """A system's recorded network, how its checkpoint nests the weights, and what the shapes do not tell."""

    vector: str
    nest: Callable[[Tensors], Any]
    options: dict[str, Any]


def add_prefix(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def add_counters(tensors: Tensors) -> Tensors:
    """Adds the counters that torch keeps beside the running statistics of a batch normalisation."""
    counters = {
        key.replace("running_mean", "num_batches_tracked"): np.array(7) for key in tensors if "running_mean" in key
    }
    return tensors | counters


def schedule_buffers(steps: int, dtype: type) -> Tensors:
    schedule = make_schedule("cosine", steps)
    named = {
        "betas": schedule.beta,
        "alphas_cumprod": schedule.alpha_bar,
        "sqrt_alphas_cumprod": schedule.alpha_bar**0.5,
    }
    return {name: np.asarray(value, dtype) for name, value in named.items()}


def nest_in_training(name: str, tensors: Tensors) -> dict[str, Any]:
    """As the descendants of VideoPose3D save: beside the optimiser, under one name."""
    first = next(iter(tensors.values()))
    optimiser = {
        "state": {0: {"step": 3, "exp_avg": np.zeros_like(first)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    return {"epoch": 3, "lr": 0.1, "optimizer": optimiser, name: tensors}


def nest_in_list(tensors: Tensors) -> list[Any]:
    """As DDIM's descendants save: weights, optimiser, epoch, step, moving average."""
    average = {key: value + np.float32(1) for key, value in tensors.items()}
    return [add_prefix("module.", tensors), {"state": {}, "param_groups": []}, 3, 70, average]


def nest_with_average(tensors: Tensors) -> dict[str, Any]:
    """As DiffuPose saves: the weights, and the weights beside their moving average."""
    average = {key: value + np.float32(1) if "running" not in key else value for key, value in tensors.items()}

    def wrapped(entries: Tensors) -> Tensors:
        return add_prefix("module.denoise_fn.", add_counters(entries)) | add_prefix(
            "module.", schedule_buffers(100, np.float32)
        )

    ema = add_prefix("online_model.", wrapped(tensors)) | add_prefix("ema_model.", wrapped(average))
    ema |= {"initted": np.array([1]), "step": np.array([70])}
    return {"step": 70, "model": wrapped(tensors), "ema": ema, "scaler": {"scale": 1.0}}


def nest_denoiser(prefix: str, name: str, dtype: type) -> Callable[[Tensors], Any]:
    def nest(tensors: Tensors) -> Any:
        return nest_in_training(
            name, add_prefix(f"module.{prefix}", tensors) | add_prefix("module.", schedule_buffers(1000, dtype))
        )

    return nest


def nest_model_pos(tensors: Tensors) -> Any:
    return nest_in_training("model_pos", add_prefix("module.", tensors))


PUBLISHED: dict[str, Published] = {
    "mixste": Published("mixste", nest_model_pos, {"lifter.num_heads": 4}),
    "poseformer": Published("poseformer", nest_model_pos, {}),
    "modulated_gcn_gt": Published(
        "modulated_gcn_gt", lambda tensors: nest_in_training("state_dict", add_counters(tensors)) | {"step": 146232}, {}
    ),
    "modulated_gcn_benchmark": Published("modulated_gcn_benchmark", add_counters, {}),
    "diffpose_gcnpose": Published("diffpose_gcnpose", nest_in_list, {}),
    "diffpose_gcndiff": Published("diffpose_gcndiff", nest_in_list, {}),
    "diffpose_video": Published("diffpose_gcndiff", nest_in_list, {}),
    "diffupose": Published("diffupose_denoiser", nest_with_average, {}),
    "diffhpe_2d": Published("diffhpe_2d_denoiser", add_counters, {}),
    "diffhpe_wrapper": Published("diffhpe_wrapper_denoiser", add_counters, {"context.num_heads": 4}),
    "diff3dhpe": Published("", nest_denoiser("model.", "model_diffusion", np.float32), {}),
    "d3dp": Published("d3dp_denoiser", nest_denoiser("pose_estimator.", "model_pos", np.float64), {}),
}


def recorded(system: str) -> Vector:
    return read_vector(VECTORS / f"{PUBLISHED[system].vector}.npz")


@functools.cache
def weights(system: str) -> Tensors:
    """The tensors of a system by the network's own keys; shared by all callers, to be copied before a change."""
    if system != "diff3dhpe":
        return recorded(system).weights
    # No vector of this one was recorded: the denoiser of MixSTE's family, with a step layer in every block.
    shapes = {key: list(value.shape) for key, value in weights("d3dp").items()}
    del shapes["time_mlp.3.weight"], shapes["time_mlp.3.bias"]
    shapes["fusion_layer.weight"] = shapes.pop("Spatial_patch_to_embedding.weight")
    shapes["fusion_layer.bias"] = shapes.pop("Spatial_patch_to_embedding.bias")
    shapes |= {"time_mlp.3.weight": [128, 128], "time_mlp.3.bias": [128]}
    for stage in ("STEblocks", "TTEblocks"):
        for layer in range(3):
            shapes |= {f"{stage}.{layer}.time_mlp.1.weight": [64, 128], f"{stage}.{layer}.time_mlp.1.bias": [64]}
    return generate_weights(list(shapes.items()), seed=5)


def checkpoint(system: str) -> Any:
    """The whole structure that the release's file of a system holds."""
    return PUBLISHED[system].nest(weights(system))
