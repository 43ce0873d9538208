"""Factors of the spread of hypotheses, per joint and by what is known of its keypoint: a few numbers of calibration."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.windows import Batch
from diffpose_jax.keys import example_keys
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import Skeleton

# What is known of a keypoint when it is lifted: how wide its heatmap is, or else its score; that the heatmap shows it
# at the place of its partner on the other side of the body too; or that it is hidden: alone, or together with a joint
# that a bone connects it to, so that nothing near tells where it is.
KINDS = ("sharp", "wide", "ambiguous", "left_or_right", "hidden", "hidden_limb")
LEFT_OR_RIGHT = KINDS.index("left_or_right")
HIDDEN = KINDS.index("hidden")  # this kind and the next
# The least width of a 'wide' and of an 'ambiguous' heatmap: the standard deviation of its mixture per coordinate, in
# units of the person's size in the image (the rms distance of keypoints from their centre).
WIDTHS = (0.06, 0.12)
# Without heatmaps, a score below the first makes a keypoint 'wide', below the second 'ambiguous'. Of the simulated
# detector 90 % of visible joints are above the first, half of the occluded and most confused ones below.
SCORES = (0.95, 0.75)
# A heatmap shows both sides where components with this weight lie nearer to the partner's keypoint than half of what
# lies between the two. The weight of a confused joint's second place is 0.1 to 0.5 in the simulated detector.
PARTNER_WEIGHT = 0.05
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
        left_or_right_tail: That of joints of this kind, None: as the others'. The truth is at one place or the other,
            mostly at the first: errors are small or as large as the person is broad.
    """

    joints: tuple[float, ...]
    kinds: tuple[float, ...] = (1.0,) * len(KINDS)
    hidden: tuple[float, ...] = ()
    tail: float = 0.0
    left_or_right_tail: float | None = None

    @property
    def has_tail(self) -> bool:
        """Whether hypotheses of any joint have factors of their own."""
        return bool(self.tail or self.left_or_right_tail)

    def tails(self, kinds: Array) -> Array:
        """The tails `[..., J]` of joints of the kinds `[..., J]`."""
        own = self.tail if self.left_or_right_tail is None else self.left_or_right_tail
        return jnp.where(kinds == LEFT_OR_RIGHT, jnp.float32(own), jnp.float32(self.tail))

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
        at_partner = _weight_at_partner(batch.keypoints, batch.mixture, skeleton)
        kinds = jnp.where(at_partner >= PARTNER_WEIGHT, LEFT_OR_RIGHT, kinds)
    else:
        kinds = sum((jnp.asarray(batch.mask < limit, jnp.int32) for limit in SCORES), kinds)
    hidden = batch.mask <= 0
    connected = np.zeros((skeleton.num_joints, skeleton.num_joints), np.float32)
    for child, parent in skeleton.bones:
        connected[child, parent] = connected[parent, child] = 1
    kinds = jnp.where(hidden, HIDDEN, kinds)
    kinds = jnp.where(hidden & (hidden.astype(jnp.float32) @ connected > 0), KINDS.index("hidden_limb"), kinds)
    return jnp.where(jnp.asarray(np.arange(skeleton.num_joints) == skeleton.root), 0, kinds)


def _weight_at_partner(keypoints: Array, mixture: Mixture, skeleton: Skeleton) -> Array:
    """How much of each heatmap `[..., J]` lies at the keypoint of the same joint of the other side; 0 without one."""
    partner = keypoints[..., np.asarray(skeleton.flip_order), :]
    # A joint in the middle is its own partner: the distance is 0, and no component lies nearer than half of that.
    between = jnp.sum(jnp.square(partner - keypoints), axis=-1)
    from_partner = jnp.sum(jnp.square(mixture.means - partner[..., None, :]), axis=-1)
    near = from_partner < 0.25 * between[..., None]
    return jnp.sum(jnp.where(near, mixture.weights, 0.0), axis=-1)


def scale_hypotheses(hypotheses: Array, factors: Array, weights: Array | None = None) -> Array:
    """Hypotheses `[H, ..., J, 3]` whose deviations from their mean are multiplied by factors.

    Args:
        hypotheses: The hypotheses, m.
        factors: One for each joint, `[..., J]`.
        weights: One more for each hypothesis of each example, `[H, B]`, or of each joint, as `tail_weights` gives; B is
            the first axis after H. None: none.
    """
    # The mean, which is the estimate, stays where it is. Covariances grow by the square of the factor.
    mean = jnp.mean(hypotheses, axis=0, keepdims=True)
    deviations = factors[None, ..., None] * (hypotheses - mean)
    if weights is not None:
        deviations = deviations * weights.reshape(*weights.shape, *[1] * (hypotheses.ndim - weights.ndim))
        deviations = deviations - jnp.mean(deviations, axis=0, keepdims=True)
    return mean + deviations


def tail_weights(key: Array, index: Array, count: int, tail: Array | float) -> Array:
    """Factors `[H, B, ...]` of the deviations of H hypotheses, mean square 1: a few are large, more are small.

    Hypotheses of one Gaussian have too many truths outside their 90 % region where their spread is right on average
    and not for every pose. With factors `exp(tail * z_h)` they are a mixture of Gaussians of different widths, whose
    variance is the same and whose tails are heavier. `z_h` is one of a whole pose, and of a hypothesis in all frames of
    an example: a motion stays one. They are quantiles of the normal distribution, not draws, so that no chance is
    added; their order is drawn for each example.

    Args:
        key: The key of sampling.
        index: The indices `[B]` of the examples.
        count: H.
        tail: The standard deviation of the factors' logarithm: one number, or one for each joint, `[B, ..., J]`.
    """
    quantiles = jax.scipy.special.ndtri(jnp.asarray((np.arange(count) + 0.5) / count, jnp.float32))
    keys = example_keys(jax.random.fold_in(key, _TAIL_STREAM), index)
    z = jax.vmap(lambda own: jax.random.permutation(own, quantiles), out_axes=1)(keys)
    tail = jnp.atleast_1d(jnp.asarray(tail, jnp.float32))[None]
    weights = jnp.exp(tail * z.reshape(*z.shape, *[1] * (tail.ndim - 2)))
    # The mean square is that of the quantiles, whatever their order.
    squares = jnp.exp(2 * tail * quantiles.reshape(-1, *[1] * (tail.ndim - 1)))
    return weights / jnp.sqrt(jnp.mean(squares, axis=0, keepdims=True))
