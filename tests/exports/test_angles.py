"""Joint angles are those that a synthetic posture was made of; over hypotheses they are averaged on the circle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffpose_jax.data.synthesis.body import Posture, draw_body, joint_rotations, pose
from diffpose_jax.exports.angles import ANGLES, compute_angles, summarise_angles
from diffpose_jax.skeleton import H36M_17


def angles_of(positions: np.ndarray) -> dict[str, np.ndarray]:
    found = np.degrees(compute_angles(np.asarray(positions, np.float64)))
    return dict(zip(ANGLES, np.moveaxis(found, -1, 0), strict=True))


def stand(frames: int = 1) -> tuple[Posture, object]:
    body = draw_body(np.random.default_rng(0))
    return Posture.standing(body, frames), body


def posed(posture: Posture, body) -> np.ndarray:
    offsets = np.broadcast_to(body.offsets(), (len(posture.heading), H36M_17.num_joints, 3))
    return pose(joint_rotations(body, posture), offsets, posture.pelvis)


degrees = st.floats(-14, 14)


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_trunk_and_arms_have_the_angles_of_the_posture(data):
    posture, body = stand()
    tilt, side, heading, bend, turn = (data.draw(degrees) for _ in range(5))
    posture.tilt[:], posture.list[:], posture.heading[:] = np.radians([[tilt], [side], [10 * heading]])
    posture.spine[:] = np.radians([bend, side, turn])
    arms = [[data.draw(st.floats(-40, 80)), data.draw(st.floats(0, 80)), data.draw(st.floats(-50, 70)), 60.0]] * 2
    posture.arms[:] = np.radians(arms)
    posture.pelvis[:, 2] -= 0.1
    found = angles_of(posed(posture, body))
    expected = {"pelvis_tilt": tilt, "pelvis_list": side, "pelvis_rotation": 10 * heading}
    expected |= {"trunk_flexion": bend, "trunk_bending": side, "trunk_rotation": turn}
    for index, name in enumerate(("shoulder_flexion", "shoulder_abduction", "shoulder_rotation", "elbow_flexion")):
        expected |= {f"{name}_{side}": arms[0][index] for side in "lr"}
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=0.1), name


def test_legs_that_are_turned_by_hand():
    flexion, abduction, inward, knee = 40.0, 12.0, 20.0, 70.0
    for side, sign in (("left", 1), ("right", -1)):
        posture, body = stand()
        positions = posed(posture, body).astype(np.float64)
        hip, knee_at, ankle = (H36M_17.joints.index(f"{side}_{name}") for name in ("hip", "knee", "ankle"))
        turn = Rotation.from_euler("YXZ", [-flexion, sign * abduction, -sign * inward], degrees=True)
        positions[:, knee_at] = positions[:, hip] + turn.apply([0, 0, -0.4])
        positions[:, ankle] = positions[:, knee_at] + (turn * Rotation.from_euler("Y", knee, degrees=True)).apply(
            [0, 0, -0.4]
        )
        found = angles_of(positions)
        short = side[0]
        expected = {"hip_flexion": flexion, "hip_abduction": abduction, "hip_rotation": inward, "knee_flexion": knee}
        for name, value in expected.items():
            assert found[f"{name}_{short}"][0] == pytest.approx(value, abs=0.05), name


def test_a_person_who_stands_has_straight_knees_and_an_upright_trunk():
    posture, body = stand()
    found = angles_of(posed(posture, body))
    assert all(0 <= found[f"knee_flexion_{side}"][0] < 22 for side in "lr")
    assert found["trunk_lean"][0] == pytest.approx(0, abs=0.1)
    assert found["elbow_flexion_l"][0] == pytest.approx(18, abs=0.1)


def test_mean_and_deviation_are_taken_on_the_circle():
    # Two hypotheses that face 170 and -170 degrees face 180 on average, 10 to either side.
    posture, body = stand()
    upright = posed(posture, body)[0].astype(np.float64)
    turned = np.stack([Rotation.from_euler("z", angle, degrees=True).apply(upright) for angle in (170, -170)])
    mean, std = summarise_angles(lambda frames: turned[None][frames], 1)
    index = ANGLES.index("pelvis_rotation")
    assert abs(mean[0, index]) == pytest.approx(180, abs=1e-3)
    assert std[0, index] == pytest.approx(10, abs=1e-3)
    assert std[0, ANGLES.index("knee_flexion_r")] == pytest.approx(0, abs=1e-4)


def test_a_person_who_turns_round_does_not_jump_by_a_turn():
    posture, body = stand()
    upright = posed(posture, body)[0].astype(np.float64)
    turns = np.arange(0, 700, 10)
    people = np.stack([Rotation.from_euler("z", angle, degrees=True).apply(upright) for angle in turns])[:, None]
    mean, _ = summarise_angles(lambda frames: people[frames], len(people))
    np.testing.assert_allclose(mean[:, ANGLES.index("pelvis_rotation")], turns, atol=1e-3)
