"""Factors of the spread of hypotheses, per joint and by what is known of its keypoint: a few numbers of calibration."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.windows import Batch
from diffpose_jax.keys import example_keys
from diffpose_jax.skeleton import Skeleton

# What is known of a keypoint when it is lifted: how wide its heatmap is, or else its score, or that it is hidden:
# alone, or together with a joint that a bone connects it to, so that nothing near tells where it is.
KINDS = ("sharp", "wide", "ambiguous", "hidden", "hidden_limb")
HIDDEN = KINDS.index("hidden")  # this kind and the next
# The least width of a 'wide' and of an 'ambiguous' heatmap: the standard deviation of its mixture per coordinate, in
# units of the person's size in the image (the rms distance of keypoints from their centre).
WIDTHS = (0.06, 0.12)
# Without heatmaps, a score below the first makes a keypoint 'wide', below the second 'ambiguous'. Of the simulated
# detector 90 % of visible joints are above the first, half of the occluded and most confused ones below.
SCORES = (0.95, 0.75)
_TAIL_STREAM = 2**32 - 6


class Scales(NamedTuple):
    """Factors of the deviations from the mean of the hypotheses; tuples, so that equal scales are the same key.

    Attributes:
        joints: One per joint, J numbers; 1 for the root.
        kinds: One per entry of `KINDS`, by which a joint's own is multiplied.
        hidden: One per joint, J numbers, by which it is multiplied again where the joint is hidden: a hip's place
            follows from what is seen, an ankle's does not. Empty where there are none.
        tail: How far some hypotheses lie outside the others: the standard deviation of the logarithm of a factor that
            each hypothesis has for itself (`tail_weights`); 0: none.
    """

    joints: tuple[float, ...]
    kinds: tuple[float, ...] = (1.0,) * len(KINDS)
    hidden: tuple[float, ...] = ()
    tail: float = 0.0

    def factors(self, kinds: Array) -> Array:
        """The factors `[..., J]` of joints of the kinds `[..., J]`."""
        of_kind = jnp.asarray(self.kinds, jnp.float32)[kinds]
        of_joint = jnp.broadcast_to(jnp.asarray(self.joints, jnp.float32), kinds.shape)
        if not self.hidden:
            return of_kind * of_joint
        return of_kind * of_joint * jnp.where(kinds >= HIDDEN, jnp.asarray(self.hidden, jnp.float32), 1.0)


def keypoint_kinds(batch: Batch, skeleton: Skeleton) -> Array:
    """The index in `KINDS` of every keypoint of a batch, `[B, F, J]` int32, by its heatmap or by its score, the mask.

    Of the root it is 0: it does not move.
    """
    kinds = jnp.zeros(batch.mask.shape, jnp.int32)
    if batch.mixture is not None:
        _, covariance = batch.mixture.mean_and_covariance()
        variances = covariance if batch.mixture.diagonal else jnp.diagonal(covariance, axis1=-2, axis2=-1)
        centred = batch.keypoints - jnp.mean(batch.keypoints, axis=-2, keepdims=True)
        size = jnp.mean(jnp.sum(centred**2, axis=-1), axis=-1, keepdims=True)
        # Squares are compared: (std / size)^2 against the squared limits.
        width = jnp.mean(variances, axis=-1) / jnp.maximum(size, 1e-12)
        for limit in WIDTHS:
            kinds += (width >= limit**2).astype(jnp.int32)
    else:
        kinds = sum((jnp.asarray(batch.mask < limit, jnp.int32) for limit in SCORES), kinds)
    hidden = batch.mask <= 0
    connected = np.zeros((skeleton.num_joints, skeleton.num_joints), np.float32)
    for child, parent in skeleton.bones:
        connected[child, parent] = connected[parent, child] = 1
    kinds = jnp.where(hidden, HIDDEN, kinds)
    kinds = jnp.where(hidden & (hidden.astype(jnp.float32) @ connected > 0), KINDS.index("hidden_limb"), kinds)
    return jnp.where(jnp.asarray(np.arange(skeleton.num_joints) == skeleton.root), 0, kinds)


def scale_hypotheses(hypotheses: Array, factors: Array, weights: Array | None = None) -> Array:
    """Hypotheses `[H, ..., J, 3]` whose deviations from their mean are multiplied by factors.

    Args:
        hypotheses: The hypotheses, m.
        factors: One for each joint, `[..., J]`.
        weights: One more for each hypothesis of each example, `[H, B]`, as `tail_weights` gives; B is the first axis
            after H. None: none.
    """
    # The mean, which is the estimate, stays where it is. Covariances grow by the square of the factor.
    mean = jnp.mean(hypotheses, axis=0, keepdims=True)
    deviations = factors[None, ..., None] * (hypotheses - mean)
    if weights is not None:
        deviations = deviations * weights.reshape(*weights.shape, *[1] * (hypotheses.ndim - 2))
        deviations = deviations - jnp.mean(deviations, axis=0, keepdims=True)
    return mean + deviations


def tail_weights(key: Array, index: Array, count: int, tail: float) -> Array:
    """Factors `[H, B]` of the deviations of H hypotheses, with a mean square of 1: a few are large, more are small.

    Hypotheses of one Gaussian have too many truths outside their 90 % region where their spread is right on average
    and not for every pose. With factors `exp(tail * z_h)` they are a mixture of Gaussians of different widths, whose
    variance is the same and whose tails are heavier. A whole pose has one factor, and so has a hypothesis in all
    frames of an example: a motion stays one. `z_h` are quantiles of the normal distribution, not draws, so that no
    chance is added; their order is drawn for each example.

    Args:
        key: The key of sampling.
        index: The indices `[B]` of the examples.
        count: H.
        tail: The standard deviation of the factors' logarithm.
    """
    quantiles = jax.scipy.special.ndtri(jnp.asarray((np.arange(count) + 0.5) / count, jnp.float32))
    weights = jnp.exp(tail * quantiles)
    weights = weights / jnp.sqrt(jnp.mean(weights**2))
    keys = example_keys(jax.random.fold_in(key, _TAIL_STREAM), index)
    return jax.vmap(lambda own: jax.random.permutation(own, weights), out_axes=1)(keys)
