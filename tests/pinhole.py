"""The pinhole projection of VideoPose3D and D3DP: the library's own with the lens distortion set to zero."""

from __future__ import annotations

import jax
import numpy as np

from diffpose_jax.geometry import Array, Camera, project


def project_linear(points: Array, camera: Camera) -> jax.Array:
    """Projects camera-frame points `[..., 3]` (m) to `[..., 2]`, as `project` does with an undistorted lens."""
    plain = camera._replace(radial=np.zeros_like(camera.radial), tangential=np.zeros_like(camera.tangential))
    return project(points, plain)
