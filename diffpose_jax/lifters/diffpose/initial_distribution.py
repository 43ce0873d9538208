"""The distribution H_K of poses that heatmaps and a context lifter leave open (Gong et al., CVPR 2023).

Each joint has a mixture of Gaussians in root-relative metres. In the image plane it is the heatmap's mixture, brought
to the context's estimate by an affine map; in depth it is the context's estimate with the spread of its errors, or the
training set's distribution of that joint's depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.geometry import image_scale
from diffpose_jax.lifters.base import Batch, Lifter, Variables
from diffpose_jax.mixtures.mixture import Mixture, cholesky

Array = jax.Array

BASES = ("mixture", "gaussian", "normal")
DEPTHS = ("context", "histogram")
COVARIANCES = ("full", "diagonal")
ASSIGNMENTS = ("posterior", "prior")

# Of what is known best, such as the root, which is zero: metres.
_LEAST_SPREAD = 0.005


class Component(NamedTuple):
    """The Gaussian a pose is diffused towards: weight `[B, F, J]`, mean `[B, F, J, 3]` (m), its covariance's Cholesky
    factor `[B, F, J, 3, 3]`.
    """

    weight: Array
    mean: Array
    factor: Array

    def coloured(self, normal: Array) -> Array:
        """Noise of this covariance from standard normal `[B, F, J, 3]`."""
        return jnp.sum(self.factor * normal[..., None, :], axis=-1)

    def whitened(self, noise: Array) -> Array:
        """The standard normal that `coloured` turns into this noise `[B, F, J, 3]`, by forward substitution."""
        normal: list[Array] = []
        for i in range(3):
            rest = noise[..., i] - sum(self.factor[..., i, j] * normal[j] for j in range(i))
            normal.append(rest / self.factor[..., i, i])
        return jnp.stack(normal, axis=-1)

    def deviation(self) -> Array:
        """The standard deviations `[B, F, J, 3]`."""
        return jnp.sqrt(jnp.sum(self.factor**2, axis=-1))


def initial_distribution(
    keypoints: Array,
    mixture: Mixture | None,
    estimate: Array,
    statistics: Mapping[str, Array],
    depth: str = "context",
    covariance: str = "full",
) -> Mixture:
    """H_K: 3D mixtures `[B, F, J, M]` from keypoints `[B, F, J, 2]`, their heatmaps and an estimate `[B, F, J, 3]`.

    mixture: per joint, weights `[B, F, J, M]`, means `[B, F, J, M, 2]`; or per pose, `[B, F, M]` and `[B, F, M, 2 J]`,
    whose joints then share their component (weights `[B, F, 1, M]`) but keep only the covariance within each. None
    leaves the context's own uncertainty. How many metres an image unit is follows from the spread of the estimate over
    that of the keypoints. statistics: `spread [J, 3]` of the context's errors, `depth_mean` and `depth_spread [J]`. A
    'diagonal' covariance keeps of the heatmap's only the variances of x and of y.
    """
    spread = _spread(statistics, depth)
    centre = estimate
    if depth == "histogram":
        depths = jnp.broadcast_to(statistics["depth_mean"][None, None, :, None], (*estimate.shape[:-1], 1))
        centre = jnp.concatenate([estimate[..., :2], depths], axis=-1)
    if mixture is None:
        weights = jnp.ones((*estimate.shape[:-1], 1))
        variances = jnp.broadcast_to(jnp.square(spread)[None, None], estimate.shape)
        return Mixture(weights, centre[..., None, :], _diagonal(variances)[..., None, :, :])
    weights, means, covariances = _by_joint(mixture, keypoints.shape[-2])
    if covariance == "diagonal":
        covariances = _diagonal(jnp.diagonal(covariances, axis1=-2, axis2=-1))
    metres = 1 / jnp.maximum(image_scale(keypoints, estimate), 1e-3)[..., None, None, None]
    offsets = metres * (means - keypoints[..., None, :])
    offsets = jnp.concatenate([offsets, jnp.zeros_like(offsets[..., :1])], axis=-1)
    plane = jnp.square(metres)[..., None] * covariances
    plane = jnp.pad(plane, [(0, 0)] * (plane.ndim - 2) + [(0, 1), (0, 1)])
    own = _diagonal(jnp.square(spread))[None, None, :, None]
    return Mixture(weights, centre[..., None, :] + offsets, plane + own)


def base_distribution(kind: str, initial: Mixture) -> Mixture:
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


def draw_component(keys: Array, base: Mixture, poses: Array | None = None) -> Component:
    """One component per joint of mixtures `[B, F, J, M]`, or per frame where weights are `[B, F, 1, M]`; keys `[B]`.

    Drawn by the weights, or, given poses `[B, F, J, 3]`, by the components' responsibilities for them.
    """
    logits = jnp.log(jnp.maximum(base.weights, jnp.finfo(base.weights.dtype).tiny))
    if poses is not None:
        densities = _log_densities(base, poses)
        logits = logits + (jnp.sum(densities, axis=2, keepdims=True) if logits.shape[2] == 1 else densities)
    picked = jax.vmap(jax.random.categorical)(keys, logits)

    def take(values: Array) -> Array:
        # [B, F, J|1, M, ...] -> [B, F, J, ...]
        index = jnp.broadcast_to(picked, values.shape[:3])
        index = jnp.expand_dims(index, tuple(range(3, values.ndim)))
        return jnp.squeeze(jnp.take_along_axis(values, index, axis=3), axis=3)

    weight = jnp.broadcast_to(take(base.weights), base.means.shape[:3])
    return Component(weight, take(base.means), cholesky(take(base.covariances)))


def _log_densities(base: Mixture, poses: Array) -> Array:
    """Of poses `[B, F, J, 3]` under each component, `[B, F, J, M]`, up to a constant."""
    components = Component(base.weights, base.means, cholesky(base.covariances))
    normal = components.whitened(poses[..., None, :] - base.means)
    size = jnp.sum(jnp.log(jnp.diagonal(components.factor, axis1=-2, axis2=-1)), axis=-1)
    return -0.5 * jnp.sum(jnp.square(normal), axis=-1) - size


def estimated(context: Lifter, variables: Variables, batch: Batch) -> Array:
    """The context's poses `[B, F, J, 3]`. It is deterministic: which key it gets does not matter."""
    return context.sample(variables, jax.random.key(0), batch, 1)[0]


def assumed_statistics(frozen: Variables, joints: int) -> Variables:
    """`variables['frozen']` of a context's variables before anything is measured: some statistics of a person."""
    return {
        "context": frozen,
        "spread": jnp.full((joints, 3), 0.05),
        "depth_mean": jnp.zeros(joints),
        "depth_spread": jnp.full(joints, 0.2),
    }


def measured_statistics(
    context: Lifter, frozen: Variables, train: Iterable[Batch], valid: Iterable[Batch]
) -> Variables:
    """`variables['frozen']` from a context's variables: its errors on valid, the depths of the poses of train.

    Errors on the frames it was trained on would be too small. Root mean squares per joint and coordinate, in metres,
    those of both sides of the body together.
    """
    sides = np.array(context.skeleton.flip_order)

    def of_both_sides(values: np.ndarray) -> np.ndarray:
        return (values + values[sides]) / 2

    @jax.jit
    def squared_error(batch: Batch) -> Array:
        return jnp.mean(jnp.square(estimated(context, frozen, batch) - batch.poses), axis=(0, 1))

    error = of_both_sides(np.mean([squared_error(batch) for batch in valid], axis=0))
    depths = np.concatenate([np.asarray(batch.poses[..., 2]).reshape(-1, len(sides)) for batch in train])
    mean, square = (of_both_sides(power.mean(axis=0)) for power in (depths, depths**2))
    statistics = {
        "spread": np.maximum(np.sqrt(error), _LEAST_SPREAD),
        "depth_mean": mean,
        "depth_spread": np.sqrt(np.maximum(square - mean**2, _LEAST_SPREAD**2)),
    }
    return {"context": frozen, **{name: jnp.asarray(value, jnp.float32) for name, value in statistics.items()}}


def _spread(statistics: Mapping[str, Array], depth: str) -> Array:
    if depth == "context":
        return statistics["spread"]
    return jnp.concatenate([statistics["spread"][:, :2], statistics["depth_spread"][:, None]], axis=-1)


def _by_joint(mixture: Mixture, joints: int) -> Mixture:
    """Weights `[B, F, J|1, M]`, means `[B, F, J, M, 2]` and full covariances `[B, F, J, M, 2, 2]`."""
    weights, means, covariances = mixture
    if means.shape[-1] == 2:
        return Mixture(weights, means, _diagonal(covariances) if mixture.diagonal else covariances)
    means = jnp.moveaxis(means.reshape(*means.shape[:-1], joints, 2), -2, -3)
    if mixture.diagonal:
        blocks = _diagonal(covariances.reshape(*covariances.shape[:-1], joints, 2))
    else:
        blocks = covariances.reshape(*covariances.shape[:-2], joints, 2, joints, 2)
        blocks = jnp.moveaxis(jnp.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)
    return Mixture(weights[..., None, :], means, jnp.moveaxis(blocks, -3, -4))


def _diagonal(variances: Array) -> Array:
    """Matrices `[..., D, D]` of variances `[..., D]`."""
    size = variances.shape[-1]
    return variances[..., None] * jnp.eye(size).reshape((1,) * (variances.ndim - 1) + (size, size))
