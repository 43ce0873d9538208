"""DiffHPE: the poses of a sequence by reverse diffusion with a graph CSDI, conditioned on keypoints or on a lifter.

Rommel et al., "DiffHPE: Robust, Coherent 3D Human Pose Lifting with Diffusion", ICCV workshops 2023. Diffused is the
root-relative pose in metres, unscaled; the network predicts the noise of all joints, the root's too. DiffHPE-2D takes
the keypoints beside the noisy pose. DiffHPE-Wrapper takes the features of a frozen lifter (MixSTE's, after the norm of
its head) beside the noisy pose, which a trained linear layer brings to their width. Samples are ancestral and not
clipped; hypotheses (5) are averaged afterwards.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import OptionError, option, read_options
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.diffusion.process import align, at_step, diffuse, draw_timesteps, predictions
from diffpose_jax.diffusion.samplers import Denoiser, initial_noise, sample
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys, fold_in
from diffpose_jax.lifters.base import Aux, Batch, Context, ContextLifter, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import check_batch, subtract_root
from diffpose_jax.lifters.building import PRECISION_DOC, Precision, make_process
from diffpose_jax.lifters.networks import apply_in_training, apply_network
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.lifters.visibility import VisibilityOptions, append_mask, check_context_visibility, visible_keypoints
from diffpose_jax.models.csdi_gcn import CSDIGCN
from diffpose_jax.models.linear import Linear
from diffpose_jax.sections import DiffusionOptions
from diffpose_jax.skeleton import Skeleton

Encoding = Literal["concat", "sum"]

# Timesteps between two at which the noise loss is validated, as in the release.
_VALID_STRIDE = 10


@dataclasses.dataclass(frozen=True)
class DiffHPEOptions(VisibilityOptions):
    """What a config says of DiffHPE."""

    frames: int = option(27, "frames of a window", low=1, unit="frames")
    width: int = option(64, "channels of a joint", low=2, source="section 4.1")
    num_layers: int = option(16, "residual blocks", low=1, source="section 4.1")
    step_width: int = option(128, "channels of the timestep's embedding", low=4)
    dropout: float = option(0.032, "rate of dropout", low=0, high=0.99, source="the release")
    non_local: bool = option(True, "non-local layers in the blocks", source="the release")
    context: str = option("", "work directory of the frozen lifter that makes it DiffHPE-Wrapper; empty: DiffHPE-2D")
    condition: Literal["features", "pose"] = option("features", "what of the context the network takes")
    encoding: Encoding = option("concat", "how the condition meets the pose")
    encode_pose: bool = option(True, "bring the noisy pose to the width of the condition first (with a context)")
    p_uncond: float = option(0.0, "chance that the condition of an example is zeroed in training", low=0, high=1)
    guidance: float = option(0.0, "weight g of (1 + g) eps(condition) - g eps(0) in sampling; 0: no guidance", low=0)
    start: Literal["noise", "context"] = option("noise", "sampling starts at noise, or at the context's pose as it is")
    root_release: bool = option(False, "leave the root where the network puts it, as the release does")
    compute_dtype: Precision = option("float32", PRECISION_DOC)

    def check(self) -> None:
        """The non-local layers have half the width."""
        if self.width % 2:
            raise OptionError("width", "an even number", self.width)


class Conditioned(nn.Module):
    """A noise predictor `denoiser(channels [B, F, J, D], k) -> [B, F, J, 3]` of a noisy pose and a condition.

    The pose `x [B, F, J, 3]`, with `encode_pose` lifted to the width of `condition [B, F, J, C]`, stands before it, or
    is added to it (`encoding`).
    """

    denoiser: nn.Module
    encode_pose: bool = False
    encoding: Encoding = "concat"

    @nn.compact
    def __call__(self, x: Array, condition: Array, k: Array, *, train: bool, index: Array | None = None) -> Array:
        if self.encode_pose:
            x = Linear(condition.shape[-1], name="pose_encoder")(x)
        if self.encoding == "concat":
            return self.denoiser(jnp.concatenate([x, condition], axis=-1), k, train=train, index=index)
        if x.shape != condition.shape:
            found = f"{x.shape[-1]} and {condition.shape[-1]}"
            raise UserError(f"DiffHPE encoding 'sum': expected pose and condition of one width, found {found}")
        return self.denoiser(x + condition, k, train=train, index=index)


@dataclasses.dataclass(frozen=True)
class DiffHPE(Lifter):
    """DiffHPE-2D around `network(x [B, F, J, 3], condition [B, F, J, C], k [B]) -> eps [B, F, J, 3]`; with a frozen
    `context`, whose variables are `variables['frozen']`, DiffHPE-Wrapper.
    """

    options_type: ClassVar[type[DiffHPEOptions]] = DiffHPEOptions
    # Betas are limited to 0.5, and x0 is not clipped.
    diffusion: ClassVar[DiffusionOptions] = DiffusionOptions(steps=50, max_beta=0.5, clip=0.0)

    network: nn.Module
    skeleton: Skeleton
    schedule: Schedule
    plan: Plan
    options: DiffHPEOptions = DiffHPEOptions()
    context: ContextLifter | None = None

    def __post_init__(self) -> None:
        if self.options.start == "context" and self.context is None:
            raise UserError("DiffHPE start: expected 'noise' where there is no context, found 'context'")
        check_context_visibility(self.options.visibility, self.context)

    @classmethod
    def build(cls, config: ConfigDict, skeleton: Skeleton, context: Context, axis_name: str | None) -> DiffHPE:
        """DiffHPE-2D, or with a context DiffHPE-Wrapper. For the arguments see `Lifter.build`."""
        options = read_options(cls.options_type, config.lifter, "lifter")
        names = ("frames", "width", "num_layers", "step_width", "dropout", "non_local")
        denoiser = CSDIGCN(
            skeleton=skeleton,
            **{name: getattr(options, name) for name in names},
            num_steps=config.diffusion.steps,
            axis_name=axis_name,
            dtype=jnp.dtype(options.compute_dtype),
        )
        network = Conditioned(denoiser, options.encode_pose and context is not None, options.encoding)
        return cls(network, skeleton, *make_process(config, "eps"), options, context)

    def init(self, key: Array, batch: Batch) -> Variables:
        context_key, key = jax.random.split(key)
        frozen = {} if self.context is None else {"frozen": self.context.init(context_key, batch)}
        condition = self.encode(frozen, batch).condition
        k = jnp.zeros(len(condition), jnp.int32)
        return {**self.network.init(key, batch.poses, condition, k, train=False), **frozen}

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """Mean squared error of the predicted noise (equation 3)."""
        keys = example_keys(key, batch.index)
        k = draw_timesteps(keys, len(keys), self.schedule.num_steps)
        noise = initial_noise(keys, batch.poses.shape)
        condition = self.encode(variables, batch).condition
        if self.options.p_uncond:
            # Guidance needs the same network's noise without a condition (Ho and Salimans 2022). It learns that from
            # the examples whose condition is zeroed; the release draws once for a whole batch, here every example has a
            # draw.
            kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 0), 1 - self.options.p_uncond))(
                keys
            )
            condition = condition * align(kept, condition)
        # Poses in metres have a standard deviation of 0.2 to 0.4: at every timestep their signal-to-noise ratio is 6 to
        # 25 times lower than that of data of unit variance.
        x_k = diffuse(self.schedule, batch.poses, k, noise)
        predicted, batch_stats = apply_in_training(self.network, variables, key, batch.index, x_k, condition, k)
        total = denoising_loss(predicted, noise)
        return total, Aux({"loss": total}, batch_stats)

    def valid_loss(self, variables: Variables, key: Array, batch: Batch) -> Array:
        """The same error at every tenth timestep, without dropout: what the release's plateau judges."""
        # The release divides the sum of the errors by all of its 50 timesteps and not by the 5 that are visited. The
        # plateau's threshold is relative, so that a constant factor makes no difference.
        keys, condition = example_keys(key, batch.index), self.encode(variables, batch).condition

        def error_at(k: Array) -> Array:
            noise, steps = initial_noise(fold_in(keys, k), batch.poses.shape), jnp.full(len(keys), k)
            x_k = diffuse(self.schedule, batch.poses, steps, noise)
            return denoising_loss(apply_network(self.network, variables, x_k, condition, steps), noise)

        return jnp.mean(jax.lax.map(error_at, jnp.arange(0, self.schedule.num_steps, _VALID_STRIDE, dtype=jnp.int32)))

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]` (m) by ancestral sampling. For the arguments see `Lifter.sample`."""
        # The condition does not depend on the timestep. The release computes it anew in every step of every hypothesis,
        # with the same result.
        encoded = self.encode(variables, batch)
        denoiser = sampling.wrap(self.denoiser(variables, encoded.condition))

        def draw_one(keys: Array) -> Array:
            start = sampling.draw_noise(keys, batch.poses.shape) if encoded.pose is None else encoded.pose
            poses = sample(keys, denoiser, start, sampling.plan or self.plan)
            # The root is diffused like any joint, and ends near zero and not at it.
            return poses if self.options.root_release else subtract_root(poses, self.skeleton)

        return draw_hypotheses(draw_one, key, batch.index, sampling)

    def denoiser(self, variables: Variables, condition: Array) -> Denoiser:
        """The denoiser of a condition `[B, F, J, C]`; with guidance it runs both with and without it in one call."""
        guidance = self.options.guidance

        def predict(x: Array, k: Array) -> tuple[Array, Array]:
            given, state = condition, x
            if guidance:
                given, state = jnp.concatenate([condition, jnp.zeros_like(condition)]), jnp.concatenate([x, x])
            eps = apply_network(self.network, variables, state, given, k).astype(x.dtype)
            if guidance:
                # The noise is -sqrt(1 - abar) times the score of the noisy distribution. So this is the noise of the
                # distribution p(x | condition)^(1 + g) / p(x)^g, which follows the condition more closely and varies
                # less.
                # Classifier-free guidance (Ho and Salimans 2022, equation 6).
                with_condition, without = jnp.split(eps, 2)
                eps = (1 + guidance) * with_condition - guidance * without
            return predictions("eps", eps, x, at_step(self.schedule.alpha_bar, k, x))

        return predict

    def encode(self, variables: Variables, batch: Batch) -> Encoded:
        """The condition, made once per input, and where sampling starts."""
        check_batch(batch, self.skeleton, self.frames)
        if self.context is None:
            return Encoded(visible_keypoints(batch, self.options.visibility), None)
        frozen = variables["frozen"]
        # The context is deterministic: which key it gets does not matter.
        pose = self.context.sample(frozen, jax.random.key(0), batch, Sampling())[0]
        takes_pose = self.options.condition == "pose"
        condition = pose if takes_pose else self.context.features(frozen, batch)
        condition = append_mask(condition, batch, self.options.visibility)
        return Encoded(condition, pose if self.options.start == "context" else None)


class Encoded(NamedTuple):
    """The condition `[B, F, J, C]` of an input, and the pose `[B, F, J, 3]` that sampling starts at, None for noise."""

    condition: Array
    pose: Array | None


def denoising_loss(predicted: Array, noise: Array) -> Array:
    """The mean squared error of predicted noise `[B, F, J, 3]` over everything, the root included."""
    return jnp.mean(jnp.square(predicted - noise))
