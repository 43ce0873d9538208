"""The initial distribution H_K of poses that heatmaps and a context lifter leave open (Gong et al., CVPR 2023, section
4.1).

Each joint has a mixture of Gaussians in root-relative metres. In the image plane it is the heatmap's mixture, brought
to the context's estimate by an affine map; in depth it is the context's estimate with the standard deviation of its
errors, or the training set's distribution of that joint's depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.occlusions import occlude
from diffpose_jax.geometry import image_scale
from diffpose_jax.lifters.base import Batch, Lifter, Sampling, Variables
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.mixtures.covariance import cholesky, diagonal_matrix, scale_by_factor, whiten
from diffpose_jax.mixtures.mixture import Mixture, component_log_densities, draw_component, log_weights, take_component

BaseDistribution = Literal["mixture", "gaussian", "normal"]
Depth = Literal["context", "histogram"]
Covariance = Literal["full", "diagonal"]

# Least standard deviation of the context's errors, m: the root, which is zero by definition, would have none.
_LEAST_STD = 0.005


class Component(NamedTuple):
    """A Gaussian per joint: weight `[B, F, J]`, mean `[B, F, J, 3]` and its covariance's Cholesky factor
    `[B, F, J, 3, 3]`, both in metres.
    """

    weight: Array
    mean: Array
    factor: Array

    def scale(self, normal: Array) -> Array:
        """Noise of this covariance from standard normal noise `[B, F, J, 3]`."""
        return scale_by_factor(self.factor, normal)

    def whiten(self, noise: Array) -> Array:
        """The standard normal noise that `scale` turns into this noise `[B, F, J, 3]`."""
        return whiten(self.factor, noise)

    def std(self) -> Array:
        """The standard deviations `[B, F, J, 3]`, m."""
        return jnp.sqrt(jnp.sum(self.factor**2, axis=-1))


def make_initial_distribution(
    keypoints: Array,
    mixture: Mixture | None,
    estimate: Array,
    statistics: Mapping[str, Array],
    depth: Depth = "context",
    covariance: Covariance = "full",
) -> Mixture:
    """H_K: 3D mixtures `[B, F, J, M]` in root-relative metres.

    How many metres an image unit is follows from the size of the estimate over that of the keypoints.

    Args:
        keypoints: The detector's estimates `[B, F, J, 2]`, normalised image units.
        mixture: What its heatmaps leave open, in the same units: per joint, weights `[B, F, J, M]` and means `[B, F, J,
            M, 2]`; or per pose, `[B, F, M]` and `[B, F, M, 2 J]`, whose joints then share their component (weights `[B,
            F, 1, M]`) but keep only the covariance within each. None leaves the context's own uncertainty.
        estimate: The context's poses `[B, F, J, 3]`, m.
        statistics: 'spread' `[J, 3]` of the context's errors, 'depth_mean' and 'depth_spread' `[J]` of the training
            set, m.
        depth: 'context', or 'histogram' for the training set's mean and standard deviation.
        covariance: 'full', or 'diagonal' for the variances of x and of y alone.
    """
    spread, centre = _spread(statistics, depth), estimate
    if depth == "histogram":
        depths = jnp.broadcast_to(statistics["depth_mean"][None, None, :, None], (*estimate.shape[:-1], 1))
        centre = jnp.concatenate([estimate[..., :2], depths], axis=-1)
    if mixture is None:
        weights = jnp.ones((*estimate.shape[:-1], 1))
        variances = jnp.broadcast_to(jnp.square(spread)[None, None], estimate.shape)
        return Mixture(weights, centre[..., None, :], diagonal_matrix(variances)[..., None, :, :])
    weights, means, covariances = _split_joints(mixture, keypoints.shape[-2])
    if covariance == "diagonal":
        covariances = diagonal_matrix(jnp.diagonal(covariances, axis1=-2, axis2=-1))
    # The affine map: an offset from the keypoint becomes, in metres, one from the estimate. Its errors are independent
    # of the heatmap's, so that covariances add.
    metres = 1 / jnp.maximum(image_scale(keypoints, estimate), 1e-3)[..., None, None, None]
    offsets = metres * (means - keypoints[..., None, :])
    # A heatmap says nothing of depth: the offset is zero there, and so is its part of the covariance.
    offsets = jnp.concatenate([offsets, jnp.zeros_like(offsets[..., :1])], axis=-1)
    plane = jnp.square(metres)[..., None] * covariances
    plane = jnp.pad(plane, [(0, 0)] * (plane.ndim - 2) + [(0, 1), (0, 1)])
    own = diagonal_matrix(jnp.square(spread))[None, None, :, None]
    return Mixture(weights, centre[..., None, :] + offsets, plane + own)


def widen_hidden(initial: Mixture, mask: Array, estimate: Array, spread: Array) -> Mixture:
    """H_K in which joints that were not seen have the context's estimate with the standard deviation of its errors.

    Args:
        initial: H_K, full covariances.
        mask: `[B, F, J]`, 0 where a joint was not seen.
        estimate: The context's poses `[B, F, J, 3]`, m.
        spread: Root mean square of its errors at joints that it was not shown, `[J, 3]`, m.
    """
    seen = (mask > 0)[..., None, None]
    wide = diagonal_matrix(jnp.square(spread))[None, None, :, None]
    means = jnp.where(seen, initial.means, estimate[..., None, :])
    covariances = jnp.where(seen[..., None], initial.covariances, wide.astype(initial.covariances.dtype))
    return initial._replace(means=means, covariances=covariances)


def make_base_distribution(kind: BaseDistribution, initial: Mixture) -> Mixture:
    """What poses are diffused towards: H_K itself, one Gaussian of its moments, or N(0, 1 m) in every channel."""
    if kind == "mixture":
        return initial
    mean = jnp.zeros_like(initial.means[..., :1, :])
    covariance = jnp.broadcast_to(jnp.eye(3), (*mean.shape, 3))
    if kind == "gaussian":
        weights = jnp.broadcast_to(initial.weights, initial.means.shape[:-1])
        mean, covariance = initial._replace(weights=weights).mean_and_covariance()
        mean, covariance = mean[..., None, :], covariance[..., None, :, :]
    return Mixture(jnp.ones(mean.shape[:-1]), mean, covariance)


def draw_gaussian(keys: Array, base: Mixture, poses: Array | None = None) -> Component:
    """One component per joint of mixtures `[B, F, J, M]`, or per frame where weights are `[B, F, 1, M]`; keys `[B]`.

    Drawn by weight, or, given poses `[B, F, J, 3]`, by the components' responsibilities for them: log weight + log
    density.
    """
    logits = log_weights(base.weights)
    if poses is not None:
        densities = component_log_densities(0.0, base.means, base.factors(), poses[..., None])[..., 0]
        # Bayes' rule: the probability of a component given the pose is proportional to its weight times its density.
        # Where one component is drawn for all joints of a frame, the joints' densities multiply and their logarithms
        # add up.
        logits = logits + (jnp.sum(densities, axis=2, keepdims=True) if logits.shape[2] == 1 else densities)
    index = draw_component(keys, logits)
    weight = jnp.broadcast_to(take_component(base.weights, index), base.means.shape[:3])
    return Component(weight, take_component(base.means, index), cholesky(take_component(base.covariances, index)))


def estimate_pose(context: Lifter, variables: Variables, batch: Batch, flip: bool = False) -> Array:
    """The context's poses `[B, F, J, 3]`, m.

    Args:
        context: The frozen lifter. It is deterministic: which key it gets does not matter.
        variables: Its variables.
        batch: The keypoints.
        flip: Whether to average over the mirrored keypoints.
    """
    return with_flips(context).sample(
        variables, jax.random.key(0), batch, Sampling(flip="average" if flip else "none")
    )[0]


def assume_statistics(frozen: Variables, joints: int, hidden: bool = False) -> Variables:
    """`variables['frozen']` of a context's variables before anything is measured: statistics that suit a person.

    With `hidden`, 'hidden_spread' is one of them.
    """
    return {
        **({"hidden_spread": jnp.full((joints, 3), 0.2)} if hidden else {}),
        "context": frozen,
        "spread": jnp.full((joints, 3), 0.05),
        "depth_mean": jnp.zeros(joints),
        "depth_spread": jnp.full(joints, 0.2),
    }


def measure_statistics(
    context: Lifter, frozen: Variables, train: Iterable[Batch], valid: Iterable[Batch], hidden: bool = False
) -> Variables:
    """`variables['frozen']` from a context's variables: its errors on valid, the depths of the poses of train.

    Root mean squares per joint and coordinate, those of both sides of the body together.

    Args:
        context: The frozen lifter.
        frozen: Its variables.
        train: Batches of the training split.
        valid: Batches of the valid split: errors on the frames that the context was trained on would be too small.
        hidden: Whether to measure 'hidden_spread' too, its errors at joints that are hidden (the pattern 'partial').
    """
    valid = list(valid)
    sides = np.array(context.skeleton.flip_order)

    def average_sides(values: np.ndarray) -> np.ndarray:
        return (values + values[sides]) / 2

    @jax.jit
    def squared_error(batch: Batch) -> Array:
        # Around zero and not around their mean: a bias of the context is an error too.
        return jnp.mean(jnp.square(estimate_pose(context, frozen, batch) - batch.poses), axis=(0, 1))

    error = average_sides(np.mean([squared_error(batch) for batch in valid], axis=0))
    depths = np.concatenate([np.asarray(batch.poses[..., 2]).reshape(-1, len(sides)) for batch in train])
    mean, square = (average_sides(power.mean(axis=0)) for power in (depths, depths**2))
    statistics = {
        "spread": np.maximum(np.sqrt(error), _LEAST_STD),
        "depth_mean": mean,
        # Averages of the first and second moments of two sides are the moments of both sides together, so that this is
        # their variance, E[z^2] - E[z]^2.
        "depth_spread": np.sqrt(np.maximum(square - mean**2, _LEAST_STD**2)),
    }
    if hidden:
        found = average_sides(_measure_hidden(context, frozen, valid))
        # A hidden joint is not known better than a seen one; where few were hidden, the sample may say otherwise.
        statistics["hidden_spread"] = np.maximum(np.sqrt(found), statistics["spread"])
    return {"context": frozen, **{name: jnp.asarray(value, jnp.float32) for name, value in statistics.items()}}


def _measure_hidden(context: Lifter, frozen: Variables, batches: Iterable[Batch]) -> np.ndarray:
    """Mean squared errors of a context at hidden joints, `[J, 3]`, m^2."""

    @jax.jit
    def sums(batch: Batch, index: Array) -> tuple[Array, Array]:
        # At a rate of 0.99 nearly every example has hidden joints.
        shown = occlude(jax.random.fold_in(jax.random.key(0), index), batch, "partial", context.skeleton, 0.99)
        error = jnp.square(estimate_pose(context, frozen, shown) - batch.poses)
        gone = (shown.mask == 0)[..., None]
        return jnp.sum(error * gone, axis=(0, 1)), jnp.sum(gone, axis=(0, 1))

    errors, counts = (np.sum(part, axis=0) for part in zip(*(sums(b, i) for i, b in enumerate(batches)), strict=True))
    return errors / np.maximum(counts, 1)


def _spread(statistics: Mapping[str, Array], depth: Depth) -> Array:
    """Standard deviation of what the heatmaps do not tell, `[J, 3]`, m."""
    if depth == "context":
        return statistics["spread"]
    return jnp.concatenate([statistics["spread"][:, :2], statistics["depth_spread"][:, None]], axis=-1)


def _split_joints(mixture: Mixture, joints: int) -> Mixture:
    """Weights `[B, F, J|1, M]`, means `[B, F, J, M, 2]` and full covariances `[B, F, J, M, 2, 2]`."""
    weights, means, covariances = mixture
    if means.shape[-1] == 2:
        return Mixture(weights, means, diagonal_matrix(covariances) if mixture.diagonal else covariances)
    means = jnp.moveaxis(means.reshape(*means.shape[:-1], joints, 2), -2, -3)
    if mixture.diagonal:
        blocks = diagonal_matrix(covariances.reshape(*covariances.shape[:-1], joints, 2))
    else:
        # Of a covariance over a whole pose the J blocks on the diagonal.
        blocks = covariances.reshape(*covariances.shape[:-2], joints, 2, joints, 2)
        blocks = jnp.moveaxis(jnp.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)
    return Mixture(weights[..., None, :], means, jnp.moveaxis(blocks, -3, -4))
