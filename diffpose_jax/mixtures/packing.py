"""The stored form of 2D mixtures: six half-precision numbers for each component of each joint of each frame.

They are its weight; its mean relative to the joint's keypoint, u and v; and the lower Cholesky factor of its
covariance, `l_uu, l_vu, l_vv`; in normalised image units. float16 has a relative precision of 1/2048, so a mean 0.01
from its keypoint is kept to 0.00001, where an absolute one near 1 would be kept to 0.0005. A factor has half the
exponent of a covariance, whose small entries would underflow, and always gives a positive semidefinite matrix.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.mixtures.covariance import cholesky
from diffpose_jax.mixtures.mixture import Mixture

NUMBERS = 6


def pack_mixture(mixture: Mixture, keypoints: np.ndarray) -> np.ndarray:
    """Pack mixtures `[N, J, M]` in two dimensions around keypoints `[N, J, 2]` as float16 `[N, J, M, 6]`.

    Components are sorted by falling weight. One of weight 0 is stored with the mean and factor of the heaviest.
    """
    weights, means, covariances = (np.asarray(part, np.float64) for part in mixture)
    first = np.argmax(weights, axis=-1)[..., None, None]
    factor = np.zeros((*means.shape[:-1], 3))
    if mixture.diagonal:
        factor[..., [0, 2]] = np.sqrt(covariances)
    else:
        factor = cholesky(covariances)[..., [0, 1, 1], [0, 0, 1]]
    numbers = np.concatenate([means - np.asarray(keypoints, np.float64)[..., None, :], factor], axis=-1)
    # A component of weight 0 may have a mean that is not finite, which no weight would remove from a sum.
    numbers = np.where(weights[..., None] > 0, numbers, np.take_along_axis(numbers, first, axis=-2))
    packed = np.concatenate([weights[..., None], numbers], axis=-1)
    order = np.argsort(-weights, axis=-1, kind="stable")
    limit = float(np.finfo(np.float16).max)
    return np.take_along_axis(packed, order[..., None], axis=-2).clip(-limit, limit).astype(np.float16)


def unpack_mixture(packed: jax.Array, keypoints: jax.Array) -> Mixture:
    """Unpack `[..., J, M, 6]` around keypoints `[..., J, 2]` to mixtures with full covariances, in their dtype."""
    numbers = packed.astype(keypoints.dtype)
    weights = numbers[..., 0] / jnp.sum(numbers[..., 0], axis=-1, keepdims=True)
    uu, vu, vv = (numbers[..., i] for i in (3, 4, 5))
    # L L^T of the factor [[uu, 0], [vu, vv]]; products of two half-precision numbers are exact in float32.
    covariances = jnp.stack([jnp.stack([uu**2, uu * vu], -1), jnp.stack([uu * vu, vu**2 + vv**2], -1)], -1)
    return Mixture(weights, keypoints[..., None, :] + numbers[..., 1:3], covariances)
