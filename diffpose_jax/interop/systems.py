"""The published systems: which lifter each is, and what the shapes of its weights say about that lifter's sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.diffusion.schedules import make_schedule
from diffpose_jax.errors import UserError
from diffpose_jax.interop.csdi_gcn import diffhpe_2d_variables, diffhpe_wrapper_variables
from diffpose_jax.interop.graformer import graformer_variables
from diffpose_jax.interop.mixste import d3dp_denoiser_variables, diff3dhpe_backbone_variables, mixste_variables
from diffpose_jax.interop.modulated_gcn import diffupose_variables, modulated_gcn_variables
from diffpose_jax.interop.poseformer import poseformer_variables
from diffpose_jax.interop.state_dict import StateDict, Variables
from diffpose_jax.interop.weights import Weights
from diffpose_jax.registry import config_for
from diffpose_jax.skeleton import get_skeleton

Entries = Mapping[str, np.ndarray]

_LAYOUTS = {17: "h36m17", 16: "h36m16", 15: "humaneva15"}


class System(NamedTuple):
    """A published system: the lifter it is, how its weights are converted, and what its release sets.

    sizes reads lifter options off the shapes, joints is the entry and axis that has the number of joints; settings are
    the release's, by config key. needs_context: a frozen lifter comes from another checkpoint.
    """

    lifter: str
    variables: Callable[[Entries], Variables]
    sizes: Callable[[Entries], dict[str, Any]]
    joints: tuple[str, int]
    settings: Mapping[str, Any] = {}
    needs_context: bool = False
    notes: tuple[str, ...] = ()


def published_config(system: System, weights: Weights, layout: str | None, options: Mapping[str, Any]) -> ConfigDict:
    """The config of a published system with the sizes of these weights; options (by key, as text) override it.

    layout names the joints where their number does not tell. Raises UserError where a shape is not to be understood.
    """
    config = config_for(system.lifter)
    config.data.layout = _layout(_size(weights.entries, *system.joints), layout)
    config.lifter.update(system.sizes(weights.entries))
    if "betas" in weights.buffers:
        config.diffusion.steps = len(weights.buffers["betas"])
    if config.lifter.get("frames", 1) > 1:
        config.evaluation.batch_size = max(1, 2048 // config.lifter.frames)
    if system.lifter == "diffhpe" and "conditioning.Spatial_pos_embed" in weights.entries:
        config.context = _conditioner(weights.entries)
    for name, value in {**system.settings, **options}.items():
        _set(config, name, value)
    return config


def check_schedule(config: ConfigDict, weights: Weights) -> None:
    """Raises UserError where the checkpoint's own schedule is not the config's."""
    diffusion, found = config.diffusion, weights.buffers.get("alphas_cumprod")
    if found is None:
        return
    limits = {"max_beta": diffusion.max_beta}
    if diffusion.schedule != "cosine":
        limits = {"start": diffusion.beta_start, "end": diffusion.beta_end}
    expected = make_schedule(diffusion.schedule, diffusion.steps, **limits).alpha_bar
    if found.shape != expected.shape or np.abs(found - expected).max() > 1e-4:
        raise UserError(
            f"the schedule of the checkpoint ({len(found)} steps, alpha_bar {found[0]:.6f} to {found[-1]:.6f}) is not "
            f"'{diffusion.schedule}' with {diffusion.steps} steps ({expected[0]:.6f} to {expected[-1]:.6f}); "
            "set diffusion.schedule and its options by --options"
        )


def _layout(joints: int, given: str | None) -> str:
    name = given or _LAYOUTS.get(joints)
    if name is None:
        raise UserError(f"--layout: required for {joints} joints, found none")
    if get_skeleton(name).num_joints != joints:
        raise UserError(f"--layout {name}: expected a layout of {joints} joints, found {get_skeleton(name).num_joints}")
    return name


def _set(config: ConfigDict, name: str, value: Any) -> None:
    *sections, last = name.split(".")
    section = config
    for part in sections:
        section = section.get(part)
        if not isinstance(section, ConfigDict):
            break
    if not isinstance(section, ConfigDict) or last not in section or isinstance(section[last], ConfigDict):
        raise UserError(f"--options {name}: no such config key of {config.lifter.name}")
    section[last] = _parsed(name, value, section[last]) if isinstance(value, str) else value


def _parsed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if isinstance(default, bool):
            raise ValueError
        return type(default)(text)
    except (ValueError, TypeError):
        raise UserError(f"--options {name}: expected {type(default).__name__}, found {text!r}") from None


def _size(entries: Entries, key: str, axis: int) -> int:
    if key not in entries:
        raise UserError(f"tensor '{key}' is missing")
    if not -entries[key].ndim <= axis < entries[key].ndim or not entries[key].size:
        raise UserError(f"tensor '{key}': found shape {entries[key].shape}, which says nothing about axis {axis}")
    return entries[key].shape[axis]


# --- what shapes say


def _transformer(entries: Entries, blocks: str = "STEblocks") -> dict[str, Any]:
    width = _size(entries, "Spatial_pos_embed", 2)
    return {
        "frames": _size(entries, "Temporal_pos_embed", 1),
        "width": width,
        "num_layers": StateDict(entries).count(blocks + ".{}.norm1.weight"),
        "mlp_ratio": _size(entries, f"{blocks}.0.mlp.fc1.weight", 0) / width,
    }


def _poseformer(entries: Entries) -> dict[str, Any]:
    return _transformer(entries, "Spatial_blocks")


def _graformer(entries: Entries) -> dict[str, Any]:
    layers = StateDict(entries).count("gconv_layers.{}.gconv1.gconv.weight")
    return {"width": _size(entries, "gconv_input.weight", 3), "num_layers": layers}


def _modulated_gcn(entries: Entries) -> dict[str, Any]:
    layers = StateDict(entries).count("gconv_layers.{}.gconv1.gconv.W")
    return {"width": _size(entries, "gconv_input.0.gconv.W", 2), "num_layers": layers}


def _modulated_gcn_gt(entries: Entries) -> dict[str, Any]:
    return {**_modulated_gcn(entries), "variant": "gt", "dropout": 0.0}


def _modulated_gcn_benchmark(entries: Entries) -> dict[str, Any]:
    loss = {"loss": "distance_and_absolute"}
    return {**_modulated_gcn(entries), "variant": "benchmark", "dropout": 0.2, **loss}


def _diff3dhpe(entries: Entries) -> dict[str, Any]:
    return {
        **_transformer(entries),
        "backbone": "mixste_middle" if "weighted_mean.weight" in entries else "mixste",
        "step_embedding": "time_mlp.1.weight" in entries,
    }


def _diffhpe(entries: Entries) -> dict[str, Any]:
    prefix = "diffmodel."
    time = f"{prefix}residual_layers.0.time_layer.gconv.W"
    width = _size(entries, f"{prefix}input_projection.weight", 0)
    sizes = {
        "frames": _size(entries, time, 3) if time in entries else 1,
        "width": width,
        "num_layers": StateDict(entries).count(prefix + "residual_layers.{}.mid_projection.weight"),
        "step_width": _size(entries, f"{prefix}diffusion_embedding.projection1.weight", 0),
        "non_local": f"{prefix}residual_layers.0.non_local.non_local.theta.weight" in entries,
    }
    if "conditioning.Spatial_pos_embed" in entries:
        seen = _size(entries, f"{prefix}input_projection.weight", 1)
        context = _size(entries, "conditioning.Spatial_pos_embed", 2)
        sizes["encode_pose"] = "conditioning.data_enc.weight" in entries
        sizes["encoding"] = "sum" if seen == context else "concat"
        sizes["context"] = "(in the checkpoint it was converted from)"
    return sizes


def _conditioner(entries: Entries) -> ConfigDict:
    """The frozen MixSTE inside a checkpoint of DiffHPE-Wrapper as a context section."""
    prefix = "conditioning."
    own = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
    section = config_for("mixste").lifter
    section.update(_transformer(own))
    return section


_SPATIAL = ("Spatial_pos_embed", 1)
_DIFFHPE_JOINTS = ("diffmodel.residual_layers.0.feature_layer.gconv.W", 1)
_GRAPH = ("atten_layers.0.feed_forward.A_hat", 0)
_MODULATED = ("gconv_output.M", 0)
_NO_FLIP = {"evaluation.flip": False}
_DIFFHPE = {**_NO_FLIP, "evaluation.hypotheses": 5}
_VIDEO = {
    **{"lifter.centre_estimate": False, "lifter.mixture_spread": False},
    **{"diffusion.sampling_steps": 1, "diffusion.span": 6},
}

SYSTEMS: dict[str, System] = {
    "mixste": System("mixste", mixste_variables, _transformer, _SPATIAL),
    "poseformer": System("poseformer", poseformer_variables, _poseformer, _SPATIAL),
    "modulated_gcn_gt": System("modulated_gcn", modulated_gcn_variables, _modulated_gcn_gt, _MODULATED, _NO_FLIP),
    "modulated_gcn_benchmark": System(
        "modulated_gcn", modulated_gcn_variables, _modulated_gcn_benchmark, _MODULATED
    ),
    "diffpose_gcnpose": System("graformer", graformer_variables, _graformer, _GRAPH, _NO_FLIP),
    "diffpose_gcndiff": System(
        *("diffpose_release", graformer_variables, _graformer, _GRAPH, _NO_FLIP),
        needs_context=True,
        notes=("the release samples CPN keypoints with diffusion.span 24 (as here) and exact ones with 12",),
    ),
    "diffpose_video": System(
        *("diffpose_release", graformer_variables, _graformer, _GRAPH, _VIDEO),
        needs_context=True,
        notes=("the release samples CPN keypoints with diffusion.sampling_steps 1 and span 6 (as here) and exact ones "
               "with 2 and 12",),
    ),
    "diffupose": System("diffupose", diffupose_variables, _modulated_gcn, _MODULATED),
    "diffhpe_2d": System("diffhpe", diffhpe_2d_variables, _diffhpe, _DIFFHPE_JOINTS, _DIFFHPE),
    "diffhpe_wrapper": System("diffhpe", diffhpe_wrapper_variables, _diffhpe, _DIFFHPE_JOINTS, _DIFFHPE),
    "diff3dhpe": System(
        *("diff3dhpe", diff3dhpe_backbone_variables, _diff3dhpe, _SPATIAL),
        {"evaluation.hypotheses": 1, "lifter.released_weight": True, "lifter.released_eps": True},
        notes=("lifter.scale (the length in metres that became 1 in training) is not in the weights: set it by "
               "--options lifter.scale=...",),
    ),
    "d3dp": System("d3dp", d3dp_denoiser_variables, _transformer, _SPATIAL, {"evaluation.hypotheses": 20}),
}  # fmt: skip
