"""The published camera models and data preparation, computed with our own functions.

Each adapter takes a vector (`inputs`, `config`, ...) and returns every output the vector may hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffpose_jax import geometry
from diffpose_jax.data.cameras import H36M_CAMERA_IDS, H36M_EXTRINSICS, H36M_INTRINSICS, h36m_cameras
from diffpose_jax.data.sets.human36m import JOINTS_17_OF_32
from diffpose_jax.data.sets.videopose3d import camera_pairs
from diffpose_jax.geometry import Camera

from ...pinhole import project_linear
from .base import System


def projection(vector: Any) -> dict[str, np.ndarray]:
    """Human3.6M's camera model: projection, world <-> camera, screen normalisation."""
    inputs = vector.inputs
    vectors = inputs["cams"]
    leading = vectors.shape[:-1]
    size = np.array(vector.config["screen_wh"], np.float32)
    lenses = Camera(
        *np.split(vectors, [2, 4, 7], axis=-1),
        rotation=np.broadcast_to(inputs["quat"], (*leading, 4)),
        translation=np.broadcast_to(inputs["trans"], (*leading, 3)),
        size=np.broadcast_to(size, (*leading, 2)),
    )
    camera = Camera(*(value[(0,) * len(leading)] for value in lenses))
    seen = geometry.world_to_camera(inputs["world"], camera)
    return {
        "proj": np.asarray(geometry.project(inputs["points"], lenses)),
        "proj_linear": np.asarray(project_linear(inputs["points"], lenses)),
        "world_to_camera": np.asarray(seen),
        "camera_to_world": np.asarray(geometry.camera_to_world(seen, camera)),
        "normalised": geometry.normalise_screen(inputs["pixels"].astype(np.float64), size),
        # Back from the recorded values: a float32 rounding inside them is worth 3e-5 of a pixel.
        "image": geometry.denormalise_screen(vector.outputs["normalised"], size),
    }


def diffhpe_data(vector: Any) -> dict[str, np.ndarray]:
    """DiffHPE's preparation of Human3.6M: 17 of 32 joints, camera frame, normalised 2D, and the camera table."""
    config = vector.config
    indices = [H36M_CAMERA_IDS.index(camera) for camera in config["camera_ids"]]
    poses, keypoints, rows = [], [], []
    for subject, world, views in zip(
        config["subjects"], vector.inputs["world_32"], vector.inputs["pixels"], strict=True
    ):
        cameras = h36m_cameras(subject)
        for index, pixels in zip(indices, views, strict=True):
            camera = Camera(*(value[index] for value in cameras))
            view = camera_pairs(world[:, JOINTS_17_OF_32], pixels, camera)
            keypoints.append(view[0])
            poses.append(view[1])
            rows.append(np.concatenate([*camera[:-1], [index]]))

    def stack(parts: list[np.ndarray]) -> np.ndarray:
        return np.stack(parts).reshape(len(config["subjects"]), len(indices), *parts[0].shape)

    # The table is printed in float32 and compared in pixels and millimetres, where a second rounding would show.
    extrinsics = [[H36M_EXTRINSICS[subject][n] for n in indices] for subject in config["cam_subject_order"]]
    lenses = zip(*(H36M_INTRINSICS[n] for n in indices), strict=True)
    focal, centre, radial, tangential, size = (np.array(column, np.float32) for column in lenses)
    return {
        "pose_3d": stack(poses),
        "pose_2d": stack(keypoints),
        "cam": stack(rows),
        "cam_quaternion": np.array([[pose[0] for pose in row] for row in extrinsics], np.float32),
        "cam_translation_mm": np.array([[pose[1] for pose in row] for row in extrinsics], np.float32),
        "cam_center_px": centre,
        "cam_focal_px": focal,
        "cam_radial": radial,
        "cam_tangential": tangential,
        "cam_res_wh": size,
    }


SYSTEMS = {"Human3.6M camera model": System(projection), "diffhpe_data": System(diffhpe_data)}
