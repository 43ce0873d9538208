"""The supervised lifters from a config: their options and losses, and how one becomes the context of another method."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.lifters.parts import (
    GRAFORMER,
    TRANSFORMER,
    Method,
    chosen,
    compute_dtype,
    graph_sizes,
    poseformer_sizes,
    transformer_sizes,
)
from diffpose_jax.lifters.pose_losses import (
    PoseLoss,
    distance_and_absolute,
    mean_squared,
    mixste_loss,
    mpjpe,
    squared_and_absolute,
)
from diffpose_jax.lifters.supervised import supervised
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.modulated_gcn import VARIANTS, ModulatedGCN
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.skeleton import Skeleton, get_skeleton

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
        return chosen("loss", options.loss, {**_POSE_LOSSES, "weighted_temporal": None})
    return mixste_loss(skeleton, weights, consistency=options.weight_consistency, velocity=options.weight_velocity)


def _supervised(network: nn.Module, config: ConfigDict, skeleton: Skeleton, middle_frame: bool = False) -> Lifter:
    options = config.lifter
    pose_loss, frames = _pose_loss(config, skeleton), options.get("frames", 1)
    shape = {"middle_frame": middle_frame, "root_relative": options.root_relative}
    return supervised(network, skeleton, pose_loss, frames, **shape)


def _mixste(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    network = MixSTE(**transformer_sizes(config, skeleton))
    return _supervised(network, config, skeleton)


def _poseformer(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    network = PoseFormer(**poseformer_sizes(config, skeleton))
    return _supervised(network, config, skeleton, middle_frame=True)


def _graformer(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    network = GraFormer(**graph_sizes(config, skeleton))
    return _supervised(network, config, skeleton)


def _modulated_gcn(config: ConfigDict, skeleton: Skeleton, axis_name: str | None) -> Lifter:
    options = config.lifter
    given = {name: options[name] for name in ("width", "num_layers", "dropout")}
    network = ModulatedGCN(
        skeleton=skeleton,
        axis_name=axis_name,
        dtype=compute_dtype(config),
        **{**chosen("variant", options.variant, VARIANTS), **given},
    )
    return _supervised(network, config, skeleton)


def build_context(config: ConfigDict, **options: Any) -> Lifter:
    """The frozen lifter that a config's `context` section describes, with some options of its own changed.

    Raises UserError where it cannot serve as one.
    """
    if not config.context:
        raise UserError(
            "config.lifter.context: expected the work directory of a trained lifter (mixste, graformer, ...), found "
            f"{config.lifter.context!r}; train or convert one first"
        )
    method = SUPERVISED_METHODS.get(config.context.name)
    if method is None:
        raise UserError(f"config.lifter.context: expected a supervised lifter, found {config.context.name}")
    inner = ConfigDict(config.to_dict())
    inner.lifter, inner.context = ConfigDict({**config.context.to_dict(), **options}), ConfigDict()
    return method.build(inner, get_skeleton(config.data.layout), None)


_OPTIONS = {
    # 'mpjpe', 'mean_squared', 'squared_and_absolute', 'distance_and_absolute' or 'weighted_temporal', which alone reads
    # the next three.
    "loss": "mpjpe", "joint_weights": "mixste", "weight_consistency": 0.5, "weight_velocity": 2.0,
    # False leaves the root where the network puts it.
    "root_relative": True, "compute_dtype": "float32",
}  # fmt: skip
_POSEFORMER = {**TRANSFORMER, "frames": 81, "width": 32, "num_layers": 4}

SUPERVISED_METHODS: dict[str, Method] = {
    "mixste": Method(_mixste, {**TRANSFORMER, **_OPTIONS, "loss": "weighted_temporal"}),
    "poseformer": Method(_poseformer, {**_POSEFORMER, **_OPTIONS}),
    "graformer": Method(_graformer, {**GRAFORMER, **_OPTIONS}),
    "modulated_gcn": Method(
        _modulated_gcn,
        {**_OPTIONS, "variant": "gt", "width": 128, "num_layers": 4, "dropout": 0.0, "loss": "squared_and_absolute"},
    ),
}  # fmt: skip
