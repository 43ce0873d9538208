"""The BVH file holds the person with constant bone lengths: for our reader, for another library, and for scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffpose_jax.data.sets.figures import to_h36m17
from diffpose_jax.exports.bvh import to_euler_zxy
from diffpose_jax.exports.files import save_exports, turn_y_up
from diffpose_jax.exports.rig import NODES, fit_rig, measure_lengths
from diffpose_jax.formats.articulation import node_positions
from diffpose_jax.formats.bvh import read_bvh
from diffpose_jax.skeleton import H36M_17

from .walking import film, lift, walk_in_world

NODE_OF = {node.joint: node.name for node in NODES}  # of nodes in one place, any
NAMES = [NODE_OF[joint] for joint in H36M_17.joints]


def rigid(world: np.ndarray) -> np.ndarray:
    """The person with bones of their median length, the mean of both sides, and their directions, y up."""
    lengths = {c: np.median(np.linalg.norm(world[:, c] - world[:, p], axis=-1)) for c, p in H36M_17.bones}
    result = world.copy()
    for child, parent in H36M_17.bones:
        bone = world[:, child] - world[:, parent]
        length = (lengths[child] + lengths[H36M_17.flip_order[child]]) / 2
        result[:, child] = result[:, parent] + bone * length / np.linalg.norm(bone, axis=-1, keepdims=True)
    return np.stack([result[..., 0], result[..., 2], -result[..., 1]], axis=-1)


@pytest.fixture(scope="module", params=["walk", "sit", "reach"])
def exported(request, tmp_path_factory):
    # Bones of changing length, as a lifter's: the file has to make them constant.
    world = walk_in_world(action=request.param)
    world = world + 0.01 * np.random.default_rng(1).standard_normal(world.shape)
    (path,) = save_exports(film(lift(world)), tmp_path_factory.mktemp("bvh"), ["bvh"])
    return path, rigid(world)


def test_our_reader_finds_the_joints_to_a_millimetre(exported):
    path, expected = exported
    recording = read_bvh(path, unit=1.0)
    found = node_positions(recording)[:, [recording.names.index(name) for name in NAMES]]
    assert np.abs(found - expected).max() < 1e-3
    assert recording.frame_time == pytest.approx(0.04)


def test_another_library_finds_the_joints_to_a_millimetre(exported):
    bvhio = pytest.importorskip("bvhio")
    path, expected = exported
    root = bvhio.readAsHierarchy(str(path))
    joints = {joint.Name: joint for joint, _, _ in root.layout()}
    for frame in (0, 7, len(expected) - 1):
        root.loadPose(frame)
        found = np.array([list(joints[name].PositionWorld) for name in NAMES])
        assert np.abs(found - expected[frame]).max() < 1e-3


def test_every_bone_has_one_length_and_both_sides_have_the_same(exported):
    path, _ = exported
    recording = read_bvh(path, unit=1.0)
    found = node_positions(recording)[:, [recording.names.index(name) for name in NAMES]]
    lengths = np.stack([np.linalg.norm(found[:, c] - found[:, p], axis=-1) for c, p in H36M_17.bones], axis=1)
    assert np.ptp(lengths, axis=0).max() < 1e-4
    at = [c for c, _ in H36M_17.bones]
    mirrored = lengths[:, [at.index(H36M_17.flip_order[c]) for c in at]]
    np.testing.assert_allclose(lengths, mirrored, atol=1e-4)


def test_bent_knees_and_elbows_are_hinges_about_one_axis():
    # Flexion of a limb is a rotation about one axis of the bone: x for knees, y for elbows in a T-pose.
    world = turn_y_up(walk_in_world(action="sit"))
    rig = fit_rig(world, measure_lengths(world))
    for name, axis in (("LeftLeg", 0), ("RightLeg", 0), ("LeftForeArm", 1), ("RightForeArm", 1)):
        vectors = Rotation.from_matrix(rig.rotations[:, rig.names.index(name)]).as_rotvec()
        bent = np.abs(vectors[:, axis]) > np.radians(30)
        others = np.delete(vectors[bent], axis, axis=1)
        assert np.abs(others).max(initial=0) < np.radians(1), name
    assert (Rotation.from_matrix(rig.rotations[:, rig.names.index("LeftLeg")]).as_rotvec()[:, 0] > -0.1).all()


def test_the_rest_pose_is_a_t_pose_that_faces_forward():
    rest = np.zeros((1, 17, 3))
    for child, parent in H36M_17.bones:
        name, side = H36M_17.joints[child], -1 if H36M_17.joints[child].startswith("right") else 1
        across = name.endswith(("hip", "shoulder", "elbow", "wrist"))
        rest[0, child] = rest[0, parent] + ([0.3 * side, 0, 0] if across else [0, -0.4, 0] if "_knee" in name
                                            or "_ankle" in name else [0, 0.3, 0])  # fmt: skip
    rig = fit_rig(rest, measure_lengths(rest))
    np.testing.assert_allclose(rig.rotations[0], np.tile(np.eye(3), (len(NODES), 1, 1)), atol=1e-9)


def test_rotations_do_not_jump_while_a_person_walks():
    world = turn_y_up(walk_in_world(frames=100))
    rig = fit_rig(world, measure_lengths(world))
    for index, name in enumerate(rig.names):
        turns = Rotation.from_matrix(rig.rotations[:, index])
        assert np.degrees((turns[:-1].inv() * turns[1:]).magnitude()).max() < 25, name


def test_a_file_of_ours_can_be_read_as_motion_capture_again(exported):
    path, expected = exported
    recording = read_bvh(path, unit=1.0)
    toes = {"left_toe": "LeftFoot_end", "right_toe": "RightFoot_end"}
    found = to_h36m17(recording, path, fps=None, joint_names=dict(zip(H36M_17.joints, NAMES, strict=True)) | toes)
    bones = np.array(H36M_17.bones)
    z_up = np.stack([expected[..., 0], -expected[..., 2], expected[..., 1]], axis=-1)
    np.testing.assert_allclose(
        found[:, bones[:, 0]] - found[:, bones[:, 1]], z_up[:, bones[:, 0]] - z_up[:, bones[:, 1]], atol=1e-3
    )


@settings(max_examples=50, deadline=None)
@given(angles=st.tuples(*[st.floats(-360, 360)] * 3), gimbal=st.sampled_from([None, 90.0, -90.0]))
def test_angles_give_back_any_rotation(angles, gimbal):
    angles = (angles[0], gimbal if gimbal is not None else angles[1], angles[2])
    matrix = Rotation.from_euler("ZXY", angles, degrees=True).as_matrix()
    back = Rotation.from_euler("ZXY", to_euler_zxy(matrix)).as_matrix()
    np.testing.assert_allclose(back, matrix, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_positions_give_proper_rotations(data):
    # Joints in one place, straight limbs, limbs up: no frame of them may be undefined.
    places = st.sampled_from([-0.5, 0.0, 0.5])
    positions = np.array(data.draw(st.lists(st.tuples(places, places, places), min_size=17, max_size=17)))[None]
    rig = fit_rig(positions, measure_lengths(positions))
    identity = np.swapaxes(rig.rotations, -1, -2) @ rig.rotations
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-5)
    assert np.linalg.det(rig.rotations).min() > 0.99
