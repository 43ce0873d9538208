"""Diff3DHPE: pose sequences by deterministic DDIM in few steps, with graph-diffusion attention in the denoiser.

Zhou et al., "Diff3DHPE: A Diffusion Model for 3D Human Pose Estimation", ICCV workshops 2023. Diffused are
root-relative poses divided by one length. The network takes the keypoints beside the noisy poses and returns the clean
ones; the loss is their squared error, weighted by the timestep. M is MixSTE, all frames at once. P is PoseFormer: only
the middle frame's pose is diffused, and stands beside the keypoints of every frame; the release does the same with a
MixSTE whose head mixes the frames. The release departs from the paper in two places, both options here.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import OptionError, option, read_options
from diffpose_jax.diffusion.process import at_step, diffuse, draw_timesteps, predictions, snr_weight
from diffpose_jax.diffusion.samplers import (
    Denoiser,
    Plan,
    clip_x0,
    eps_without_root_release,
    flip_average,
    initial_noise,
    sample,
)
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Aux, Batch, Context, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import check_batch, zero_root
from diffpose_jax.lifters.building import TransformerOptions, clip_bound, make_process
from diffpose_jax.lifters.networks import apply_in_training, apply_network
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.lifters.visibility import visible_keypoints
from diffpose_jax.models.frame_transformer import FrameTransformer
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.sections import DiffusionOptions
from diffpose_jax.skeleton import Skeleton, mirror


@dataclasses.dataclass(frozen=True)
class Diff3DHPEOptions(TransformerOptions):
    """What a config says of Diff3DHPE."""

    backbone: Literal["mixste", "mixste_middle", "poseformer", "frames"] = option(
        "mixste", "M, the release's MixSTE for the middle frame, P, or (ours) a transformer over frames"
    )
    pde: bool = option(True, "attention by graph diffusion instead of softmax alone", source="section 3.3")
    step_embedding: bool = option(True, "give the network the timestep", source="the release does not on MPI-INF-3DHP")
    scale: float = option(
        1.0, "length that becomes 1; [-1, 1] wants the largest coordinate of all poses", above=0, unit="m"
    )
    k_clip: float = option(
        2.0, "largest k_t in the loss weights 1 + min(k_t, k_clip)", low=0, source="equations 10 and 11"
    )
    weight_release: bool = option(False, "loss weights of the release, without the root in k_t's numerator")
    eps_release: bool = option(False, "noise estimate of the release in place of equation 13")
    flip_inside: bool = option(False, "average flips inside every reverse step; otherwise over two whole chains")
    frames_per_token: int = option(
        1, "consecutive frames that are one token of the backbone 'frames'; divides the frames of a window", low=1
    )

    def check(self) -> None:
        """Tokens of the backbone that has them are whole."""
        super().check()
        if self.frames % self.frames_per_token:
            raise OptionError("frames_per_token", f"a divisor of frames={self.frames}", self.frames_per_token)


@dataclasses.dataclass(frozen=True)
class Diff3DHPE(Lifter):
    """Diff3DHPE around `network(x [B, F, J, 5], k [B]) -> [B, F, J, 3]`, `[B, 1, J, 3]` for the middle frame alone."""

    options_type: ClassVar[type[Diff3DHPEOptions]] = Diff3DHPEOptions
    # The published figures have 5 to 9 reverse steps, chosen for each data set and length; eta is 0.
    diffusion: ClassVar[DiffusionOptions] = DiffusionOptions(steps=1000, predict="x0", sampler="ddim", sampling_steps=5)

    network: nn.Module
    skeleton: Skeleton
    schedule: Schedule
    plan: Plan
    options: Diff3DHPEOptions = Diff3DHPEOptions()
    clip: float = 1.0  # x0 is clipped to plus and minus this, in units of `scale`

    @classmethod
    def build(cls, config: ConfigDict, skeleton: Skeleton, context: Context, axis_name: str | None) -> Diff3DHPE:
        """Diff3DHPE with the network that `backbone` names. For the arguments see `Lifter.build`."""
        options = read_options(cls.options_type, config.lifter, "lifter")
        fields = options.network_fields(skeleton)
        fields |= {"pde": options.pde, "step": "blocks" if options.step_embedding else "none"}
        if options.backbone == "poseformer":
            network: nn.Module = PoseFormer(joint_width=fields.pop("width"), **fields)
        elif options.backbone == "frames":
            network = FrameTransformer(**fields, frames_per_token=options.frames_per_token)
        else:
            network = MixSTE(**fields, middle_frame=options.backbone == "mixste_middle")
        return cls(network, skeleton, *make_process(config, "x0"), options, clip_bound(config))

    @property
    def middle_frame(self) -> bool:
        return self.options.backbone not in ("mixste", "frames")

    def init(self, key: Array, batch: Batch) -> Variables:
        x = network_input(visible_keypoints(batch, self.options.visibility), self.clean_poses(batch))
        return self.network.init(key, x, jnp.zeros(len(batch.index), jnp.int32), train=False)

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """Squared error of the clean poses, weighted by the signal-to-noise ratio of the timestep (equations 10 and
        11).
        """
        check_batch(batch, self.skeleton, self.frames)
        x0, keys = self.clean_poses(batch), example_keys(key, batch.index)
        k = draw_timesteps(keys, len(keys), self.schedule.num_steps)
        keypoints = visible_keypoints(batch, self.options.visibility)
        # Unlike D3DP's network this one is given the noisy poses as they are, not clamped.
        x = network_input(keypoints, diffuse(self.schedule, x0, k, initial_noise(keys, x0.shape)))
        output, batch_stats = apply_in_training(self.network, variables, key, batch.index, x, k)
        # A weight for each timestep does not move the minimum, which is the mean of x0 given x_k for every k: it says
        # which timesteps the network's capacity goes to.
        weight = snr_weight(self.schedule, self.options.k_clip, release=self.options.weight_release)
        total = weighted_square(output, x0, at_step(weight, k, x0))
        return total, Aux({"loss": total}, batch_stats)

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F or 1, J, 3]` (m) by DDIM from noise. For the arguments see `Lifter.sample`."""
        check_batch(batch, self.skeleton, self.frames)
        keypoints = visible_keypoints(batch, self.options.visibility)
        denoiser = sampling.wrap(self.denoiser(variables, keypoints, sampling.averages_flips))
        shape = self.clean_poses(batch).shape

        def draw_one(keys: Array) -> Array:
            x0 = sample(keys, denoiser, sampling.draw_noise(keys, shape), sampling.plan or self.plan)
            return zero_root(self.options.scale * x0, self.skeleton)

        return draw_hypotheses(draw_one, key, batch.index, sampling)

    def denoiser(self, variables: Variables, keypoints: Array, flip: bool = False) -> Denoiser:
        """The denoiser of keypoints `[B, F, J, 2 or 3]`, averaged over both views in each call where `flip` says so."""
        both = jnp.concatenate([keypoints, mirror(keypoints, self.skeleton)]) if flip else keypoints
        alpha_bar = self.schedule.alpha_bar

        def predict(x: Array, k: Array) -> tuple[Array, Array]:
            output = apply_network(self.network, variables, network_input(both, x), k)
            return predictions("x0", output.astype(x.dtype), x, at_step(alpha_bar, k, x))

        averaged = flip_average(predict, partial(mirror, skeleton=self.skeleton)) if flip else predict
        clipped = clip_x0(averaged, alpha_bar, -self.clip, self.clip)
        return eps_without_root_release(clipped, alpha_bar) if self.options.eps_release else clipped

    def clean_poses(self, batch: Batch) -> Array:
        """What is diffused: poses `[B, F, J, 3]`, or the middle one `[B, 1, J, 3]`, in units of `scale`."""
        # One length for all coordinates of all poses: bones keep their directions and their proportions.
        middle = self.frames // 2
        return (batch.poses[:, middle : middle + 1] if self.middle_frame else batch.poses) / self.options.scale


def network_input(keypoints: Array, x_k: Array) -> Array:
    """The network's input `[B, F, J, 5 or 6]`: keypoints, then noisy poses, those of a middle frame in every frame."""
    return jnp.concatenate([keypoints, jnp.broadcast_to(x_k, (*keypoints.shape[:-1], x_k.shape[-1]))], axis=-1)


def weighted_square(output: Array, x0: Array, weight: Array) -> Array:
    """The mean of `weight (output - x0)^2` over output and x0 `[B, F, J, 3]`; weight is `[B, 1, 1, 1]`."""
    return jnp.mean(weight * jnp.square(output - x0))
