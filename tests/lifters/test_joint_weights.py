"""Joint weights meet the joints they were meant for, in every layout."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.skeleton import H36M_16, H36M_17, HUMANEVA_15, MPI_INF_3DHP_17

MIXSTE = [1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4]


def test_the_mixste_weights_are_the_released_lists():
    np.testing.assert_array_equal(joint_weights("mixste", H36M_17), MIXSTE)
    np.testing.assert_array_equal(joint_weights("mixste", H36M_16), MIXSTE[:9] + MIXSTE[10:])


def test_the_limb_ends_weights_are_diffuposes_released_lists():
    legs = [1, 1, 2, 4, 1, 2, 4, 1, 1]
    arms = [1, 1, 2, 4, 1, 2, 4]
    np.testing.assert_array_equal(joint_weights("limb_ends", H36M_17), [*legs, 2, *arms])
    np.testing.assert_array_equal(joint_weights("limb_ends", H36M_16), [*legs, *arms])


@pytest.mark.parametrize("skeleton", [H36M_17, H36M_16, HUMANEVA_15, MPI_INF_3DHP_17], ids=lambda one: one.name)
@pytest.mark.parametrize(("name", "ends"), [("mixste", ["wrist", "elbow"]), ("limb_ends", ["wrist", "ankle"])])
def test_the_heaviest_joints_are_the_same_in_every_layout(skeleton, name, ends):
    expected = {skeleton.joints.index(f"{side}_{end}") for side in ("left", "right") for end in ends}
    assert set(np.flatnonzero(joint_weights(name, skeleton) == 4)) == expected


def test_the_list_released_for_humaneva_gives_a_wrist_one_and_a_hip_four():
    weights = joint_weights("mixste_humaneva_release", HUMANEVA_15)
    assert weights[HUMANEVA_15.joints.index("left_wrist")] == 1
    assert weights[HUMANEVA_15.joints.index("right_hip")] == 4
    with pytest.raises(UserError, match="h36m17"):
        joint_weights("mixste_humaneva_release", H36M_17)


def test_an_unknown_name_is_told_with_those_there_are():
    with pytest.raises(UserError, match=r"mixste, limb_ends.*'heavy'"):
        joint_weights("heavy", H36M_17)
