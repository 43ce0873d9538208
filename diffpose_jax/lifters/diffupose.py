"""DiffuPose: the 3D pose of one frame by reverse diffusion with a modulated GCN conditioned on the 2D keypoints.

Choi et al., "DiffuPose: Monocular 3D Human Pose Estimation via Denoising Diffusion Probabilistic Model", IROS 2023.
Diffused is the root-relative pose in metres, unscaled. The network takes the noisy pose beside the keypoints and
returns, per joint, the noise (or x0, or v) and a reconstruction of the keypoints. Sampling starts from noise and clips
x0 to plus and minus 1 m in every step; hypotheses are independent samples, aggregated afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import OptionError, option, read_options
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.diffusion.process import at_step, diffuse, draw_timesteps, predictions, target
from diffpose_jax.diffusion.samplers import Denoiser, clip_x0, initial_noise, sample
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Aux, Batch, Context, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import check_batch, subtract_root
from diffpose_jax.lifters.building import PRECISION_DOC, Precision, clip_bound, make_process
from diffpose_jax.lifters.joint_weights import JointWeights, joint_weights
from diffpose_jax.lifters.networks import apply_in_training, apply_network
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.lifters.visibility import VisibilityOptions, visible_keypoints
from diffpose_jax.models.modulated_gcn import StepModulatedGCN
from diffpose_jax.models.step_mlp import StepResidualMLP
from diffpose_jax.models.unet import UNetDenoiser
from diffpose_jax.skeleton import Skeleton

Variant = Literal["gcn", "unet", "mlp"]
DENOISERS: dict[Variant, Callable[..., nn.Module]] = {
    "gcn": StepModulatedGCN,
    "unet": UNetDenoiser,
    "mlp": StepResidualMLP,
}


@dataclasses.dataclass(frozen=True)
class DiffuPoseOptions(VisibilityOptions):
    """What a config says of DiffuPose."""

    variant: Variant = option(
        "gcn", "denoiser: the modulated GCN, our reconstruction of the ablation's U-Net, or a residual MLP (ours)"
    )
    width: int = option(384, "channels of a joint", low=4, source="section IV-A")
    num_layers: int = option(4, "residual blocks", low=1)
    dropout: float = option(0.0, "rate of dropout", low=0, high=0.99)
    scale: float = option(
        1.0, "length that becomes 1 in what is diffused; poses have a deviation of 0.25 m", above=0, unit="m"
    )
    norm: Literal["absolute", "square"] = option(
        "absolute", "what the loss is a mean of", source="the release; the paper leaves it open"
    )
    weight_2d: float = option(0.8, "weight of the reconstructed keypoints in the loss", low=0, source="the release")
    joint_weights: JointWeights = option("limb_ends", "weights of the joints in the loss", source="the release")
    compute_dtype: Precision = option("float32", PRECISION_DOC)

    def check(self) -> None:
        """The denoisers halve the width several times."""
        step, least = (16, 32) if self.variant == "gcn" else (4, 4)
        if self.width % step or self.width < least:
            raise OptionError("width", f"a multiple of {step}, at least {least}", self.width)


@dataclasses.dataclass(frozen=True)
class DiffuPose(Lifter):
    """DiffuPose around `network(x [B, 1, J, 3], keypoints [B, 1, J, 2 or 3], k [B]) -> [B, 1, J, 5]`.

    The first three channels of the output are what `predict` names; x0, in units of `options.scale`, is clipped to plus
    and minus `clip` metres.
    """

    options_type: ClassVar[type[DiffuPoseOptions]] = DiffuPoseOptions

    network: nn.Module
    skeleton: Skeleton
    schedule: Schedule
    plan: Plan
    options: DiffuPoseOptions = DiffuPoseOptions()
    predict: str = "eps"
    clip: float = 1.0

    @classmethod
    def build(cls, config: ConfigDict, skeleton: Skeleton, context: Context, axis_name: str | None) -> DiffuPose:
        """DiffuPose with the denoiser that `variant` names. For the arguments see `Lifter.build`."""
        options = read_options(cls.options_type, config.lifter, "lifter")
        sizes = {name: getattr(options, name) for name in ("width", "num_layers", "dropout")}
        network = DENOISERS[options.variant](
            skeleton=skeleton, **sizes, axis_name=axis_name, dtype=jnp.dtype(options.compute_dtype)
        )
        schedule, plan = make_process(config, "eps", "x0", "v")
        return cls(network, skeleton, schedule, plan, options, config.diffusion.predict, clip_bound(config))

    def init(self, key: Array, batch: Batch) -> Variables:
        k = jnp.zeros(len(batch.index), jnp.int32)
        return self.network.init(key, batch.poses, visible_keypoints(batch, self.options.visibility), k, train=False)

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """The error of the prediction and of the reconstructed keypoints, see `denoising_loss`."""
        check_batch(batch, self.skeleton, self.frames)
        keys = example_keys(key, batch.index)
        k = draw_timesteps(keys, len(keys), self.schedule.num_steps)
        x0, noise = batch.poses / self.options.scale, initial_noise(keys, batch.poses.shape)
        # The root, which is zero, is diffused and denoised like every other joint.
        x_k = diffuse(self.schedule, x0, k, noise)
        keypoints = visible_keypoints(batch, self.options.visibility)
        output, batch_stats = apply_in_training(self.network, variables, key, batch.index, x_k, keypoints, k)
        wanted = target(self.predict, x0, noise, at_step(self.schedule.alpha_bar, k, noise))
        weights = jnp.asarray(joint_weights(self.options.joint_weights, self.skeleton))
        options = self.options
        total, displayed = denoising_loss(output, wanted, keypoints[..., :2], weights, options.weight_2d, options.norm)
        return total, Aux({"loss": total, "loss_unweighted": displayed}, batch_stats)

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, 1, J, 3]` (m) by ancestral sampling from noise. For the arguments see `Lifter.sample`."""
        check_batch(batch, self.skeleton, self.frames)
        denoiser = sampling.wrap(self.denoiser(variables, visible_keypoints(batch, self.options.visibility)))

        def draw_one(keys: Array) -> Array:
            noise = sampling.draw_noise(keys, batch.poses.shape)
            x0 = sample(keys, denoiser, noise, sampling.plan or self.plan)
            return subtract_root(self.options.scale * x0, self.skeleton)

        return draw_hypotheses(draw_one, key, batch.index, sampling)

    def denoiser(self, variables: Variables, keypoints: Array) -> Denoiser:
        """The denoiser of keypoints `[B, 1, J, 2]`, or with the channel of `visibility` `[B, 1, J, 3]`."""

        def predict(x: Array, k: Array) -> tuple[Array, Array]:
            # The reconstructed keypoints serve the loss only.
            output = apply_network(self.network, variables, x, keypoints, k)[..., :3]
            return predictions(self.predict, output.astype(x.dtype), x, at_step(self.schedule.alpha_bar, k, x))

        # At the noisiest of 100 cosine timesteps sqrt(abar) is 0.0005: an error of 0.01 in eps is one of 20 in x0.
        # Without the clip the first reverse steps would carry samples away. Its price is that a raised wrist, which can
        # be farther than 1 m from the hip along one axis, is cut off there.
        limit = self.clip / self.options.scale
        return clip_x0(predict, self.schedule.alpha_bar, -limit, limit)


def denoising_loss(
    output: Array,
    pose_target: Array,
    keypoints: Array,
    joint_weights: Array,
    weight_2d: float,
    norm: Literal["absolute", "square"] = "absolute",
) -> tuple[Array, Array]:
    """The loss of the release, and the figure that its progress bar shows, which leaves the joint weights out.

    The paper has L1 + lambda L2 with norm and lambda unstated; the release takes the mean absolute error of both parts.

    Args:
        output: The network's output `[B, F, J, 5]`.
        pose_target: What its first three channels should be, `[B, F, J, 3]`.
        keypoints: What its last two should be, `[B, F, J, 2]`, normalised image units.
        joint_weights: Weights of the joints, `[J]`.
        weight_2d: Weight of the keypoints.
        norm: Whether errors are taken absolute or squared.
    """
    # The absolute error is least at the median of the noise given the state, the squared one at its mean, which the
    # sampler's derivation takes it for.
    channels = jnp.array([1.0, 1.0, 1.0, weight_2d, weight_2d], output.dtype)
    wanted = jnp.concatenate([pose_target, keypoints], axis=-1)
    error = output - wanted
    error = (jnp.abs(error) if norm == "absolute" else jnp.square(error)) * channels[None, None, None, :]
    return jnp.mean(error * joint_weights[None, None, :, None]), jnp.mean(error)
