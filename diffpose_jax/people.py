"""What passes between the parts of `diffpose lift`: people found in a video, and the same people lifted to 3D."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import Skeleton


class Track(NamedTuple):
    """One person of a video as a 2D detector found them, in T frames that need not be consecutive.

    Attributes:
        name: Identity, unique within the video, such as 'person 0'.
        frames: Index of each frame in the video, `[T]`, ascending.
        keypoints: Pixels `[T, J, 2]`, x right and y down from the top left corner of the upright picture.
        scores: Confidence of each joint, `[T, J]`, 0 where it was not seen.
        skeleton: The layout of the J joints.
        mixture: What the detector's heatmaps leave of the joints of h36m17, whatever the layout of the keypoints, in
            normalised image units: `[T, 17, M, ...]`, or None.
    """

    name: str
    frames: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray
    skeleton: Skeleton
    mixture: Mixture | None = None


class FilmedPeople(NamedTuple):
    """The people of one video.

    Attributes:
        source: The video's file name or description.
        image_size: Width and height of the upright picture in pixels.
        times: Time of every frame of the video, `[N]` seconds.
        tracks: The people.
        focal: Focal length in pixels by the metadata of the video; None: they do not say.
    """

    source: str
    image_size: tuple[int, int]
    times: np.ndarray
    tracks: tuple[Track, ...]
    focal: float | None = None


class LiftedPerson(NamedTuple):
    """One person lifted to 3D in T frames. The camera's frame has x right, y down and z away from the camera.

    Attributes:
        name: Identity, as in `Track`.
        frames: Index of each frame in the video, `[T]`.
        times: Time of each frame, `[T]` seconds.
        skeleton: The layout of the J joints; joint `skeleton.root` is the root.
        keypoints: What was lifted, in that layout, pixels `[T, J, 2]`.
        seen: Which joints were seen, `[T, J]` bool.
        poses: The aggregate of the hypotheses, `[T, J, 3]` m, root-relative, camera frame.
        hypotheses: `[T, H, J, 3]` m, likewise.
        spread: Standard deviation of each joint over the hypotheses, `[T, J]` m.
        radius_50: Radius of each joint's 50 % region, `[T, J]` m, or None.
        radius_90: Radius of each joint's 90 % region, `[T, J]` m, or None.
        root: Position of the root, `[T, 3]` m, camera frame.
        root_std: Standard deviation of the root along x, y, z, `[T, 3]` m.
    """

    name: str
    frames: np.ndarray
    times: np.ndarray
    skeleton: Skeleton
    keypoints: np.ndarray
    seen: np.ndarray
    poses: np.ndarray
    hypotheses: np.ndarray
    spread: np.ndarray
    radius_50: np.ndarray | None
    radius_90: np.ndarray | None
    root: np.ndarray
    root_std: np.ndarray


class LiftedVideo(NamedTuple):
    """The people of one video in 3D, and the world that they stand in.

    Attributes:
        source: The video's file name or description.
        image_size: Width and height of the upright picture in pixels.
        times: Time of every frame of the video, `[N]` seconds.
        focal: Focal length in pixels, known or assumed.
        world: Rotation from the camera's axes to the world's, `[3, 3]`, whose z axis points up; x stays level.
        floor: Height of the floor along the world's z axis, m, with the camera at zero.
        people: The people.
        settings: Model, options of sampling, and what was assumed; written down with every result.
    """

    source: str
    image_size: tuple[int, int]
    times: np.ndarray
    focal: float
    world: np.ndarray
    floor: float
    people: tuple[LiftedPerson, ...]
    settings: dict[str, object]

    def in_world(self, person: LiftedPerson, hypotheses: bool = False) -> np.ndarray:
        """Positions in the world, the floor at height 0: `[T, J, 3]` m, or of all hypotheses `[T, H, J, 3]`."""
        camera = (person.hypotheses + person.root[:, None, None]) if hypotheses else person.poses + person.root[:, None]
        return camera @ self.world.T - np.array([0.0, 0.0, self.floor])
