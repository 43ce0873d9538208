"""A Gaussian around an estimate, with the covariance that its errors have on other people: a baseline.

Whatever a method's distribution is worth must show beside it: the same mean, and a spread that knows nothing of the
input. Coverage of single joints cannot tell the two apart; limb lengths and the energy score of whole poses can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError

Dependence = Literal["joint", "pose"]
_PART_FRAMES = 256


class ErrorGaussian(NamedTuple):
    """N(estimate, L L^T) over the D = 3 (J - 1) coordinates of a pose without its root.

    Attributes:
        factor: The lower Cholesky factor L, `[D, D]`, m.
        root: The index of the root, which is zero by definition.
    """

    factor: np.ndarray
    root: int

    def draw(self, estimates: np.ndarray, hypotheses: int, seed: int = 0) -> np.ndarray:
        """Hypotheses `[M, H, J, 3]` around estimates `[M, J, 3]`, root-relative m."""
        return np.concatenate(list(self.draw_parts(estimates, hypotheses, seed)))

    def draw_parts(self, estimates: np.ndarray, hypotheses: int, seed: int = 0) -> Iterator[np.ndarray]:
        """The same for consecutive frames after each other, so that those of all frames need not fit into memory."""
        rng = np.random.default_rng(seed)
        for first in range(0, len(estimates), _PART_FRAMES):
            yield self._draw(rng, np.asarray(estimates[first : first + _PART_FRAMES], np.float32), hypotheses)

    def _draw(self, rng: np.random.Generator, estimates: np.ndarray, hypotheses: int) -> np.ndarray:
        frames, joints = estimates.shape[:2]
        factor = self.factor.T.astype(np.float32)
        # Rows z of standard normal noise times L^T are L z: their covariance is L L^T.
        noise = rng.standard_normal((frames, hypotheses, len(factor)), np.float32) @ factor
        moving = np.delete(np.arange(joints), self.root)
        poses = np.repeat(estimates[:, None], hypotheses, axis=1)
        poses[:, :, moving] += noise.reshape(frames, hypotheses, joints - 1, 3)
        return poses


def fit_error_gaussian(
    estimates: np.ndarray, target: np.ndarray, root: int, dependence: Dependence = "pose"
) -> ErrorGaussian:
    """Fits the covariance of errors around zero, so that a bias widens it.

    Args:
        estimates: `[M, J, 3]`, root-relative m, of people not trained on.
        target: The true poses, likewise.
        root: The index of the root.
        dependence: 'pose': all joints depend on each other; 'joint': the three coordinates of each joint do.

    Raises:
        UserError: There are fewer frames than twice the coordinates.
    """
    errors = np.delete(np.asarray(estimates, np.float64) - target, root, axis=1).reshape(len(target), -1)
    frames, size = errors.shape
    if not enough_frames(estimates):
        raise UserError(f"covariance of errors: expected at least {2 * size} frames, found {frames}")
    # The second moment around zero, covariance plus bias bias^T: the Gaussian is centred on the estimate, which has the
    # bias.
    covariance = errors.T @ errors / frames
    if dependence == "joint":
        joint = np.arange(size) // 3
        # What remains are blocks of three on the diagonal, which is positive semidefinite as the whole is.
        covariance = np.where(joint[:, None] == joint[None], covariance, 0.0)
    # A thousandth of the mean variance keeps the factor of joints that never err.
    covariance += 1e-3 * np.trace(covariance) / size * np.eye(size) + 1e-12 * np.eye(size)
    return ErrorGaussian(np.linalg.cholesky(covariance), root)


def enough_frames(estimates: np.ndarray) -> bool:
    """Whether there are twice as many poses `[M, J, 3]` as coordinates that vary, for a covariance of all of them."""
    return len(estimates) >= 6 * (estimates.shape[1] - 1)
