"""The contract every method meets: three pure functions over one kind of batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.occlusions import occlude
from diffpose_jax.data.windows import Batch
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import Skeleton, mirror

__all__ = [
    "Aux",
    "Batch",
    "Lifter",
    "Variables",
    "check_batch",
    "example_batch",
    "flip_averaged",
    "flip_batch",
    "lifted_frames",
    "lifted_part",
    "occluded",
]

Variables = Mapping[str, Any]

# Folded into a key beside example numbers, which stay far below it.
_OCCLUSION_STREAM = 2**32 - 2


class Aux(NamedTuple):
    """What a loss returns beside its value: scalars to log and the new batch statistics (`{}` where there are none)."""

    metrics: dict[str, jax.Array]
    batch_stats: Mapping[str, Any]


class Lifter(NamedTuple):
    """A method as three pure functions.

    init(key, batch) -> variables {'params', 'batch_stats'?, 'frozen'?}
    loss(variables, key, batch) -> scalar, Aux
    sample(variables, key, batch, num_hypotheses) -> poses `[H, B, F, J, 3]` metres, camera frame, root-relative

    A deterministic lifter is the case where all hypotheses agree; its `stochastic` is False. With `middle_frame` only
    the middle frame of a batch is lifted: poses are `[H, B, 1, J, 3]`. `sample_flipped`, like `sample`, averages over
    the mirrored input in the method's own way; without it see `flip_averaged`. `features(variables, keypoints
    [B, F, J, 2]) -> [B, F, J, C]` is what a lifter offers as the context of another one. `measure(context, train,
    valid) -> frozen` makes `variables['frozen']` of the variables of its context and of batches that are spread over
    both splits, once, before training; without it they are the context's.
    """

    init: Callable[[jax.Array, Batch], Variables]
    loss: Callable[[Variables, jax.Array, Batch], tuple[jax.Array, Aux]]
    sample: Callable[[Variables, jax.Array, Batch, int], jax.Array]
    skeleton: Skeleton
    frames: int = 1
    stochastic: bool = True
    middle_frame: bool = False
    sample_flipped: Callable[[Variables, jax.Array, Batch, int], jax.Array] | None = None
    features: Callable[[Variables, jax.Array], jax.Array] | None = None
    measure: Callable[[Variables, Iterable[Batch], Iterable[Batch]], Variables] | None = None


def check_batch(batch: Batch, skeleton: Skeleton, frames: int) -> None:
    """Fails with the shapes, while tracing, where a batch is not `[B, F, J, C]` of this skeleton and frame count."""
    shape = (len(batch.index), frames, skeleton.num_joints)
    chex.assert_shape([batch.keypoints, batch.poses, batch.mask], [(*shape, 2), (*shape, 3), shape])


def example_batch(lifter: Lifter, size: int = 1) -> Batch:
    """A batch of zeros with a lifter's shapes, to initialise variables with."""
    shape = (size, lifter.frames, lifter.skeleton.num_joints)
    return Batch(jnp.zeros((*shape, 2)), jnp.zeros((*shape, 3)), jnp.ones(shape), jnp.arange(size, dtype=jnp.int32))


def lifted_frames(lifter: Lifter) -> slice:
    """Which frames of a batch `[B, F, J, C]` a lifter gives poses for."""
    return slice(lifter.frames // 2, lifter.frames // 2 + 1) if lifter.middle_frame else slice(None)


def lifted_part(lifter: Lifter, batch: Batch) -> Batch:
    """The batch reduced to the frames that a lifter gives poses for."""
    frames = lifted_frames(lifter)
    return jax.tree.map(lambda part: part[:, frames], batch._replace(index=None))._replace(index=batch.index)


def flip_batch(batch: Batch, skeleton: Skeleton) -> Batch:
    """The batch as a mirror shows it; the examples keep their identity."""
    return batch._replace(
        keypoints=mirror(batch.keypoints, skeleton),
        poses=mirror(batch.poses, skeleton),
        mask=batch.mask[..., np.array(skeleton.flip_order)],
        mixture=None if batch.mixture is None else flip_mixture(batch.mixture, skeleton),
    )


def flip_mixture(mixture: Mixture, skeleton: Skeleton) -> Mixture:
    """The mirror image of 2D mixtures per joint, means `[..., J, M, 2]`, or per pose, means `[..., M, 2 J]`."""
    weights, means, covariances = mixture
    order, sign = np.array(skeleton.flip_order), np.array([-1, 1], np.float32)
    if means.shape[-1] == 2:
        axis = means.ndim - 3
        weights, means, covariances = (jnp.take(part, order, axis=axis) for part in mixture)
    else:
        order = (2 * order[:, None] + np.arange(2)[None]).reshape(-1)
        sign = np.tile(sign, skeleton.num_joints)
        means, covariances = means[..., order], covariances[..., order]
        covariances = covariances if mixture.diagonal else jnp.take(covariances, order, axis=-2)
    means = means * jnp.expand_dims(sign, tuple(range(means.ndim - 1)))
    if not mixture.diagonal:
        covariances = covariances * jnp.expand_dims(np.outer(sign, sign), tuple(range(covariances.ndim - 2)))
    return Mixture(weights, means, covariances)


def occluded(lifter: Lifter, pattern: str, rate: float | None = None) -> Lifter:
    """The lifter that sees every example with joints hidden by a pattern of `data.occlusions`, drawn from the key.

    rate None is the published one. All hypotheses, and both views of a flipped one, miss the same joints.
    """
    if pattern == "none":
        return lifter

    def hidden(key: jax.Array, batch: Batch) -> Batch:
        return occlude(jax.random.fold_in(key, _OCCLUSION_STREAM), batch, pattern, lifter.skeleton, rate)

    def loss(variables: Variables, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        return lifter.loss(variables, key, hidden(key, batch))

    def sample(variables: Variables, key: jax.Array, batch: Batch, num_hypotheses: int) -> jax.Array:
        return lifter.sample(variables, key, hidden(key, batch), num_hypotheses)

    return lifter._replace(loss=loss, sample=sample, sample_flipped=None)


def flip_averaged(lifter: Lifter) -> Lifter:
    """The lifter whose every hypothesis is averaged over the input and its mirror image.

    A method's own `sample_flipped` says how. Otherwise it is the mean of one sample and one mirrored-back sample of the
    mirrored input, with independent noise: the test-time flip of VideoPose3D's descendants, twice the work.
    """
    if lifter.sample_flipped is not None:
        return lifter._replace(sample=lifter.sample_flipped)

    def sample(variables: Variables, key: jax.Array, batch: Batch, num_hypotheses: int) -> jax.Array:
        straight = lifter.sample(variables, jax.random.fold_in(key, 0), batch, num_hypotheses)
        mirrored = flip_batch(batch, lifter.skeleton)
        flipped = lifter.sample(variables, jax.random.fold_in(key, 1), mirrored, num_hypotheses)
        return (straight + mirror(flipped, lifter.skeleton)) / 2

    return lifter._replace(sample=sample)
