"""The authors' mixture files: read without unpickling, told apart by place, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.gmm_files import add_gmm_mixtures, gmm_mixture, read_gmm
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera, denormalise_screen
from diffpose_jax.mixtures.packing import unpack_mixture
from diffpose_jax.skeleton import H36M_17

FRAMES = 25
SIZES = np.array([[1000, 1002], [1000, 1000], [1000, 1000], [1000, 1002]], np.float32)


def clips() -> ClipSet:
    """Two takes of one action of S9, each in four cameras, with detections at random places."""
    rng = np.random.default_rng(0)
    cameras = Camera(
        *(np.zeros((4, n), np.float32) for n in (2, 2, 3, 2)), np.tile([1.0, 0, 0, 0], (4, 1)), np.zeros((4, 3)), SIZES
    )
    poses = np.zeros((FRAMES, 17, 3), np.float32)
    return ClipSet.build(
        [
            Clip(rng.uniform(-1, 1, (FRAMES, 17, 2)).astype(np.float32), poses, None, "S9", "Walking", camera)
            for _ in range(2)
            for camera in range(4)
        ],
        H36M_17,
        cameras,
    )


def gmm_array(clip: Clip, components: int, extra_frames: int = 0) -> np.ndarray:
    """A video of the file: its first component of weight 0.7 is at the keypoints, the others around."""
    rng = np.random.default_rng(1)
    keypoints = np.concatenate([clip.keypoints, clip.keypoints[-1:].repeat(extra_frames, 0)])
    means = keypoints[:, :, None] + np.r_[0, rng.uniform(0.01, 0.05, components - 1)][None, None, :, None]
    weights = np.broadcast_to(np.r_[0.7, np.full(components - 1, 0.3 / (components - 1))], means.shape[:-1])
    spreads = np.broadcast_to([0.02, 0.03], means.shape)
    pixels = denormalise_screen(means, SIZES[clip.camera])
    return np.concatenate([weights[..., None], pixels, spreads], axis=-1)


def write(path: Path, original: ClipSet, order: tuple[int, int] = (0, 1), **changes: object) -> Path:
    takes = [[gmm_array(original.clip(4 * take + camera), 3, 2) for camera in range(4)] for take in order]
    content = {"S9": {"Walking": takes[0], "Walking 1": takes[1]}, **changes}
    np.savez(path, positions_2d=np.array(content, dtype=object))
    return path


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "takes exchanged"])
def test_mixtures_go_to_the_take_that_they_lie_at(tmp_path, order):
    original = clips()
    found = add_gmm_mixtures({"test": original}, write(tmp_path / "gmm.npz", original, order))["test"]
    np.testing.assert_allclose(found.keypoints, original.keypoints, atol=1e-6)
    mixture = unpack_mixture(np.asarray(found.mixture), found.keypoints)
    np.testing.assert_allclose(mixture.weights[..., 0], 0.7, atol=1e-3)
    np.testing.assert_allclose(mixture.covariances[..., 0, 0], 0.02**2, rtol=2e-3)
    np.testing.assert_allclose(mixture.covariances[..., 1, 1], 0.03**2, rtol=2e-3)
    assert np.all(mixture.covariances[..., 0, 1] == 0)


def test_means_are_pixels_and_spreads_are_not():
    array = np.array([[[[1.0, 500.0, 501.0, 0.1, 0.2], [0.0, 1000.0, 0.0, 1.0, 1.0]]]])
    mixture = gmm_mixture(array, np.array([1000, 1002]))
    np.testing.assert_allclose(mixture.means[0, 0], [[0, 0], [1, -1.002]], atol=1e-12)
    np.testing.assert_allclose(mixture.covariances[0, 0, 0], [0.01, 0.04])


def test_videos_are_named_by_subject_action_and_camera(tmp_path):
    videos = read_gmm(write(tmp_path / "gmm.npz", clips()))
    assert len(videos) == 8
    assert videos["S9", "Walking 1", 3].shape == (FRAMES + 2, 17, 3, 5)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 17, 2)), "expected shape"),
        (np.zeros((3, 17, 2, 5)), "some weight"),
        (np.full((3, 17, 2, 5), np.nan), "finite"),
        (-np.ones((3, 17, 2, 5)), "0 or more"),
        ("text", "expected shape"),
    ],
)
def test_what_is_no_mixture_is_refused(tmp_path, array, said):
    np.savez(tmp_path / "gmm.npz", positions_2d=np.array({"S9": {"Walking": [array]}}, dtype=object))
    with pytest.raises(UserError, match=f"S9/Walking/0: .*{said}"):
        read_gmm(tmp_path / "gmm.npz")


def test_a_file_of_other_videos_is_refused(tmp_path):
    original = clips()
    path = write(tmp_path / "gmm.npz", original)
    longer = ClipSet.build([original.clip(0)._replace(action="Sitting")], H36M_17, original.cameras)
    with pytest.raises(UserError, match="S9/Sitting, camera 0: expected 25 frames of 17 joints, found none"):
        add_gmm_mixtures({"test": longer}, path)
    elsewhere = original.clip(0)._replace(keypoints=original.clip(0).keypoints + 3)
    with pytest.raises(UserError, match="near the keypoints"):
        add_gmm_mixtures({"test": ClipSet.build([elsewhere], H36M_17, original.cameras)}, path)
    np.savez(tmp_path / "list.npz", positions_2d=np.array([1, 2]))
    with pytest.raises(UserError, match="dictionary"):
        read_gmm(tmp_path / "list.npz")


@pytest.mark.parametrize("content", [7, "text", None, [], {"S9": 7}, {"S9": {"Walking": 7}}, {"S9": {"Walking": None}},
                                     {"S9": {"Walking": {}}}], ids=str)  # fmt: skip
def test_pickles_of_another_kind_are_told_in_one_line(tmp_path, content):
    np.savez(tmp_path / "gmm.npz", positions_2d=np.array(content, dtype=object))
    with pytest.raises(UserError, match=r"gmm\.npz"):
        read_gmm(tmp_path / "gmm.npz")
