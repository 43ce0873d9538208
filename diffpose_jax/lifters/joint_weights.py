"""How much each joint counts in a loss, by what the joint is: so every layout has every set of weights."""

from __future__ import annotations

from typing import Literal

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import Skeleton

JointWeights = Literal["uniform", "mixste", "limb_ends", "mixste_humaneva_release"]

# By anatomical name without its side; a joint not named counts 1.
JOINT_WEIGHTS: dict[str, dict[str, float]] = {
    "uniform": {},
    # MixSTE's release: torso 1, head and shoulders 1.5, legs 2.5, arms 4.
    "mixste": {"head_top": 1.5, "shoulder": 1.5, "knee": 2.5, "ankle": 2.5, "elbow": 4, "wrist": 4},
    # DiffuPose's release: each limb's weight doubles towards its end.
    "limb_ends": {"neck_nose": 2, "knee": 2, "ankle": 4, "elbow": 2, "wrist": 4},
}

# MixSTE's release takes a 15-joint list that is in Human3.6M's order for HumanEva: wrists 1, one hip 4.
MIXSTE_HUMANEVA_RELEASE = (1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4)


def joint_weights(name: str, skeleton: Skeleton) -> np.ndarray:
    """The weights `[J]` called 'uniform', 'mixste' or 'limb_ends', float32, for the joints of a skeleton.

    'mixste_humaneva_release' is the published list that meets the wrong joints of HumanEva. Raises UserError on an
    unknown name, or where that list has not the skeleton's number of joints.
    """
    if name == "mixste_humaneva_release" and skeleton.num_joints == len(MIXSTE_HUMANEVA_RELEASE):
        return np.array(MIXSTE_HUMANEVA_RELEASE, np.float32)
    if name not in JOINT_WEIGHTS:
        raise UserError(
            f"config.lifter.joint_weights: expected one of {', '.join(JOINT_WEIGHTS)} (or mixste_humaneva_release "
            f"with humaneva15), found {name!r} with {skeleton.name}"
        )
    kinds = (joint.removeprefix("left_").removeprefix("right_") for joint in skeleton.joints)
    return np.array([JOINT_WEIGHTS[name].get(kind, 1) for kind in kinds], np.float32)
