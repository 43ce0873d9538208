"""The wrapper of the person-centred view: the same poses wherever in the picture a person stands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.views import pinhole
from diffpose_jax.geometry import project
from diffpose_jax.lifters.base import Batch, MeasuringLifter, Sampling
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.person_centred import PersonCentred, encode, with_view
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.skeleton import H36M_17, mirror

from .test_wrappers import KEY, VARIABLES, Toy

FOCAL = 2.3


def filmed(pan: float = 0.0, focal: float = FOCAL, *, known: bool = True) -> tuple[Batch, np.ndarray]:
    """People 4 m away, seen `pan` degrees to the side, and the rotation of the pan."""
    body = np.random.default_rng(0).normal(size=(2, 3, 17, 3)).astype(np.float32) * 0.3
    body -= body[..., :1, :]
    angle = np.deg2rad(pan)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]], np.float32)
    poses, root = body @ turn.T, np.array([0, 0, 4], np.float32) @ turn.T
    camera = pinhole(focal, (2,))
    keypoints = project(poses + root, camera)
    mask, index = jnp.ones((2, 3, 17)), jnp.arange(2, dtype=jnp.int32)
    return Batch(keypoints, jnp.asarray(poses), mask, index, camera=camera if known else None), turn


def lift(batch: Batch) -> np.ndarray:
    return np.asarray(PersonCentred(Toy()).sample(VARIABLES, KEY, batch, Sampling()))[0]


def test_a_person_at_the_edge_of_the_picture_has_the_pose_of_one_in_its_middle():
    middle, _ = filmed(0.0)
    edge, turn = filmed(21.0)
    assert np.abs(np.asarray(edge.keypoints)).max() > 0.9
    np.testing.assert_allclose(lift(edge), lift(middle) @ turn.T, atol=1e-4)


def test_the_focal_length_does_not_matter_where_it_is_known():
    near, tele = filmed(0.0)[0], filmed(0.0, 5.0)[0]
    np.testing.assert_allclose(lift(near), lift(tele), atol=1e-4)


def test_an_assumed_focal_length_does_not_matter_in_the_middle_of_the_picture():
    known, unknown = filmed(0.0)[0], filmed(0.0, known=False)[0]
    assert np.abs(lift(known) - lift(unknown)).mean() < 0.02


def test_the_mirrored_input_has_the_mirrored_view():
    batch, _ = filmed(15.0)
    mirrored, _ = encode(flip_batch(batch, H36M_17))
    expected = flip_batch(encode(batch)[0], H36M_17)
    np.testing.assert_allclose(mirrored.keypoints, expected.keypoints, atol=1e-5)
    np.testing.assert_allclose(mirrored.poses, expected.poses, atol=1e-5)
    averaged = with_flips(PersonCentred(Toy())).sample(VARIABLES, KEY, batch, Sampling(flip="average"))
    again = with_flips(PersonCentred(Toy())).sample(
        VARIABLES, KEY, flip_batch(batch, H36M_17), Sampling(flip="average")
    )
    np.testing.assert_allclose(mirror(again, H36M_17), averaged, atol=1e-4)


def test_a_screen_is_left_as_it_is_and_equal_views_are_equal():
    assert with_view(Toy(), "screen") == Toy()
    assert with_view(Toy(), "person") == PersonCentred(Toy())
    assert hash(with_view(Toy(), "person")) == hash(PersonCentred(Toy()))
    assert with_view(Toy(), "person").frames == 3


def test_only_a_lifter_that_measures_does_so_and_it_sees_what_it_is_trained_on():
    class Measuring(Toy):
        def measure(self, frozen, train, valid):
            return {"keypoints": [batch.keypoints for batch in (*train, *valid)]}

    assert not isinstance(PersonCentred(Toy()), MeasuringLifter)
    batch, _ = filmed(10.0)
    found = PersonCentred(Measuring()).measure({}, [batch], [batch])["keypoints"]
    for keypoints in found:
        np.testing.assert_array_equal(keypoints, encode(batch)[0].keypoints)


@pytest.mark.parametrize("hidden", [3, 16])
def test_a_hidden_joint_moves_nothing_wherever_its_keypoint_lies(hidden):
    batch, _ = filmed(5.0)
    batch = batch._replace(mask=batch.mask.at[:, :, hidden].set(0))
    elsewhere = batch._replace(keypoints=batch.keypoints.at[:, :, hidden].set(jnp.array([0.9, -0.9])))
    np.testing.assert_array_equal(lift(batch), lift(elsewhere))


def test_the_loss_is_that_of_the_encoded_batch():
    class Sees(Toy):
        def loss(self, variables, key, batch):
            return jnp.sum(batch.poses * 1.0), super().loss(variables, key, batch)[1]

    batch, _ = filmed(12.0)
    expected = jnp.sum(encode(batch)[0].poses)
    assert jax.jit(PersonCentred(Sees()).loss)(VARIABLES, KEY, batch)[0] == pytest.approx(float(expected), abs=1e-3)
