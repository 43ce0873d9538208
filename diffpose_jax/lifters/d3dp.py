"""D3DP: hypotheses of a pose sequence by stochastic DDIM with a MixSTE that predicts the clean poses.

Shan et al., "Diffusion-Based 3D Human Pose Estimation with Multi-Hypothesis Aggregation", ICCV 2023. Diffused are
root-relative poses in metres times `signal_scale`. The network takes the keypoints beside the noisy poses and returns
the clean poses in metres. Sampling starts from noise; the hypotheses are aggregated afterwards, see
`diffusion.hypotheses`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import option, read_options
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.diffusion.process import at_step, diffuse, draw_timesteps, predictions
from diffpose_jax.diffusion.samplers import Denoiser, clip_x0, flip_average, initial_noise, sample
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Aux, Batch, Context, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import check_batch, zero_root
from diffpose_jax.lifters.building import TransformerOptions, clip_bound, make_process
from diffpose_jax.lifters.networks import apply_in_training, apply_network
from diffpose_jax.lifters.pose_losses import mpjpe
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.lifters.visibility import visible_keypoints
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.sections import DiffusionOptions
from diffpose_jax.skeleton import Skeleton, mirror


@dataclasses.dataclass(frozen=True)
class D3DPOptions(TransformerOptions):
    """What a config says of D3DP."""

    signal_scale: float = option(1.0, "poses in metres are diffused times this", above=0, source="section 4.1")
    flip_inside: bool = option(
        True, "average flips inside every reverse step; otherwise over two whole chains", source="the release"
    )


@dataclasses.dataclass(frozen=True)
class D3DP(Lifter):
    """D3DP around `network(x [B, F, J, 5], k [B]) -> poses [B, F, J, 3]`, m; x is keypoints, then noisy poses.

    With a channel of `visibility` between them x is `[B, F, J, 6]`.
    """

    options_type: ClassVar[type[D3DPOptions]] = D3DPOptions
    # The published figures have 10 reverse steps with eta = 1 and the clamp of 1.1.
    diffusion: ClassVar[DiffusionOptions] = DiffusionOptions(
        steps=1000, predict="x0", sampler="ddim", sampling_steps=10, eta=1.0, clip=1.1
    )

    network: nn.Module
    skeleton: Skeleton
    schedule: Schedule
    plan: Plan
    options: D3DPOptions = D3DPOptions()
    clip: float = 1.1  # metres: noisy inputs and predicted poses are clamped to plus and minus this

    @classmethod
    def build(cls, config: ConfigDict, skeleton: Skeleton, context: Context, axis_name: str | None) -> D3DP:
        """D3DP with a MixSTE that predicts x0 and is given the timestep once. For the arguments see `Lifter.build`."""
        options = read_options(cls.options_type, config.lifter, "lifter")
        network = MixSTE(**options.network_fields(skeleton), step="once")
        return cls(network, skeleton, *make_process(config, "x0"), options, clip_bound(config))

    def init(self, key: Array, batch: Batch) -> Variables:
        x = jnp.concatenate([visible_keypoints(batch, self.options.visibility), batch.poses], axis=-1)
        return self.network.init(key, x, jnp.zeros(len(batch.index), jnp.int32), train=False)

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """MPJPE of the predicted poses (equation 6); the release also scales gradients by it
        (`training.scale_by_loss`).
        """
        check_batch(batch, self.skeleton, self.frames)
        keys = example_keys(key, batch.index)
        k = draw_timesteps(keys, len(keys), self.schedule.num_steps)
        noise = initial_noise(keys, batch.poses.shape)
        x_k = diffuse(self.schedule, self.options.signal_scale * batch.poses, k, noise)
        x = self.network_input(visible_keypoints(batch, self.options.visibility), x_k)
        poses, batch_stats = apply_in_training(self.network, variables, key, batch.index, x, k)
        # The mean distance is least at a joint's geometric median given the noisy pose, the squared error at its mean,
        # which is what the derivation of DDIM calls x0_hat. Where errors are near to symmetric both are close.
        # Predictions are clamped in sampling only. In training a coordinate beyond the clamp would have no gradient.
        total = mpjpe(poses, batch.poses)
        return total, Aux({"loss": total}, batch_stats)

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]` (m) by stochastic DDIM from noise. For the arguments see `Lifter.sample`."""
        check_batch(batch, self.skeleton, self.frames)
        keypoints = visible_keypoints(batch, self.options.visibility)
        denoiser = sampling.wrap(self.denoiser(variables, keypoints, sampling.averages_flips))

        def draw_one(keys: Array) -> Array:
            noise = sampling.draw_noise(keys, batch.poses.shape)
            x0 = sample(keys, denoiser, noise, sampling.plan or self.plan)
            # The root is set to zero and not subtracted, as in the release: what the network says of it moves no other
            # joint.
            return zero_root(x0 / self.options.signal_scale, self.skeleton)

        return draw_hypotheses(draw_one, key, batch.index, sampling)

    def denoiser(self, variables: Variables, keypoints: Array, flip: bool = False) -> Denoiser:
        """The denoiser of keypoints `[B, F, J, 2 or 3]`, averaged over both views in each call where `flip` says so."""
        both = jnp.concatenate([keypoints, mirror(keypoints, self.skeleton)]) if flip else keypoints

        def predict(x: Array, k: Array) -> tuple[Array, Array]:
            poses = apply_network(self.network, variables, self.network_input(both, x), k)
            x0 = self.options.signal_scale * poses.astype(x.dtype)
            # eps follows from the state as it is, not as it was clamped for the network.
            return predictions("x0", x0, x, at_step(self.schedule.alpha_bar, k, x))

        averaged = flip_average(predict, partial(mirror, skeleton=self.skeleton)) if flip else predict
        limit = self.clip * self.options.signal_scale
        return clip_x0(averaged, self.schedule.alpha_bar, -limit, limit)

    def network_input(self, keypoints: Array, x_k: Array) -> Array:
        """The network's input `[B, F, J, 5 or 6]`: the keypoints, then the noisy poses, clamped and in metres."""
        limit = self.clip * self.options.signal_scale
        # At the noisy end the state is close to N(0, 1), and a quarter of its values lie beyond the default clamp of
        # 1.1, where hardly a coordinate of a pose lies.
        return jnp.concatenate([keypoints, jnp.clip(x_k, -limit, limit) / self.options.signal_scale], axis=-1)
