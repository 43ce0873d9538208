"""The supervised lifters: one network, one forward pass, all hypotheses alike.

MixSTE (Zhang et al., CVPR 2022) lifts sequences, PoseFormer (Zheng et al., ICCV 2021) the middle frame of one,
GraFormer (Zhao et al., CVPR 2022), Modulated GCN (Zou and Tang, ICCV 2021) and the residual MLP (Martinez et al., ICCV
2017) single frames. The activations before the last layer are what a frozen one of them gives a diffusion lifter as
context.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import option, read_options
from diffpose_jax.lifters.base import Aux, Batch, Context, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import check_batch, subtract_root
from diffpose_jax.lifters.building import PRECISION_DOC, GraFormerOptions, Precision, TransformerOptions
from diffpose_jax.lifters.joint_weights import JointWeights, joint_weights
from diffpose_jax.lifters.networks import apply_in_training, apply_network
from diffpose_jax.lifters.pose_losses import POSE_LOSSES, PoseLoss, mixste_loss
from diffpose_jax.lifters.visibility import VisibilityOptions, visible_keypoints
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.modulated_gcn import VARIANTS, ModulatedGCN
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.models.residual_mlp import Norm, ResidualMLP
from diffpose_jax.skeleton import Skeleton

Loss = Literal["mpjpe", "mean_squared", "squared_and_absolute", "distance_and_absolute", "weighted_temporal"]


@dataclasses.dataclass(frozen=True)
class SupervisedOptions(VisibilityOptions):
    """What all supervised lifters have in common."""

    middle_frame: ClassVar[bool] = False

    loss: Loss = option("mpjpe", "what is minimised; 'weighted_temporal' is MixSTE's and alone reads the next three")
    joint_weights: JointWeights = option("mixste", "weights of the joints")
    weight_consistency: float = option(0.5, "weight of temporal consistency", low=0, source="MixSTE's release")
    weight_velocity: float = option(
        2.0, "weight of the velocity error", low=0, source="MixSTE's release; 1.0 in the paper"
    )
    root_relative: bool = option(True, "subtract the root; otherwise it stays where the network puts it")
    compute_dtype: Precision = option("float32", PRECISION_DOC)

    def pose_loss(self, skeleton: Skeleton) -> PoseLoss:
        """The loss `(poses, target) -> scalar` of these options."""
        if self.loss != "weighted_temporal":
            return POSE_LOSSES[self.loss]
        weights = joint_weights(self.joint_weights, skeleton)
        return mixste_loss(weights, self.weight_consistency, self.weight_velocity)

    def make_network(self, skeleton: Skeleton, axis_name: str | None) -> nn.Module:
        """The network `keypoints [B, F, J, 2 or 3] -> poses [B, F, J, 3]` of these options."""
        raise TypeError(f"{type(self).__name__} describes no network")


@dataclasses.dataclass(frozen=True)
class Supervised(Lifter):
    """A lifter around `network(keypoints [B, F, J, 2]) -> poses [B, F, J, 3]`, m, `[B, 1, J, 3]` of a middle frame."""

    options_type: ClassVar[type[SupervisedOptions]] = SupervisedOptions

    network: nn.Module
    skeleton: Skeleton
    options: SupervisedOptions = SupervisedOptions()

    @classmethod
    def build(cls, config: ConfigDict, skeleton: Skeleton, context: Context, axis_name: str | None) -> Supervised:
        """A supervised lifter of the network that the options describe. For the arguments see `Lifter.build`."""
        options = read_options(cls.options_type, config.lifter, "lifter")
        return cls(options.make_network(skeleton, axis_name), skeleton, options)

    @property
    def middle_frame(self) -> bool:
        return self.options.middle_frame

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, key: Array, batch: Batch) -> Variables:
        return self.network.init(key, self.network_input(batch), train=False)

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        check_batch(batch, self.skeleton, self.frames)
        poses, batch_stats = apply_in_training(self.network, variables, key, batch.index, self.network_input(batch))
        # The loss is of the network's output as it is: that the root is zero is learned, and only `sample` subtracts
        # it.
        middle = self.frames // 2
        target = batch.poses[:, middle : middle + 1] if self.middle_frame else batch.poses
        total = self.options.pose_loss(self.skeleton)(poses, target)
        return total, Aux({"loss": total}, batch_stats)

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """The one pose of each frame H times, `[H, B, F or 1, J, 3]` (m). For the arguments see `Lifter.sample`."""
        check_batch(batch, self.skeleton, self.frames)
        poses = apply_network(self.network, variables, self.network_input(batch))
        poses = subtract_root(poses, self.skeleton) if self.options.root_relative else poses
        # The posterior of a deterministic lifter is a single pose, so that all hypotheses agree.
        return jnp.broadcast_to(poses[None], (sampling.hypotheses, *poses.shape))

    def network_input(self, batch: Batch) -> Array:
        """The keypoints `[B, F, J, 2]`, or with a channel of `visibility`, `[B, F, J, 3]`."""
        return visible_keypoints(batch, self.options.visibility)

    def features(self, variables: Variables, batch: Batch) -> Array:
        """The activations `[B, F, J, C]` before the last layer, of what `network_input` gives."""
        features: Any = self.network.apply(variables, self.network_input(batch), train=False, features=True)
        return features


@dataclasses.dataclass(frozen=True)
class MixSTEOptions(SupervisedOptions, TransformerOptions):
    """What a config says of MixSTE."""

    loss: Loss = option("weighted_temporal", "what is minimised; 'weighted_temporal' alone reads the next three")

    def make_network(self, skeleton: Skeleton, axis_name: str | None) -> nn.Module:
        return MixSTE(**self.network_fields(skeleton))


class MixSTELifter(Supervised):
    """MixSTE: all poses of a window by alternating spatial and temporal attention."""

    options_type = MixSTEOptions


@dataclasses.dataclass(frozen=True)
class PoseFormerOptions(SupervisedOptions, TransformerOptions):
    """What a config says of PoseFormer."""

    middle_frame: ClassVar[bool] = True

    frames: int = option(81, "frames of a window", low=1, unit="frames")
    width: int = option(32, "channels of a joint; a frame's token has this times the joints", low=1)
    num_layers: int = option(4, "spatial blocks, and as many temporal ones", low=1)

    def make_network(self, skeleton: Skeleton, axis_name: str | None) -> nn.Module:
        fields = self.network_fields(skeleton)
        return PoseFormer(joint_width=fields.pop("width"), **fields)


class PoseFormerLifter(Supervised):
    """PoseFormer: the pose of a window's middle frame."""

    options_type = PoseFormerOptions


@dataclasses.dataclass(frozen=True)
class GraFormerLifterOptions(SupervisedOptions, GraFormerOptions):
    """What a config says of GraFormer."""

    def make_network(self, skeleton: Skeleton, axis_name: str | None) -> nn.Module:
        return GraFormer(**self.network_fields(skeleton))


class GraFormerLifter(Supervised):
    """GraFormer: one frame by attention over joints and Chebyshev graph convolutions."""

    options_type = GraFormerLifterOptions


@dataclasses.dataclass(frozen=True)
class ModulatedGCNOptions(SupervisedOptions):
    """What a config says of Modulated GCN."""

    loss: Loss = option("squared_and_absolute", "what is minimised", source="the release for ground-truth keypoints")
    variant: Literal["gt", "benchmark"] = option(
        "gt", "the release's network for ground-truth keypoints or for detections"
    )
    width: int = option(128, "channels of a joint", low=1)
    num_layers: int = option(4, "residual blocks", low=1)
    dropout: float = option(0.0, "rate of dropout", low=0, high=0.99)

    def make_network(self, skeleton: Skeleton, axis_name: str | None) -> nn.Module:
        sizes = {name: getattr(self, name) for name in ("width", "num_layers", "dropout")}
        fields = {**VARIANTS[self.variant], **sizes, "dtype": jnp.dtype(self.compute_dtype)}
        return ModulatedGCN(skeleton=skeleton, axis_name=axis_name, **fields)


class ModulatedGCNLifter(Supervised):
    """Modulated GCN: one frame by graph convolutions with a weight of its own for each joint."""

    options_type = ModulatedGCNOptions


@dataclasses.dataclass(frozen=True)
class ResidualMLPOptions(SupervisedOptions):
    """What a config says of the residual MLP."""

    loss: Loss = option("mean_squared", "what is minimised", source="section 3.1")
    width: int = option(1024, "channels of the hidden layers", low=1, source="section 3.2")
    num_layers: int = option(2, "residual blocks of two linear layers", low=1, source="section 3.2")
    dropout: float = option(0.5, "rate of dropout after every hidden layer", low=0, high=0.99, source="section 3.2")
    norm: Norm = option(
        "batch", "normalisation after every hidden layer: over the 'batch', or of each example's 'layer'"
    )
    max_norm: float = option(
        0.0, "largest norm of a layer's kernel; 0: not bounded", low=0, source="1 in the paper, section 3.2"
    )

    def make_network(self, skeleton: Skeleton, axis_name: str | None) -> nn.Module:
        names = ("width", "num_layers", "dropout", "norm", "max_norm")
        fields = {name: getattr(self, name) for name in names}
        return ResidualMLP(skeleton.num_joints, axis_name=axis_name, dtype=jnp.dtype(self.compute_dtype), **fields)


class ResidualMLPLifter(Supervised):
    """The residual MLP: one frame by linear layers over all its coordinates at once."""

    options_type = ResidualMLPOptions
