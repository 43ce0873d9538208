"""Motion filmed anew is the same motion: only the camera differs, and the bodies where that is asked for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax import quaternions
from diffpose_jax.data.augmentation import (
    DISTANCE,
    FOCAL,
    HEIGHT,
    augment,
    cross_over,
    detect_anew,
    film_anew,
    vary_bodies,
)
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


def bone_lengths(poses: np.ndarray) -> np.ndarray:
    return np.stack([np.linalg.norm(poses[..., a, :] - poses[..., b, :], axis=-1) for a, b in H36M_17.bones], axis=-1)


def test_crossing_an_example_over_with_itself_changes_nothing(batch, keys):
    np.testing.assert_allclose(cross_over(keys, batch, batch, H36M_17, 1.0).poses, batch.poses, atol=1e-5)
    other = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), batch)
    np.testing.assert_allclose(cross_over(keys, batch, other, H36M_17, 0.0).poses, batch.poses, atol=1e-5)


def test_crossover_takes_the_upper_body_or_the_arms_of_another_and_leaves_the_legs(batch, keys):
    other = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), batch)
    (own, _), (their, _) = in_world(batch), in_world(other)
    mixed, _ = in_world(cross_over(keys, batch, other, H36M_17, 1.0))
    legs = [i for i, name in enumerate(H36M_17.joints) if name.partition("_")[2] in ("hip", "knee", "ankle")]
    np.testing.assert_allclose(mixed[:, :, legs], own[:, :, legs], atol=1e-5)
    spine, wrist = H36M_17.joints.index("spine"), H36M_17.joints.index("left_wrist")
    upper = np.abs(mixed[:, :, spine] - own[:, :, spine]).max(axis=(1, 2)) > 1e-4
    assert 0 < upper.sum() < len(upper)
    assert (np.abs(mixed[:, :, wrist] - own[:, :, wrist]).max(axis=(1, 2)) > 1e-4).all()
    # Heights are those of the other, because it is turned about the vertical alone, and nobody's bones change.
    np.testing.assert_allclose(mixed[upper][..., wrist, 2], their[upper][..., wrist, 2], atol=1e-5)
    lengths, sources = bone_lengths(mixed), np.stack([bone_lengths(own), bone_lengths(their)])
    assert np.abs(lengths - sources).min(axis=0).max() < 1e-4


def test_an_upper_body_of_another_faces_the_way_of_the_legs(batch, keys):
    other = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), batch)
    own, their = in_world(batch)[0], in_world(other)[0]
    left, right = (H36M_17.joints.index(f"{side}_hip") for side in ("left", "right"))
    line, theirs = ((one[:, :, right] - one[:, :, left]).sum(axis=1)[:, :2] for one in (own, their))
    angle = np.arctan2(line[:, 1], line[:, 0]) - np.arctan2(theirs[:, 1], theirs[:, 0])
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    spine = H36M_17.joints.index("spine")
    x, y = their[:, :, spine, 0], their[:, :, spine, 1]
    expected = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
    mixed = in_world(cross_over(keys, batch, other, H36M_17, 1.0))[0][:, :, spine, :2]
    distance = np.minimum(np.abs(mixed - expected), np.abs(mixed - own[:, :, spine, :2])).max()
    assert distance < 1e-5


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


# --- detected anew


# Compiled once for all tests, which is most of their time.
detect = jax.jit(lambda keys, batch, strength: detect_anew(keys, batch, H36M_17, strength))


@pytest.fixture(scope="module")
def detected(filmed, keys) -> dict[float, Batch]:
    """By the greatest strength of the detector's errors."""
    return {strength: detect(keys, filmed, strength) for strength in (0.0, 0.5, 2.0)}


@pytest.mark.slow
def test_a_detector_without_errors_sees_every_joint_where_it_is(filmed, detected):
    np.testing.assert_allclose(detected[0.0].keypoints, filmed.keypoints, atol=1e-6)
    np.testing.assert_allclose(detected[0.0].mask, filmed.mask)


@pytest.mark.slow
def test_keypoints_move_more_and_scores_fall_with_the_strength_and_nothing_else_changes(filmed, detected):
    moved = [float(np.abs(one.keypoints - filmed.keypoints).mean()) for one in detected.values()]
    scores = [float(np.mean(one.mask)) for one in detected.values()]
    assert moved[0] < moved[1] < moved[2] < 0.2
    assert 1 >= scores[0] > scores[1] > scores[2] > 0.3
    for name in ("poses", "root", "index"):
        np.testing.assert_array_equal(getattr(detected[2.0], name), getattr(filmed, name))
    mask = np.asarray(detected[2.0].mask)
    assert (mask > 0).all()
    assert (mask <= 1).all()


@pytest.mark.slow
def test_every_example_has_a_detector_of_its_own_quality(detected):
    per_example = np.asarray(detected[2.0].mask).mean(axis=(1, 2))
    assert np.ptp(per_example) > 0.2


@pytest.mark.slow
def test_within_an_example_a_score_tells_how_far_off_a_keypoint_is(filmed, detected):
    size = np.asarray(filmed.keypoints).std(axis=2, keepdims=True).mean(axis=-1)
    off = np.linalg.norm(detected[2.0].keypoints - filmed.keypoints, axis=-1) / size
    trusted = np.asarray(detected[2.0].mask) > 0.8
    assert off[trusted].mean() < 0.5 * off[~trusted].mean()


@pytest.mark.slow
def test_detections_belong_to_the_example_not_to_its_place_or_its_neighbours(filmed, keys, detected):
    order = np.roll(np.arange(len(keys)), 3)
    others = jax.tree.map(lambda part: np.asarray(part)[order], filmed)
    others.keypoints[:3] += 1  # other neighbours
    moved = detect(keys[order], others, 2.0)
    np.testing.assert_allclose(moved.keypoints[3:], detected[2.0].keypoints[:-3], atol=1e-5)
    np.testing.assert_allclose(moved.mask[3:], detected[2.0].mask[:-3], atol=1e-5)


@pytest.mark.slow
def test_what_was_not_seen_stays_so(filmed, keys):
    found = detect(keys, filmed._replace(mask=filmed.mask.at[:, :, 5].set(0)), 2.0)
    np.testing.assert_array_equal(found.mask[:, :, 5], 0)
    assert (np.asarray(found.mask).sum(axis=(0, 1)) > 0).sum() == 16


def test_augmenting_with_a_detector_films_the_same_and_detects_it(batch, keys):
    exact = augment(keys, batch, H36M_17, 0.0)
    found = jax.eval_shape(lambda: augment(keys, batch, H36M_17, 0.0, 1.0))
    np.testing.assert_array_equal(exact.mask, batch.mask)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, exact)
