"""DiffPose as released: another lifter's estimate, refined by diffusion of image and metric coordinates together.

Gong et al., "DiffPose: Toward More Reliable 3D Pose Estimation", CVPR 2023, as its two releases compute it, for frames
and for video. Diffused is `(u, v, x, y, z)` of every joint: normalised image units beside root-relative metres. The
schedule is so weak (0.17 m at its end) that the process stays near the pose, and the denoiser is trained on true poses
alone. Sampling starts at the estimate of a frozen context lifter, GraFormer for a frame and MixSTE for video, taken as
it is for the state at an early timestep, so that all hypotheses agree. Frames are refined one by one.

The published method, `lifters.diffpose.method`, differs in where it starts (draws of a distribution H_K fitted to
detector heatmaps), in its forward process (around that distribution's mean) and in the network's input (the context's
features).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import option, read_options
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.diffusion.process import at_step, diffuse, draw_timesteps, predictions
from diffpose_jax.diffusion.samplers import Denoiser, sample
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys, split, standard_normal
from diffpose_jax.lifters.base import Aux, Batch, Context, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import check_batch, subtract_root
from diffpose_jax.lifters.building import GraFormerOptions, make_process
from diffpose_jax.lifters.cross_fitted import CrossFitted
from diffpose_jax.lifters.diffpose.initial_distribution import estimate_pose
from diffpose_jax.lifters.networks import apply_in_training, apply_network
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.models.normalisation import index_rows
from diffpose_jax.sections import DiffusionOptions
from diffpose_jax.skeleton import Skeleton

# Standard deviations of the noise in u, v, x, y, z where no mixture says otherwise: image units, then metres.
NOISE_STD = (0.5, 0.5, 1.0, 1.0, 1.0)
# Those with which `noise_estimate` diffuses the estimate: the test-time constants of the video release, which it never
# uses.
ESTIMATE_STD = (0.01, 0.01, 1.0, 1.0, 1.0)

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class DiffPoseReleaseOptions(GraFormerOptions):
    """What a config says of DiffPose as released."""

    context: str = option("", "work directory of the frozen lifter whose estimate is refined")
    centre_estimate: bool = option(True, "subtract the root from the estimate", source="True: frames; False: video")
    mixture_spread: bool = option(
        True,
        "the drawn component's standard deviation scales the noise of u and v",
        source="True: frames; False: video",
    )
    noise_estimate: bool = option(
        False, "diffuse the estimate to the first timestep before sampling", source="a line that the releases leave out"
    )


@dataclasses.dataclass(frozen=True)
class DiffPoseRelease(Lifter):
    """DiffPose as released around `network(x [B, F, J, 5], k) -> eps [B, F, J, 5]` and a frozen deterministic
    `context`.

    The frames of a window are those of the context, whose variables are `variables['frozen']`; training does not use
    them. Flip averaging is that of the context's estimate alone, as in the video release.
    """

    options_type: ClassVar[type[DiffPoseReleaseOptions]] = DiffPoseReleaseOptions
    # For detections: of the first 24 timesteps 12 and 0. For exact keypoints the release takes 6 and 0 of the first 12.
    diffusion: ClassVar[DiffusionOptions] = DiffusionOptions(
        schedule="linear", steps=51, beta_start=1e-4, beta_end=1e-3, sampler="ddim", sampling_steps=2, spacing="even",
        num_timesteps=24, clip=0.0,
    )  # fmt: skip
    needs_context: ClassVar[bool] = True

    network: nn.Module
    skeleton: Skeleton
    schedule: Schedule
    plan: Plan
    context: Lifter
    options: DiffPoseReleaseOptions = DiffPoseReleaseOptions()

    def __post_init__(self) -> None:
        if self.context.stochastic or self.context.middle_frame:
            raise UserError("DiffPose context: expected a lifter that gives one pose for every frame")
        if self.takes_mask:  # what is diffused has the keypoints in it, with no place for one that was not seen
            raise UserError("config.lifter.visibility: expected 'ignore' for DiffPose as released, found "
                            f"{self.options.visibility!r}")  # fmt: skip

    @classmethod
    def build(cls, config: ConfigDict, skeleton: Skeleton, context: Context, axis_name: str | None) -> DiffPoseRelease:
        """DiffPose as released around the lifter whose estimate it refines. For the arguments see `Lifter.build`."""
        options = read_options(cls.options_type, config.lifter, "lifter")
        network = GraFormer(**options.network_fields(skeleton), out_channels=5, step=True)
        # The video release takes the context's pose with the root where its network puts it.
        inner: Any = context.lifter if isinstance(context, CrossFitted) else context
        if hasattr(inner.options, "root_relative"):
            inner_options = dataclasses.replace(inner.options, root_relative=options.centre_estimate)
            inner = dataclasses.replace(inner, options=inner_options)
        if isinstance(context, CrossFitted):
            inner = dataclasses.replace(context, lifter=inner)
        return cls(network, skeleton, *make_process(config, "eps"), inner, options)

    @property
    def frames(self) -> int:
        return self.context.frames

    @property
    def stochastic(self) -> bool:
        return self.options.noise_estimate or bool(np.any(self.plan.table[:, 3]))

    @property
    def averages_flips(self) -> bool:
        return True

    def init(self, key: Array, batch: Batch) -> Variables:
        network_key, context_key = jax.random.split(key)
        x = jnp.concatenate([batch.keypoints, batch.poses], axis=-1)
        variables = self.network.init(network_key, x, jnp.zeros(len(batch.index), jnp.int32), train=False)
        return {**variables, "frozen": self.context.init(context_key, batch)}

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """The squared error of the predicted, scaled noise, summed over a pose."""
        check_batch(batch, self.skeleton, self.frames)
        step_key, noise_key, dropout_key = jax.random.split(key, 3)
        batch = split_batch(batch)
        k = antithetic_steps(step_key, batch.index, self.schedule.num_steps)
        # The network's target is the scaled noise: an error of 1 is half the width of the image in u and v and a metre
        # in x, y and z.
        x0, noise = draw_forward(example_keys(noise_key, batch.index), batch, self.options.mixture_spread)
        x_k = diffuse(self.schedule, x0, k, noise)
        output, batch_stats = apply_in_training(self.network, variables, dropout_key, batch.index, x_k, k)
        total = denoising_loss(output, noise)
        return total, Aux({"loss": total}, batch_stats)

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]` (m): the context's estimate, refined. For the arguments see `Lifter.sample`."""
        check_batch(batch, self.skeleton, self.frames)
        plan, denoiser = sampling.plan or self.plan, sampling.wrap(self.denoiser(variables))
        poses = estimate_pose(self.context, variables["frozen"], batch, sampling.averages_flips)
        poses = subtract_root(poses, self.skeleton) if self.options.centre_estimate else poses
        estimate, index = share_noise(jnp.concatenate([batch.keypoints, poses], axis=-1), batch.index, sampling)

        def draw_one(keys: Array) -> Array:
            # The estimate stands for the state at the first timestep of the plan, though no noise was added to it. By
            # default that is timestep 12, where sqrt(1 - abar) is 0.05: noise of 5 cm, about as large as the errors of
            # a lifter.
            state = estimate
            if self.options.noise_estimate:
                noise = jnp.asarray(ESTIMATE_STD)[None, None, None] * sampling.draw_noise(keys, estimate.shape)
                state = diffuse(self.schedule, estimate, jnp.asarray(plan.step[0]), noise)
            return subtract_root(sample(keys, denoiser, state, plan)[..., 2:], self.skeleton)

        return join_frames(draw_hypotheses(draw_one, key, index, sampling), batch.poses.shape)

    def denoiser(self, variables: Variables) -> Denoiser:
        """The denoiser; its input is the state alone, which has the keypoints in it."""

        def predict(x: Array, k: Array) -> tuple[Array, Array]:
            # u and v are denoised along with x, y and z, and not set back to the keypoints, as released.
            eps = apply_network(self.network, variables, x, k)
            return predictions("eps", eps.astype(x.dtype), x, at_step(self.schedule.alpha_bar, k, x))

        return predict


def draw_forward(keys: Array, batch: Batch, mixture_spread: bool = True) -> tuple[Array, Array]:
    """x0 and noise `[N, 1, J, 5]` of the releases' forward process, whose mean is zero: the signal shrinks to zero.

    With the batch's mixture of 2D Gaussians, u and v are the mean of a component drawn per joint, and that component's
    spread scales their noise in place of `NOISE_STD` (the frame release) unless mixture_spread is False (the video
    release).
    """
    noise_keys, mixture_keys = split(keys)
    shape = (*batch.poses.shape[:-1], 5)
    keypoints, noise = batch.keypoints, jnp.asarray(NOISE_STD)[None, None, None] * standard_normal(noise_keys, shape)
    if batch.mixture is not None:
        keypoints, spread = batch.mixture.draw(mixture_keys)
        noise = jnp.concatenate([spread, noise[..., 2:]], axis=-1) if mixture_spread else noise
    return jnp.concatenate([keypoints, batch.poses], axis=-1), noise


def denoising_loss(output: Array, noise: Array) -> Array:
    """The squared error of the predicted (scaled) noise `[N, 1, J, 5]`: summed over a pose, averaged over poses."""
    return jnp.mean(jnp.sum(jnp.square(output - noise), axis=(-3, -2, -1)))


def antithetic_steps(key: Array, index: Array, num_steps: int) -> Array:
    """Draw timesteps `[N]`, uniform over 0 .. num_steps - 1, such that examples 2m and 2m + 1 take k and num_steps - 1
    - k.

    The releases pair the first half of a batch with the second; pairs by example index do not depend on the number of
    devices that a batch is spread over.
    """
    # Each timestep is still uniform, so that the expected loss is the same. The mean of a pair is always (num_steps -
    # 1) / 2, which takes variance from a loss that rises or falls with k.
    k = draw_timesteps(example_keys(key, index // 2), len(index), num_steps)
    return jnp.where(index % 2 == 0, k, num_steps - 1 - k)


def split_frames(parts: Tree) -> Tree:
    """The frames of arrays `[B, F, ...]` as examples `[B F, 1, ...]`."""
    return jax.tree.map(lambda part: part.reshape(-1, 1, *part.shape[2:]), parts)


def share_noise(parts: Tree, index: Array, sampling: Sampling) -> tuple[Tree, Array]:
    """What sampling is given of windows, arrays `[B, F, ...]`, and the index of each example.

    With noise by clip the frames of a window, which are denoised one by one, become examples `[B F, 1, ...]` with the
    index of their window, so that all noise of a hypothesis is the same in all of them.
    """
    if sampling.noise == "frame":
        return parts, index
    frames = jax.tree.leaves(parts)[0].shape[1]
    return split_frames(parts), jnp.repeat(index, frames)


def join_frames(poses: Array, shape: tuple[int, ...]) -> Array:
    """Hypotheses `[H, B F, 1, J, 3]` of the frames of windows, or those of windows, as `[H, B, F, J, 3]`, `shape`."""
    return poses.reshape(-1, *shape)


def split_batch(batch: Batch) -> Batch:
    """The frames of a batch `[B, F, ...]` as examples `[B F, 1, ...]`, each with an index of its own."""
    leading = batch.keypoints.shape[:2]
    index = index_rows(batch.index, leading)
    return Batch(*split_frames(batch[:3]), index, split_frames(batch.mixture))
