"""Motion filmed anew is the same motion: only the camera differs, and the bodies where that is asked for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax import quaternions
from diffpose_jax.data.augmentation import DISTANCE, FOCAL, HEIGHT, augment, film_anew, vary_bodies
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.data.windows import Batch, device_clips, gather, unpadded_windows
from diffpose_jax.geometry import project
from diffpose_jax.skeleton import H36M_17

FRAMES = 3


@pytest.fixture(scope="module")
def batch() -> Batch:
    clips = load_synthetic(seed=0)["valid"].select([0, 1])
    windows = unpadded_windows(clips, FRAMES)
    ids = jnp.arange(0, len(windows.start), 3, dtype=jnp.int32)
    return gather(device_clips(clips, root=True), windows, ids, FRAMES)


@pytest.fixture(scope="module")
def keys(batch) -> jax.Array:
    return jax.random.split(jax.random.key(0), len(batch.index))


@pytest.fixture(scope="module")
def filmed(batch, keys) -> Batch:
    return film_anew(keys, batch)


def in_world(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    turn = batch.camera.rotation
    return np.asarray(quaternions.rotate(turn, batch.poses)), np.asarray(quaternions.rotate(turn, batch.root))


def test_the_poses_and_the_path_are_the_same_in_the_world(batch, filmed):
    (poses, path), (new_poses, new_path) = in_world(batch), in_world(filmed)
    np.testing.assert_allclose(new_poses, poses, atol=1e-5)
    place = [path + np.asarray(part.camera.translation)[:, None] for path, part in ((path, batch), (new_path, filmed))]
    np.testing.assert_allclose(place[1], place[0], atol=1e-4)


def test_keypoints_are_what_the_new_camera_sees(filmed):
    expected = project(filmed.poses + filmed.root[..., None, :], filmed.camera)
    np.testing.assert_array_equal(filmed.keypoints, expected)
    assert (np.asarray(filmed.root[..., 2]) > 0.5).all()


def test_cameras_stand_where_they_may(filmed):
    distance = np.linalg.norm(filmed.root[:, FRAMES // 2], axis=-1)
    assert (distance >= DISTANCE[0] - 1e-3).all()
    assert (distance <= DISTANCE[1] + 1e-2).all()
    height, focal = np.asarray(filmed.camera.translation)[:, 2], np.asarray(filmed.camera.focal)
    assert (height > HEIGHT[0] - 1e-3).all()
    assert (height < HEIGHT[1] + 1e-3).all()
    assert (focal >= FOCAL[0]).all()
    assert (focal <= FOCAL[1]).all()
    assert np.ptp(distance) > 5
    assert np.ptp(height) > 1.5


def test_every_example_has_its_own_camera_and_the_same_key_the_same_one(batch, keys, filmed):
    assert len(np.unique(np.asarray(filmed.camera.translation)[:, 0])) == len(keys)
    half = film_anew(keys[:5], jax.tree.map(lambda part: part[:5], batch))
    np.testing.assert_allclose(half.keypoints, filmed.keypoints[:5], atol=1e-5)


def test_other_bodies_have_the_same_limb_directions_and_left_and_right_alike(batch, keys):
    varied = vary_bodies(keys, batch, H36M_17, 0.1)

    def bones(poses: jax.Array) -> np.ndarray:
        child, parent = np.array(H36M_17.bones).T
        return np.asarray(poses)[..., child, :] - np.asarray(poses)[..., parent, :]

    before, after = bones(batch.poses), bones(varied.poses)
    factor = np.linalg.norm(after, axis=-1) / np.linalg.norm(before, axis=-1)
    np.testing.assert_allclose(after, before * factor[..., None], atol=1e-5)
    np.testing.assert_allclose(factor, factor[:, :1] + 0 * factor, rtol=1e-4)  # one body in a window
    order = np.array(H36M_17.flip_order)[1:] - 1
    np.testing.assert_allclose(factor, factor[..., order], rtol=1e-4)
    assert 0.05 < np.log(factor).std() < 0.12
    np.testing.assert_allclose(vary_bodies(keys, batch, H36M_17, 0.0).poses, batch.poses, atol=1e-6)


def test_without_cameras_or_roots_nothing_can_be_filmed(batch, keys):
    for missing in ("camera", "root"):
        with pytest.raises(ValueError, match="expected a batch with cameras and roots"):
            film_anew(keys, batch._replace(**{missing: None}))


def test_augmenting_is_both(batch, keys):
    plain, both = augment(keys, batch, H36M_17, 0.0), augment(keys, batch, H36M_17, 0.1)
    np.testing.assert_allclose(plain.camera.focal, both.camera.focal)
    assert np.abs(np.asarray(plain.poses - both.poses)).max() > 0.01
