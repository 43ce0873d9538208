"""Every method from a config: its options, the diffusion it was published with, and how it is put together."""

from __future__ import annotations

from ml_collections import ConfigDict

from diffpose_jax.lifters.base import Lifter
from diffpose_jax.lifters.d3dp import d3dp
from diffpose_jax.lifters.diff3dhpe import diff3dhpe
from diffpose_jax.lifters.diffhpe import diffhpe
from diffpose_jax.lifters.diffpose.method import diffpose
from diffpose_jax.lifters.diffpose.release import VIDEO_SCALE, diffpose_release, released_forward
from diffpose_jax.lifters.diffupose import diffupose
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.lifters.parts import (
    GRAFORMER,
    TRANSFORMER,
    Method,
    chosen,
    clip_of,
    compute_dtype,
    graph_sizes,
    poseformer_sizes,
    process_of,
    transformer_sizes,
)
from diffpose_jax.lifters.supervised_methods import SUPERVISED_METHODS, build_context
from diffpose_jax.models.context_graformer import ContextGraFormer
from diffpose_jax.models.csdi_gcn import CSDIGCN
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.modulated_gcn import StepModulatedGCN
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.models.unet import UNetDenoiser
from diffpose_jax.skeleton import Skeleton


def _diffpose(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    network = ContextGraFormer(**graph_sizes(config, skeleton), feature_width=options.feature_width)
    return diffpose(
        network,
        skeleton,
        *process_of(config),
        context=build_context(config),
        predict=config.diffusion.predict,
        base=options.base,
        start=options.start,
        depth=options.depth,
        covariance=options.covariance,
        assignment=options.assignment,
        features=options.features,
    )


def _diffpose_release(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    network = GraFormer(**graph_sizes(config, skeleton), out_channels=5, step=True)
    return diffpose_release(
        network,
        skeleton,
        *process_of(config, "eps"),
        context=build_context(config, root_relative=options.centre_estimate),
        centre_estimate=options.centre_estimate,
        forward=released_forward(VIDEO_SCALE, options.mixture_spread),
    )


def _diffupose(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    network = chosen("variant", options.variant, {"gcn": StepModulatedGCN, "unet": UNetDenoiser})(
        skeleton=skeleton,
        width=options.width,
        num_layers=options.num_layers,
        dropout=options.dropout,
        axis_name=axis_name,
        dtype=compute_dtype(config),
    )
    return diffupose(
        network,
        skeleton,
        *process_of(config),
        predict=config.diffusion.predict,
        clip=clip_of(config),
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
        dtype=compute_dtype(config),
    )
    context = build_context(config) if options.context else None
    return diffhpe(
        network,
        skeleton,
        *process_of(config, "eps"),
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
        network = PoseFormer(**poseformer_sizes(config, skeleton), pde=options.pde, step=step)
    else:
        middle_frame = chosen("backbone", options.backbone, {"mixste": False, "mixste_middle": True})
        sizes = transformer_sizes(config, skeleton)
        network = MixSTE(**sizes, pde=options.pde, step=step, middle_frame=middle_frame)
    return diff3dhpe(
        network,
        skeleton,
        *process_of(config, "x0"),
        frames=options.frames,
        scale=options.scale,
        clip=clip_of(config),
        k_clip=options.k_clip,
        released_weight=options.released_weight,
        released_eps=options.released_eps,
        middle_frame=options.backbone != "mixste",
        flip_inside=config.diffusion.flip_inside,
    )


def _d3dp(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    return d3dp(
        MixSTE(**transformer_sizes(config, skeleton), step="once"),
        skeleton,
        *process_of(config, "x0"),
        frames=options.frames,
        clip=clip_of(config),
        signal_scale=options.signal_scale,
        flip_inside=config.diffusion.flip_inside,
    )


_X0_COSINE = {"steps": 1000, "predict": "x0", "sampler": "ddim", "sampling_steps": 5}

METHODS: dict[str, Method] = {
    "diffpose": Method(
        _diffpose,
        # See `diffpose`; feature_width is that of f_ST as it is fed to the denoiser.
        {**GRAFORMER, "context": "", "base": "mixture", "start": "mixture", "depth": "context",
         "covariance": "full", "assignment": "posterior", "features": True, "feature_width": 32},
        {"steps": 50, "predict": "x0", "sampler": "ddim", "sampling_steps": 5, "clip": 0.0},
    ),
    "diffpose_release": Method(
        _diffpose_release,
        {**GRAFORMER, "context": "", "centre_estimate": True, "mixture_spread": True},
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
        {**TRANSFORMER, "backbone": "mixste", "pde": True, "step_embedding": True, "scale": 1.0, "k_clip": 2.0,
         "released_weight": False, "released_eps": False},
        _X0_COSINE,
    ),
    "d3dp": Method(
        _d3dp,
        {**TRANSFORMER, "signal_scale": 1.0},
        {**_X0_COSINE, "sampling_steps": 10, "eta": 1.0, "clip": 1.1, "flip_inside": True},
    ),
    **SUPERVISED_METHODS,
}  # fmt: skip
