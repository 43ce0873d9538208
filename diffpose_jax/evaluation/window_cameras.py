"""The cameras of the windows of a set, for what needs to project poses."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.views import pinhole
from diffpose_jax.data.windows import Windows
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera


class WindowCameras(NamedTuple):
    """The cameras `[K]` of a set, and the index of each window's camera, `[W]`."""

    cameras: Camera
    camera: Array

    def of(self, ids: Array) -> Camera:
        """The cameras `[B]` of the windows `ids [B]`."""
        return jax.tree.map(lambda field: field[self.camera[ids]], self.cameras)


def has_cameras(clips: ClipSet) -> bool:
    """Whether the camera of every clip is known."""
    return clips.cameras is not None and bool((clips.camera >= 0).all())


def window_cameras(clips: ClipSet, windows: Windows) -> WindowCameras | None:
    """The camera of every window of a set, or None where any clip's camera is unknown."""
    if clips.cameras is None or not has_cameras(clips):
        return None
    cameras = Camera(*(jnp.asarray(field, jnp.float32) for field in clips.cameras))
    # `low` is the first frame of the window's clip; the start of a padded window may lie before it.
    clip = np.searchsorted(clips.clip_start, np.asarray(windows.low), side="right") - 1
    return WindowCameras(cameras, jnp.asarray(clips.camera[clip], jnp.int32))


def add_pinhole(clips: ClipSet, focal: float) -> ClipSet:
    """The same clips with a centred pinhole camera of focal length `focal`, in normalised image units."""
    if not focal > 0:
        raise UserError(f"focal: expected a positive number, found {focal}")
    camera = jax.tree.map(np.asarray, pinhole(focal, (1,)))
    return dataclasses.replace(clips, cameras=camera, camera=np.zeros(clips.num_clips, np.int32))
