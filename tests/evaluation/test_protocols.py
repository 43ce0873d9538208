"""The protocols differ where they say so."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation import coherence
from diffpose_jax.evaluation.protocols import (
    PROTOCOLS,
    Frames,
    back_project,
    back_project_release,
    default_protocol,
    get_protocol,
)
from diffpose_jax.geometry import Camera
from diffpose_jax.skeleton import H36M_17, HUMANEVA_15, MPI_INF_3DHP_17

from ..pinhole import project_linear


@pytest.fixture
def frames() -> Frames:
    rng = np.random.default_rng(0)
    poses = (rng.normal(size=(6, 17, 3)) * 0.3).astype(np.float32)
    poses -= poses[:, :1]
    root = np.array([[0.3, -0.1, 5.0]] * 6, np.float32)
    camera = Camera(
        *(
            np.tile(np.array(row, np.float32), (6, 1))
            for row in ([2.3, 2.2], [0.02, 0.03], [0] * 3, [0] * 2, [1, 0, 0, 0], [0] * 3, [1000, 1000])
        )
    )
    keypoints = project_linear(jnp.asarray(poses + root[:, None]), camera)
    return Frames(jnp.asarray(poses), jnp.arange(6) > 0, keypoints, jnp.asarray(root), camera)


def test_standard_centres_a_prediction_on_its_own_root(frames):
    measured = get_protocol("standard").measure(frames.poses + 0.25, frames)
    np.testing.assert_allclose(measured["mpjpe"], 0, atol=1e-6)


def test_standard_reads_neither_camera_nor_root(frames):
    predictions = frames.poses * 1.1
    blind = get_protocol("standard").measure(predictions, frames._replace(root=None, camera=None))
    seeing = get_protocol("standard").measure(predictions, frames)
    for name, values in seeing.items():
        np.testing.assert_array_equal(blind[name], values)


def test_the_release_protocol_never_reads_the_predicted_x_and_y(frames):
    measure = get_protocol("backprojection_release").measure
    predictions = frames.poses * 1.1
    wild = predictions.at[..., :2].set(7.0)
    np.testing.assert_array_equal(measure(wild, frames)["mpjpe"], measure(predictions, frames)["mpjpe"])
    wrong_in_x_and_y = frames.poses.at[..., :2].set(1.0)
    np.testing.assert_allclose(measure(wrong_in_x_and_y, frames)["mpjpe"], 0, atol=2e-6)


def test_the_release_protocol_differs_from_standard_and_says_so(frames):
    noisy = frames.poses + jnp.asarray(np.random.default_rng(1).normal(size=frames.poses.shape), jnp.float32) * 0.05
    honest, release = (get_protocol(name) for name in ("standard", "backprojection_release"))
    assert float(jnp.mean(release.measure(noisy, frames)["mpjpe"])) < 0.8 * float(
        jnp.mean(honest.measure(noisy, frames)["mpjpe"])
    )
    assert "GROUND-TRUTH" in release.description
    assert "n_mpjpe" not in release.measure(noisy, frames)
    assert "n_mpjpe_release" in release.measure(noisy, frames)


def test_back_projection_with_true_depths_recovers_the_pose(frames):
    np.testing.assert_allclose(
        back_project(frames.poses, frames.keypoints, frames.root, frames.camera), frames.poses, atol=2e-6
    )


def test_only_the_root_keeps_its_predicted_depth(frames):
    predictions = frames.poses.at[:, 0, 2].set(0.2)
    overwritten = back_project_release(predictions, frames.keypoints, frames.root, frames.camera)
    np.testing.assert_allclose(overwritten[:, 0], np.tile([0, 0, 0.2], (6, 1)), atol=1e-6)


def test_an_unknown_protocol_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"standard, mpi_inf_3dhp, .*backprojection_release, found 'strict'"):
        get_protocol("strict")


@pytest.mark.parametrize("name", ["whole_windows", "official_backprojection"])
def test_a_name_of_before_is_refused_with_the_new_one(name):
    with pytest.raises(UserError, match=rf"'{name}' is called '\w+_release' now") as caught:
        get_protocol(name)
    assert str(caught.value).split("'")[3] in PROTOCOLS


def test_a_protocol_is_compiled_once():
    assert get_protocol("standard", H36M_17) is get_protocol("standard", H36M_17)


def test_the_3dhp_protocol_never_centres_a_prediction_and_counts_its_root(frames):
    measure = get_protocol("mpi_inf_3dhp", MPI_INF_3DHP_17).measure
    shifted = measure(frames.poses - frames.poses[:, 14:15] + jnp.array([0.2, 0, 0])[None, None, :], frames)
    np.testing.assert_allclose(shifted["mpjpe"], 0.2, rtol=1e-5)
    np.testing.assert_array_equal(shifted["pck"], 0)
    perfect = measure(frames.poses - frames.poses[:, 14:15], frames)
    np.testing.assert_allclose(perfect["mpjpe"], 0, atol=1e-6)
    np.testing.assert_allclose(perfect["auc"], 30 / 31, rtol=1e-6)


def test_the_3dhp_protocol_takes_its_own_layout_only(frames):
    protocol = get_protocol("mpi_inf_3dhp", H36M_17)
    with pytest.raises(UserError, match="expected data of layout mpi_inf_3dhp17, found h36m17"):
        protocol.check(frames, H36M_17)
    assert [default_protocol(s) for s in (MPI_INF_3DHP_17, H36M_17, HUMANEVA_15)] == [
        "mpi_inf_3dhp",
        "standard",
        "standard",
    ]


@pytest.fixture
def video() -> Frames:
    rng = np.random.default_rng(3)
    poses = rng.normal(0, 0.3, (30, 17, 3)).astype(np.float32)
    follows = np.arange(30) > 0
    window = jnp.asarray(coherence.index_windows(follows))
    return Frames(jnp.asarray(poses - poses[:, :1]), jnp.asarray(follows), jnp.zeros((30, 17, 2)), window=window)


def test_whole_windows_leaves_out_the_rest_and_measures_the_hip_where_it_is(video):
    measured = get_protocol("whole_windows_release").measure(video.poses + 0.1, video)
    np.testing.assert_allclose(measured["mpjpe"][:27], 0.1 * np.sqrt(3), rtol=1e-5)
    for values in measured.values():
        assert np.isnan(values[27:]).all()
    expected = coherence.segment_stds(video.poses[:27], coherence.list_bones_release(), unbiased=True).mean()
    np.testing.assert_allclose(measured["segment_std"][:27], expected, rtol=1e-5)
    standard = get_protocol("standard").measure(video.poses, video)
    correct = coherence.segment_stds(video.poses[:27], coherence.list_bones(H36M_17)).mean()
    np.testing.assert_allclose(standard["segment_std"][:27], correct, rtol=1e-5)


def test_whole_windows_needs_consecutive_frames(video):
    sparse = video._replace(window=jnp.full(30, -1, jnp.int32))
    with pytest.raises(UserError, match=r"27 consecutive frames or more .a stride of 1., found none"):
        get_protocol("whole_windows_release").check(sparse, H36M_17)


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_what_a_protocol_transforms_is_what_it_measures(frames, name):
    skeleton = MPI_INF_3DHP_17 if name == "mpi_inf_3dhp" else H36M_17
    frames = frames._replace(window=jnp.zeros(6, jnp.int32))
    protocol = get_protocol(name, skeleton)
    predictions = frames.poses * 1.2 + 0.01
    target = frames.poses - frames.poses[:, skeleton.root][:, None]
    errors = jnp.linalg.norm(protocol.transform(predictions, frames) - target, axis=-1)
    np.testing.assert_allclose(errors.mean(axis=-1), protocol.measure(predictions, frames)["mpjpe"], rtol=1e-5)
