"""The published systems: which method each is, and how its options follow from the shapes of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import current_value
from diffpose_jax.diffusion.schedules import Schedule
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
    """A published system: the method it is, how its weights are converted, and what its release sets."""

    lifter: str  # a name of `registry.METHODS`
    variables: Callable[[Entries], Variables]  # converts the entries
    sizes: Callable[[Entries], dict[str, Any]]  # lifter options that follow from the entries' shapes
    joints: tuple[str, int]  # the entry and its axis whose size is the number of joints
    settings: Mapping[str, Any] = {}  # the release's settings by config key, such as 'evaluation.flip'
    needs_context: bool = False  # whether a frozen lifter comes from another checkpoint
    notes: tuple[str, ...] = ()  # what a user should know, one line each


def build_config(system: System, weights: Weights, layout: str | None, options: Mapping[str, Any]) -> ConfigDict:
    """Builds the config of a published system.

    Args:
        system: The published system.
        weights: Its weights, whose shapes give the sizes of the network.
        layout: Name of the joint layout; needed where the number of joints does not tell.
        options: Values by config key, as text, that override those of the release.

    Raises:
        UserError: A tensor or an axis is missing, the layout has another number of joints, or an option is unknown or
            of the wrong type.
    """
    config = config_for(system.lifter)
    config.data.layout = _find_layout(_read_size(weights.entries, *system.joints), layout)
    config.lifter.update(system.sizes(weights.entries))
    if "betas" in weights.buffers:
        config.diffusion.steps = len(weights.buffers["betas"])
    if config.lifter.get("frames", 1) > 1:
        config.evaluation.batch_size = max(1, 2048 // config.lifter.frames)
    if system.lifter == "diffhpe" and "conditioning.Spatial_pos_embed" in weights.entries:
        config.context = _build_context_section(weights.entries)
    for name, value in {**system.settings, **options}.items():
        _override(config, name, value)
    return config


def check_schedule(weights: Weights, schedule: Schedule | None, diffusion: ConfigDict) -> None:
    """Raises UserError where the schedule in the checkpoint, if it has one, is not the lifter's.

    `diffusion` is the section of the config that the lifter's schedule was made from.
    """
    found = weights.buffers.get("alphas_cumprod")
    if found is None or schedule is None:
        return
    expected = schedule.alpha_bar
    if found.shape != expected.shape or np.abs(found - expected).max() > 1e-4:
        raise UserError(
            f"the schedule of the checkpoint ({len(found)} steps, alpha_bar {found[0]:.6f} to {found[-1]:.6f}) is not "
            f"'{diffusion.schedule}' with {diffusion.steps} steps ({expected[0]:.6f} to {expected[-1]:.6f}); "
            "set diffusion.schedule and its options by --options"
        )


def _find_layout(joints: int, given: str | None) -> str:
    name = given or _LAYOUTS.get(joints)
    if name is None:
        raise UserError(f"--layout: required for {joints} joints, found none")
    if get_skeleton(name).num_joints != joints:
        raise UserError(f"--layout {name}: expected a layout of {joints} joints, found {get_skeleton(name).num_joints}")
    return name


def _override(config: ConfigDict, name: str, value: Any) -> None:
    *sections, last = name.split(".")
    section = config
    for part in sections:
        section = section.get(part)
        if not isinstance(section, ConfigDict):
            break
    if not isinstance(section, ConfigDict) or last not in section or isinstance(section[last], ConfigDict):
        raise UserError(f"--options {name}: no such config key of {config.lifter.name}")
    value = current_value(name, value)
    section[last] = _parse_value(name, value, section[last]) if isinstance(value, str) else value


def _parse_value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if isinstance(default, bool):
            raise ValueError
        return type(default)(text)
    except (ValueError, TypeError):
        raise UserError(f"--options {name}: expected {type(default).__name__}, found {text!r}") from None


def _read_size(entries: Entries, key: str, axis: int) -> int:
    if key not in entries:
        raise UserError(f"tensor '{key}' is missing")
    if not -entries[key].ndim <= axis < entries[key].ndim or not entries[key].size:
        raise UserError(f"tensor '{key}': found shape {entries[key].shape}, which says nothing about axis {axis}")
    return entries[key].shape[axis]


# --- lifter options that follow from shapes


def _transformer_sizes(entries: Entries, blocks: str = "STEblocks") -> dict[str, Any]:
    width = _read_size(entries, "Spatial_pos_embed", 2)
    return {
        "frames": _read_size(entries, "Temporal_pos_embed", 1),
        "width": width,
        "num_layers": StateDict(entries).count(blocks + ".{}.norm1.weight"),
        "mlp_ratio": _read_size(entries, f"{blocks}.0.mlp.fc1.weight", 0) / width,
    }


def _graformer_sizes(entries: Entries) -> dict[str, Any]:
    layers = StateDict(entries).count("gconv_layers.{}.gconv1.gconv.weight")
    return {"width": _read_size(entries, "gconv_input.weight", 3), "num_layers": layers}


def _modulated_gcn_sizes(entries: Entries) -> dict[str, Any]:
    layers = StateDict(entries).count("gconv_layers.{}.gconv1.gconv.W")
    return {"width": _read_size(entries, "gconv_input.0.gconv.W", 2), "num_layers": layers}


def _diff3dhpe_sizes(entries: Entries) -> dict[str, Any]:
    return {
        **_transformer_sizes(entries),
        "backbone": "mixste_middle" if "weighted_mean.weight" in entries else "mixste",
        "step_embedding": "time_mlp.1.weight" in entries,
    }


def _diffhpe_sizes(entries: Entries) -> dict[str, Any]:
    prefix = "diffmodel."
    time = f"{prefix}residual_layers.0.time_layer.gconv.W"
    width = _read_size(entries, f"{prefix}input_projection.weight", 0)
    sizes: dict[str, Any] = {
        "frames": _read_size(entries, time, 3) if time in entries else 1,
        "width": width,
        "num_layers": StateDict(entries).count(prefix + "residual_layers.{}.mid_projection.weight"),
        "step_width": _read_size(entries, f"{prefix}diffusion_embedding.projection1.weight", 0),
        "non_local": f"{prefix}residual_layers.0.non_local.non_local.theta.weight" in entries,
    }
    if "conditioning.Spatial_pos_embed" in entries:
        # 'sum' adds the context's features to the pose: the network's input has their width. 'concat' puts the two side
        # by side.
        inputs = _read_size(entries, f"{prefix}input_projection.weight", 1)
        features = _read_size(entries, "conditioning.Spatial_pos_embed", 2)
        sizes |= {
            "encode_pose": "conditioning.data_enc.weight" in entries,
            "encoding": "sum" if inputs == features else "concat",
            "context": "(in the checkpoint it was converted from)",
        }
    return sizes


def _build_context_section(entries: Entries) -> ConfigDict:
    """The config's context section for the frozen MixSTE inside a checkpoint of DiffHPE-Wrapper."""
    prefix = "conditioning."
    own = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
    section = config_for("mixste").lifter
    section.update(_transformer_sizes(own))
    return section


_SPATIAL = ("Spatial_pos_embed", 1)
_DIFFHPE_JOINTS = ("diffmodel.residual_layers.0.feature_layer.gconv.W", 1)
_GRAPH = ("atten_layers.0.feed_forward.A_hat", 0)
_MODULATED = ("gconv_output.M", 0)
_NO_FLIP = {"evaluation.flip": "none"}
_FLIP = {"evaluation.flip": "average"}
_DIFFHPE = {**_NO_FLIP, "evaluation.hypotheses": 5}
_VIDEO = {
    **_FLIP,
    **{"lifter.centre_estimate": False, "lifter.mixture_spread": False},
    **{"diffusion.sampling_steps": 1, "diffusion.num_timesteps": 6},
}

SYSTEMS: dict[str, System] = {
    "mixste": System("mixste", mixste_variables, _transformer_sizes, _SPATIAL, _FLIP),
    "poseformer": System(
        "poseformer", poseformer_variables, partial(_transformer_sizes, blocks="Spatial_blocks"), _SPATIAL, _FLIP
    ),
    "modulated_gcn_gt": System(
        *("modulated_gcn", modulated_gcn_variables, _modulated_gcn_sizes, _MODULATED),
        {**_NO_FLIP, "lifter.variant": "gt", "lifter.dropout": 0.0},
    ),
    "modulated_gcn_benchmark": System(
        *("modulated_gcn", modulated_gcn_variables, _modulated_gcn_sizes, _MODULATED),
        {**_FLIP, "lifter.variant": "benchmark", "lifter.dropout": 0.2, "lifter.loss": "distance_and_absolute"},
    ),
    "diffpose_gcnpose": System("graformer", graformer_variables, _graformer_sizes, _GRAPH, _NO_FLIP),
    "diffpose_gcndiff": System(
        *("diffpose_release", graformer_variables, _graformer_sizes, _GRAPH, _NO_FLIP),
        needs_context=True,
        notes=("the release samples CPN keypoints with diffusion.num_timesteps 24 (as here) and exact ones with 12",),
    ),
    "diffpose_video": System(
        *("diffpose_release", graformer_variables, _graformer_sizes, _GRAPH, _VIDEO),
        needs_context=True,
        notes=("the release samples CPN keypoints with diffusion.sampling_steps 1 and num_timesteps 6 (as here), exact "
               "ones with 2 and 12",),
    ),
    "diffupose": System("diffupose", diffupose_variables, _modulated_gcn_sizes, _MODULATED, _FLIP),
    "diffhpe_2d": System("diffhpe", diffhpe_2d_variables, _diffhpe_sizes, _DIFFHPE_JOINTS, _DIFFHPE),
    "diffhpe_wrapper": System("diffhpe", diffhpe_wrapper_variables, _diffhpe_sizes, _DIFFHPE_JOINTS, _DIFFHPE),
    "diff3dhpe": System(
        *("diff3dhpe", diff3dhpe_backbone_variables, _diff3dhpe_sizes, _SPATIAL),
        {**_FLIP, "evaluation.hypotheses": 1, "lifter.weight_release": True, "lifter.eps_release": True},
        notes=("lifter.scale (the length in metres that became 1 in training) is not in the weights: set it by "
               "--options lifter.scale=...",),
    ),
    "d3dp": System(
        *("d3dp", d3dp_denoiser_variables, _transformer_sizes, _SPATIAL), {**_FLIP, "evaluation.hypotheses": 20}
    ),
}  # fmt: skip
