"""How each method is put together from a config: its options, the diffusion it was published with, its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffpose_jax.diffusion.samplers import Plan, ddim_plan, ddpm_plan
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.lifters.d3dp import d3dp
from diffpose_jax.lifters.diff3dhpe import diff3dhpe
from diffpose_jax.lifters.diffhpe import diffhpe
from diffpose_jax.lifters.diffpose import diffpose
from diffpose_jax.lifters.diffpose_release import VIDEO_SCALE, diffpose_release, released_forward
from diffpose_jax.lifters.diffupose import diffupose
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.lifters.pose_losses import (
    PoseLoss,
    distance_and_absolute,
    mean_squared,
    mixste_loss,
    mpjpe,
    squared_and_absolute,
)
from diffpose_jax.lifters.supervised import supervised
from diffpose_jax.models.context_graformer import ContextGraFormer
from diffpose_jax.models.csdi_gcn import CSDIGCN
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.modulated_gcn import VARIANTS, ModulatedGCN, StepModulatedGCN
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.models.unet import UNetDenoiser
from diffpose_jax.skeleton import Skeleton, get_skeleton

Builder = Callable[[ConfigDict, Skeleton, str | None], Lifter]


class Method(NamedTuple):
    """A method: how it is built, its options with their defaults, and the diffusion settings it was published with.

    supervised methods can be the frozen context of others.
    """

    build: Builder
    options: Mapping[str, Any]
    diffusion: Mapping[str, Any] = {}
    supervised: bool = False


# --- supervised lifters


_POSE_LOSSES: dict[str, PoseLoss] = {
    "mpjpe": mpjpe,
    "mean_squared": mean_squared,
    "squared_and_absolute": squared_and_absolute,
    "distance_and_absolute": distance_and_absolute,
}


def _pose_loss(config: ConfigDict, skeleton: Skeleton) -> PoseLoss:
    options = config.lifter
    weights = joint_weights(options.joint_weights, skeleton)
    if options.loss != "weighted_temporal":
        return _choice("loss", options.loss, {**_POSE_LOSSES, "weighted_temporal": None})
    return mixste_loss(skeleton, weights, consistency=options.weight_consistency, velocity=options.weight_velocity)


def _supervised(network: nn.Module, config: ConfigDict, skeleton: Skeleton, middle_frame: bool = False) -> Lifter:
    options = config.lifter
    pose_loss, frames = _pose_loss(config, skeleton), options.get("frames", 1)
    shape = {"middle_frame": middle_frame, "root_relative": options.root_relative}
    return supervised(network, skeleton, pose_loss, frames, **shape)


def _mixste(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    network = MixSTE(**_transformer(config, skeleton))
    return _supervised(network, config, skeleton)


def _poseformer(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    network = PoseFormer(**_poseformer_sizes(config, skeleton))
    return _supervised(network, config, skeleton, middle_frame=True)


def _graformer(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    network = GraFormer(**_graph_transformer(config, skeleton))
    return _supervised(network, config, skeleton)


def _modulated_gcn(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    given = {name: options[name] for name in ("width", "num_layers", "dropout")}
    network = ModulatedGCN(
        skeleton=skeleton,
        axis_name=axis_name,
        dtype=_dtype(config),
        **{**_choice("variant", options.variant, VARIANTS), **given},
    )
    return _supervised(network, config, skeleton)


# --- diffusion lifters


def _diffpose(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    network = ContextGraFormer(**_graph_transformer(config, skeleton), feature_width=options.feature_width)
    return diffpose(
        network,
        skeleton,
        *_process(config),
        context=build_context(config),
        predict=config.diffusion.predict,
        base=options.base,
        start=options.start,
        depth=options.depth,
        covariance=options.covariance,
        features=options.features,
    )


def _diffpose_release(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    network = GraFormer(**_graph_transformer(config, skeleton), out_channels=5, step=True)
    return diffpose_release(
        network,
        skeleton,
        *_process(config, "eps"),
        context=build_context(config, root_relative=options.centre_estimate),
        centre_estimate=options.centre_estimate,
        forward=released_forward(VIDEO_SCALE, options.mixture_spread),
    )


def _diffupose(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    network = _choice("variant", options.variant, {"gcn": StepModulatedGCN, "unet": UNetDenoiser})(
        skeleton=skeleton,
        width=options.width,
        num_layers=options.num_layers,
        dropout=options.dropout,
        axis_name=axis_name,
        dtype=_dtype(config),
    )
    return diffupose(
        network,
        skeleton,
        *_process(config),
        predict=config.diffusion.predict,
        clip=_clip(config),
        weight_2d=options.weight_2d,
        joint_weights=joint_weights(options.joint_weights, skeleton),
    )


def _diffhpe(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    network = CSDIGCN(
        skeleton=skeleton,
        frames=options.frames,
        width=options.width,
        num_layers=options.num_layers,
        step_width=options.step_width,
        num_steps=config.diffusion.steps,
        dropout=options.dropout,
        non_local=options.non_local,
        axis_name=axis_name,
        dtype=_dtype(config),
    )
    context = build_context(config) if options.context else None
    return diffhpe(
        network,
        skeleton,
        *_process(config, "eps"),
        frames=options.frames,
        context=context,
        condition=options.condition,
        encoding=options.encoding,
        encode_pose=options.encode_pose,
        p_uncond=options.p_uncond,
        guidance=options.guidance,
    )


def _diff3dhpe(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    step = "blocks" if options.step_embedding else "none"
    if options.backbone == "poseformer":
        network = PoseFormer(**_poseformer_sizes(config, skeleton), pde=options.pde, step=step)
    else:
        middle_frame = _choice("backbone", options.backbone, {"mixste": False, "mixste_middle": True})
        sizes = _transformer(config, skeleton)
        network = MixSTE(**sizes, pde=options.pde, step=step, middle_frame=middle_frame)
    return diff3dhpe(
        network,
        skeleton,
        *_process(config, "x0"),
        frames=options.frames,
        scale=options.scale,
        clip=_clip(config),
        k_clip=options.k_clip,
        released_weight=options.released_weight,
        released_eps=options.released_eps,
        middle_frame=options.backbone != "mixste",
        flip_inside=config.diffusion.flip_inside,
    )


def _d3dp(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    return d3dp(
        MixSTE(**_transformer(config, skeleton), step="once"),
        skeleton,
        *_process(config, "x0"),
        frames=options.frames,
        clip=_clip(config),
        signal_scale=options.signal_scale,
        flip_inside=config.diffusion.flip_inside,
    )


# --- shared parts


def build_context(config: ConfigDict, **options: Any) -> Lifter:
    """The frozen lifter that a config's `context` section describes, with some options of its own changed.

    Raises UserError where it cannot serve as one.
    """
    if not config.context:
        raise UserError(
            "config.lifter.context: expected the work directory of a trained lifter (mixste, graformer, ...), found "
            f"{config.lifter.context!r}; train or convert one first"
        )
    method = METHODS[config.context.name]
    if not method.supervised:
        raise UserError(f"config.lifter.context: expected a supervised lifter, found {config.context.name}")
    inner = ConfigDict(config.to_dict())
    inner.lifter, inner.context = ConfigDict({**config.context.to_dict(), **options}), ConfigDict()
    return method.build(inner, get_skeleton(config.data.layout), None)


def _dtype(config: ConfigDict) -> jnp.dtype:
    return jnp.dtype(config.lifter.compute_dtype)


def _clip(config: ConfigDict) -> float:
    return config.diffusion.clip or math.inf


def _choice(option: str, name: str, choices: Mapping[str, Any]) -> Any:
    if name not in choices:
        raise UserError(f"config.lifter.{option}: expected one of {', '.join(choices)}, found {name!r}")
    return choices[name]


def _transformer(config: ConfigDict, skeleton: Skeleton) -> dict[str, Any]:
    names = ("frames", "width", "num_layers", "num_heads", "mlp_ratio", "drop_path")
    sizes = {name: config.lifter[name] for name in names}
    if sizes["width"] % sizes["num_heads"]:
        raise UserError(f"config.lifter.width: expected a multiple of num_heads={sizes['num_heads']}, "
                        f"found {sizes['width']}")  # fmt: skip
    return {**sizes, "num_joints": skeleton.num_joints, "dtype": _dtype(config)}


def _poseformer_sizes(config: ConfigDict, skeleton: Skeleton) -> dict[str, Any]:
    sizes = _transformer(config, skeleton)
    return {"joint_width": sizes.pop("width"), **sizes}


def _graph_transformer(config: ConfigDict, skeleton: Skeleton) -> dict[str, Any]:
    options = {name: config.lifter[name] for name in ("width", "num_layers", "num_heads", "dropout")}
    return {"skeleton": skeleton, **options, "dtype": _dtype(config)}


def _process(config: ConfigDict, predict: str | None = None) -> tuple[Schedule, Plan]:
    """The schedule and the reverse steps; predict names the only target the method is defined for."""
    diffusion = config.diffusion
    if predict is not None and diffusion.predict != predict:
        raise UserError(f"config.diffusion.predict: expected {predict!r} for {config.lifter.name}, "
                        f"found {diffusion.predict!r}")  # fmt: skip
    names = {"cosine": {"max_beta": "max_beta"}}.get(diffusion.schedule, {"start": "beta_start", "end": "beta_end"})
    schedule = make_schedule(diffusion.schedule, diffusion.steps, **{to: diffusion[name] for to, name in names.items()})
    return schedule, make_plan(diffusion, schedule)


def make_plan(diffusion: ConfigDict, schedule: Schedule) -> Plan:
    """The reverse steps a config asks for; `sampling_steps` 0 walks the whole schedule."""
    steps = diffusion.sampling_steps or diffusion.steps
    if diffusion.sampler == "ddim":
        return ddim_plan(schedule, steps, diffusion.eta, diffusion.spacing, diffusion.span or None)
    # Both forms of the posterior mean agree unless x0 is clipped; then only the first one feels it.
    mean = "x0" if diffusion.clip else "eps"
    return ddpm_plan(schedule, None if steps == diffusion.steps else steps, mean)


_SUPERVISED = {
    # 'mpjpe', 'mean_squared', 'squared_and_absolute', 'distance_and_absolute' or 'weighted_temporal', which alone reads
    # the next three.
    "loss": "mpjpe", "joint_weights": "mixste", "weight_consistency": 0.5, "weight_velocity": 2.0,
    # False leaves the root where the network puts it.
    "root_relative": True, "compute_dtype": "float32",
}  # fmt: skip
_TRANSFORMER = {
    "frames": 243, "width": 512, "num_layers": 8, "num_heads": 8, "mlp_ratio": 2.0, "drop_path": 0.1,
    "compute_dtype": "float32",
}  # fmt: skip
_GRAFORMER = {"width": 96, "num_layers": 5, "num_heads": 4, "dropout": 0.25, "compute_dtype": "float32"}
_POSEFORMER = {**_TRANSFORMER, "frames": 81, "width": 32, "num_layers": 4}
_X0_COSINE = {"steps": 1000, "predict": "x0", "sampler": "ddim", "sampling_steps": 5}

METHODS: dict[str, Method] = {
    "diffpose": Method(
        _diffpose,
        # See `diffpose`; feature_width is that of f_ST as it is fed to the denoiser.
        {**_GRAFORMER, "context": "", "base": "mixture", "start": "mixture", "depth": "context",
         "covariance": "full", "features": True, "feature_width": 32},
        {"steps": 50, "predict": "x0", "sampler": "ddim", "sampling_steps": 5, "clip": 0.0},
    ),
    "diffpose_release": Method(
        _diffpose_release,
        {**_GRAFORMER, "context": "", "centre_estimate": True, "mixture_spread": True},
        {"schedule": "linear", "steps": 51, "beta_start": 1e-4, "beta_end": 1e-3, "sampler": "ddim",
         "sampling_steps": 2, "spacing": "even", "span": 24, "clip": 0.0},
    ),
    "diffupose": Method(
        _diffupose,
        {"variant": "gcn", "width": 384, "num_layers": 4, "dropout": 0.0, "weight_2d": 0.8,
         "joint_weights": "limb_ends", "compute_dtype": "float32"},
    ),
    "diffhpe": Method(
        _diffhpe,
        {"frames": 27, "width": 64, "num_layers": 16, "step_width": 128, "dropout": 0.032, "non_local": True,
         "context": "", "condition": "features", "encoding": "concat", "encode_pose": True, "p_uncond": 0.0,
         "guidance": 0.0, "compute_dtype": "float32"},
        {"steps": 50, "max_beta": 0.5, "clip": 0.0},
    ),
    "diff3dhpe": Method(
        _diff3dhpe,
        {**_TRANSFORMER, "backbone": "mixste", "pde": True, "step_embedding": True, "scale": 1.0, "k_clip": 2.0,
         "released_weight": False, "released_eps": False},
        _X0_COSINE,
    ),
    "d3dp": Method(
        _d3dp,
        {**_TRANSFORMER, "signal_scale": 1.0},
        {**_X0_COSINE, "sampling_steps": 10, "eta": 1.0, "clip": 1.1, "flip_inside": True},
    ),
    "mixste": Method(_mixste, {**_TRANSFORMER, **_SUPERVISED, "loss": "weighted_temporal"}, supervised=True),
    "poseformer": Method(_poseformer, {**_POSEFORMER, **_SUPERVISED}, supervised=True),
    "graformer": Method(_graformer, {**_GRAFORMER, **_SUPERVISED}, supervised=True),
    "modulated_gcn": Method(
        _modulated_gcn,
        {**_SUPERVISED, "variant": "gt", "width": 128, "num_layers": 4, "dropout": 0.0, "loss": "squared_and_absolute"},
        supervised=True,
    ),
}  # fmt: skip
