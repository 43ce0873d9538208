"""DiffPose: poses drawn from the distribution that heatmaps leave open, denoised to the pose.

Gong et al., "DiffPose: Toward More Reliable 3D Pose Estimation", CVPR 2023; what its releases compute is in
`lifters.diffpose.release`. A detector's heatmaps and a frozen context lifter give each joint's initial distribution
H_K, a mixture of Gaussians (`lifters.diffpose.initial_distribution`). The forward process diffuses poses towards a
component of it,

    h_k = mu + sqrt(abar_k) (h_0 - mu) + sqrt(1 - abar_k) eps,    eps ~ N(0, Sigma)        (section 4.2)

and hypotheses start at draws of H_K and are denoised by g(h_k, f_ST, k), where f_ST are the context's features (section
4.3). Frames are denoised one by one.

The defaults differ from the paper in three options, and `preconditioning='none', component='weight'` with the objective
'next' is the paper to the letter (`configs/diffpose_frame.py:...,paper`):

* predict: the paper compares g's output with the next, less noisy pose; the default compares the pose itself ('x0').
* component: the paper draws the component of a training pose by its weight, which tells nothing of the pose; the
  default draws it by its responsibility for the pose, so that both are drawn jointly, as from the mixture.
* preconditioning: the paper feeds h_k to g and takes its output as it is. By default g also gets the posterior mean of
  h_0 under a Gaussian error of the context, and its output is a correction of that mean in units of the posterior's
  standard deviation, as Karras et al. (2022, section 5) scale inputs and outputs by the noise level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import option, read_options
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.diffusion.process import at_step, diffuse, to_eps
from diffpose_jax.diffusion.samplers import Denoiser, centred, initial_noise, sample
from diffpose_jax.diffusion.schedules import Schedule
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys, fold_in
from diffpose_jax.lifters.base import Aux, Batch, Context, ContextLifter, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import check_batch, zero_root
from diffpose_jax.lifters.building import GraFormerOptions, make_process
from diffpose_jax.lifters.diffpose.initial_distribution import (
    BaseDistribution,
    Component,
    Covariance,
    Depth,
    assume_statistics,
    draw_gaussian,
    estimate_pose,
    make_base_distribution,
    make_initial_distribution,
    measure_statistics,
    widen_hidden,
)
from diffpose_jax.lifters.diffpose.objective import Objective
from diffpose_jax.lifters.diffpose.release import antithetic_steps, join_frames, share_noise, split_batch, split_frames
from diffpose_jax.lifters.networks import apply_in_training, apply_network
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.lifters.visibility import check_context_visibility, visible_keypoints
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.models.context_graformer import ContextGraFormer
from diffpose_jax.sections import DiffusionOptions
from diffpose_jax.skeleton import Skeleton

# Which component a hypothesis starts from; no reverse step has this index.
_COMPONENT_STREAM = 2**32 - 2


@dataclasses.dataclass(frozen=True)
class DiffPoseOptions(GraFormerOptions):
    """What a config says of DiffPose."""

    context: str = option("", "work directory of the frozen lifter that estimates poses and gives features f_ST")
    base: BaseDistribution = option(
        "mixture", "poses are diffused towards H_K, one Gaussian of its moments, or N(0, 1 m)", source="section 4.2"
    )
    start: Literal["mixture", "noise", "estimate"] = option(
        "mixture", "hypotheses start at draws of that, at N(0, 1 m), or at the context's estimate", source="section 4.1"
    )
    depth: Depth = option(
        "context", "depth of H_K: the context's with its errors, or the training set's", source="section 4.1"
    )
    covariance: Covariance = option("full", "what H_K keeps of a heatmap component's covariance")
    component: Literal["responsibility", "weight"] = option(
        "responsibility", "how a training pose's component is drawn", source="ours; the paper: 'weight', section 4.2"
    )
    preconditioning: Literal["posterior", "none"] = option(
        "posterior",
        "network input and output relative to a Gaussian posterior, or as they are",
        source="ours; the paper: 'none'",
    )
    features: bool = option(True, "give g the context's features f_ST", source="section 4.3")
    feature_width: int = option(32, "channels of f_ST as they enter g", low=1)


class Condition(NamedTuple):
    """What is given of an input: keypoints `[B, F, J, 2]`, or with the channel of `visibility` `[B, F, J, 3]`, the
    context's estimate `[B, F, J, 3]` (m) and its features `[B, F, J, W]` or None, the distribution that poses are
    diffused towards, the component of it once it is drawn, and the errors of the estimate `[B, F, J, 3]` (m) where
    hidden joints have others.
    """

    keypoints: Array
    estimate: Array
    features: Array | None
    base: Mixture
    component: Component | None = None
    spread: Array | None = None

    @property
    def drawn_component(self) -> Component:
        """The component, once it is drawn."""
        assert self.component is not None
        return self.component

    def draw_component(self, keys: Array, poses: Array | None = None) -> Condition:
        """The condition with a component drawn by weight, or by responsibility for poses `[B, F, J, 3]`; keys `[B]`."""
        return self._replace(component=draw_gaussian(keys, self.base, poses))


class Posterior(NamedTuple):
    """A Gaussian posterior of h_0 given h_k, and h_k's standardised residual: all `[B, F, J, 3]`, the first two in
    metres.
    """

    mean: Array
    std: Array
    residual: Array


@dataclasses.dataclass(frozen=True)
class DiffPose(Lifter):
    """DiffPose around `network(x [B, F, J, C], k, features) -> [B, F, J, 3]` and a frozen deterministic `context`.

    A batch without mixtures has heatmaps that say no more than the keypoints: H_K is then the context's uncertainty.
    `measure` finds this and the depths once, before training; beside the context's variables they are
    `variables['frozen']`. Flip averaging is that of the context's estimate alone, as in the video release.
    """

    options_type: ClassVar[type[DiffPoseOptions]] = DiffPoseOptions
    diffusion: ClassVar[DiffusionOptions] = DiffusionOptions(
        steps=50, predict="x0", sampler="ddim", sampling_steps=5, clip=0.0
    )
    needs_context: ClassVar[bool] = True

    network: nn.Module
    skeleton: Skeleton
    schedule: Schedule
    plan: Plan
    context: ContextLifter
    options: DiffPoseOptions = DiffPoseOptions()
    predict: str = "x0"

    def __post_init__(self) -> None:
        check_context(self.context)
        check_context_visibility(self.options.visibility, self.context)

    @classmethod
    def build(cls, config: ConfigDict, skeleton: Skeleton, context: Context, axis_name: str | None) -> DiffPose:
        """DiffPose around a context lifter, which it needs. For the arguments see `Lifter.build`."""
        assert isinstance(context, ContextLifter)  # `needs_context`
        options = read_options(cls.options_type, config.lifter, "lifter")
        network = ContextGraFormer(**options.network_fields(skeleton), feature_width=options.feature_width)
        process = make_process(config, "x0", "next", "eps")
        return cls(network, skeleton, *process, context, options, config.diffusion.predict)

    @property
    def frames(self) -> int:
        return self.context.frames

    @property
    def averages_flips(self) -> bool:
        return True

    @property
    def objective(self) -> Objective:
        """What the loss compares."""
        return Objective(self.schedule, self.predict)

    def init(self, key: Array, batch: Batch) -> Variables:
        network_key, context_key = jax.random.split(key)
        frozen = assume_statistics(self.context.init(context_key, batch), self.skeleton.num_joints, self.takes_mask)
        batch = batch._replace(mixture=None)
        frames, condition = split_batch(batch), split_frames(self.encode({"frozen": frozen}, batch))
        condition = condition.draw_component(example_keys(key, frames.index))
        posterior = self.posterior(condition, frozen["spread"], frames.poses, jnp.float32(0.5))
        x = self.network_input(condition, posterior, frames.poses)
        k = jnp.zeros(len(frames.index), jnp.int32)
        return {**self.network.init(network_key, x, k, condition.features, train=False), "frozen": frozen}

    def measure(self, frozen: Variables, train: Iterable[Batch], valid: Iterable[Batch]) -> Variables:
        """`variables['frozen']` of the context's variables: its errors on valid and the depths of train beside them."""
        return measure_statistics(self.context, frozen, train, valid, self.takes_mask)

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """The squared error of what `predict` names, summed over a pose (section 4.3 where that is 'next')."""
        check_batch(batch, self.skeleton, self.frames)
        step_key, noise_key, component_key, dropout_key = jax.random.split(key, 4)
        frames, condition = split_batch(batch), split_frames(self.encode(variables, batch))
        poses = frames.poses if self.options.component == "responsibility" else None
        condition = condition.draw_component(example_keys(component_key, frames.index), poses)
        component = condition.drawn_component
        k = antithetic_steps(step_key, frames.index, self.schedule.num_steps)
        noise = component.scale(initial_noise(example_keys(noise_key, frames.index), frames.poses.shape))
        x = diffuse(self.schedule, frames.poses, k, noise, component.mean)
        posterior = self.posterior(condition, variables["frozen"]["spread"], x, at_step(self.schedule.alpha_bar, k, x))
        inputs = (self.network_input(condition, posterior, x), k, condition.features)
        output, batch_stats = apply_in_training(self.network, variables, dropout_key, frames.index, *inputs)
        found = output.astype(x.dtype)
        if self.options.preconditioning == "posterior":
            found = self.objective.compute(posterior.mean + posterior.std * found, x, component, k)
        error = found - self.objective.compute(frames.poses, x, component, k)
        total = jnp.mean(jnp.sum(jnp.square(error), axis=(-3, -2, -1)))
        if self.options.preconditioning == "posterior" and self.predict != "eps":
            # In units of the context's squared error, whatever the joints and their number.
            total = total / jnp.sum(jnp.square(variables["frozen"]["spread"]))
        return total, Aux({"loss": total}, batch_stats)

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Hypotheses `[H, B, F, J, 3]` (m), denoised from draws of H_K. For the arguments see `Lifter.sample`."""
        check_batch(batch, self.skeleton, self.frames)
        condition = self.encode(variables, batch, sampling.averages_flips)
        condition, index = share_noise(condition, batch.index, sampling)

        def draw_one(keys: Array) -> Array:
            drawn = condition.draw_component(fold_in(keys, _COMPONENT_STREAM))
            denoiser, mean = sampling.wrap(self.denoiser(variables, drawn)), drawn.drawn_component.mean
            noise = sampling.draw_noise(keys, drawn.estimate.shape)
            if self.options.start == "mixture":
                state = drawn.drawn_component.scale(noise)
            else:
                state = (noise if self.options.start == "noise" else drawn.estimate) - mean
            # In coordinates centred at mu the process around mu is the usual one around zero.
            pose = mean + sample(keys, centred(denoiser, mean), state, sampling.plan or self.plan)
            return zero_root(pose, self.skeleton)

        return join_frames(draw_hypotheses(draw_one, key, index, sampling), batch.poses.shape)

    def denoiser(self, variables: Variables, condition: Condition) -> Denoiser:
        """The denoiser of a condition whose component is drawn."""
        component = condition.drawn_component

        def predict(x: Array, k: Array) -> tuple[Array, Array]:
            alpha_bar = at_step(self.schedule.alpha_bar, k, x)
            posterior = self.posterior(condition, variables["frozen"]["spread"], x, alpha_bar)
            inputs = (self.network_input(condition, posterior, x), k, condition.features)
            output = apply_network(self.network, variables, *inputs).astype(x.dtype)
            if self.options.preconditioning == "posterior":
                x0 = posterior.mean + posterior.std * output
            else:
                x0 = self.objective.invert(output, x, component, k)
            return x0, to_eps(x - component.mean, x0 - component.mean, alpha_bar)

        return predict

    def encode(self, variables: Variables, batch: Batch, flip: bool = False) -> Condition:
        """The condition `[B, F, ...]` of a batch, made once per input; no component of it is drawn yet."""
        frozen, options = variables["frozen"], self.options
        estimate = estimate_pose(self.context, frozen["context"], batch, flip)
        features = self.context.features(frozen["context"], batch) if options.features else None
        initial = make_initial_distribution(
            batch.keypoints, batch.mixture, estimate, frozen, options.depth, options.covariance
        )
        keypoints, spread = visible_keypoints(batch, options.visibility), None
        if self.takes_mask:
            initial = widen_hidden(initial, batch.mask, estimate, frozen["hidden_spread"])
            spread = jnp.where(
                batch.mask[..., None] > 0, frozen["spread"][None, None], frozen["hidden_spread"][None, None]
            )
        base = make_base_distribution(options.base, initial)
        return Condition(keypoints, estimate, features, base, spread=spread)

    def posterior(self, condition: Condition, spread: Array, x: Array, alpha_bar: Array) -> Posterior:
        """Bayes' rule for one coordinate at a time: h_0 ~ N(estimate, spread^2), and x is h_0 diffused to alpha_bar.

        With s = sqrt(abar) and n^2 = (1 - abar) Sigma, x given h_0 is N(mu + s (h_0 - mu), n^2), so that x itself has
        mean e = mu + s (estimate - mu) and variance t = s^2 spread^2 + n^2, and h_0 given x has mean estimate + s
        spread^2 / t (x - e) and variance spread^2 n^2 / t. The standardised residual is (x - e) / sqrt(t).

        Args:
            condition: The context's estimate and the component.
            spread: Root mean square error of the estimate, `[J, 3]`, m; that of the condition comes before it.
            x: The noisy poses `[B, F, J, 3]`, m.
            alpha_bar: That of their timesteps; broadcasts against x.
        """
        component, estimate = condition.drawn_component, condition.estimate
        own = spread[None, None] if condition.spread is None else condition.spread
        signal, variance = jnp.sqrt(alpha_bar), jnp.square(jnp.broadcast_to(own, x.shape))
        noise = (1 - alpha_bar) * jnp.square(component.std())
        expected = component.mean + signal * (estimate - component.mean)
        total = alpha_bar * variance + noise
        mean = estimate + signal * variance / total * (x - expected)
        return Posterior(mean, jnp.sqrt(variance * noise / total), (x - expected) / jnp.sqrt(total))

    def network_input(self, condition: Condition, posterior: Posterior, x: Array) -> Array:
        """The network's input beside f_ST: `[B, F, J, 3]`, h_k alone, or with preconditioning `[B, F, J, 18]`.

        Then posterior mean, standardised residual, keypoints and the component follow; lengths are of the order of one.
        The channel of `visibility` comes with the keypoints, or after h_k alone.
        """
        if self.options.preconditioning == "none":
            return jnp.concatenate([x, condition.keypoints[..., 2:]], axis=-1) if self.options.mask_channels else x
        component = condition.drawn_component
        component_parts = (
            10 * (component.mean - condition.estimate),
            jnp.log(10 * component.std()),
            component.weight[..., None],
        )
        return jnp.concatenate([x, posterior.mean, posterior.residual, condition.keypoints, *component_parts], axis=-1)


def check_context(context: Lifter) -> None:
    """Raises UserError for a lifter that cannot be the context: one without a pose for every frame, or features."""
    if context.stochastic or context.middle_frame or not isinstance(context, ContextLifter):
        raise UserError("DiffPose context: expected a lifter that gives one pose for every frame, and features")
