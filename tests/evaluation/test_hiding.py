"""Joints are hidden in the data for methods that are told of them, and by the job for the others."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.views import pinhole
from diffpose_jax.evaluation.aggregation import reprojection_errors
from diffpose_jax.evaluation.hiding import hide_for
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.skeleton import H36M_17

CLIPS = ClipSet.build([Clip(np.zeros((6, 17, 2), np.float32), None, None, "S", "a")], H36M_17)
JOB = Job(Sampling(2), (), occlusion="leg")


def test_a_method_that_is_told_gets_data_in_which_a_leg_was_not_seen():
    clips, job = hide_for(SimpleNamespace(takes_mask=True, frames=1), CLIPS, JOB)
    assert ((~clips.seen).sum(axis=1) == 3).all()
    assert job == JOB.replace(occlusion="none")
    assert hide_for(SimpleNamespace(takes_mask=True, frames=1), CLIPS, job)[0] is CLIPS


def test_the_keypoint_of_a_joint_that_was_not_seen_weighs_no_hypothesis():
    rng = np.random.default_rng(0)
    poses, keypoints = rng.normal(0, 0.3, (3, 2, 1, 17, 3)), rng.uniform(-0.3, 0.3, (2, 1, 17, 2))
    poses, keypoints = (jnp.asarray(part, jnp.float32) for part in (poses, keypoints))
    seen = jnp.ones((2, 1, 17), bool).at[..., 5].set(False)
    camera = pinhole(2.0, (2,))
    found = reprojection_errors(poses, keypoints, camera, seen)
    moved = reprojection_errors(poses, keypoints.at[..., 5, :].add(7.0), camera, seen)
    np.testing.assert_array_equal(found, moved)
    assert not np.asarray(found)[..., 5].any()
    everything = reprojection_errors(poses, keypoints, camera, jnp.ones_like(seen))
    np.testing.assert_array_equal(everything, reprojection_errors(poses, keypoints, camera))


def test_a_method_that_is_not_told_gets_the_jobs_pattern():
    clips, job = hide_for(SimpleNamespace(takes_mask=False, frames=1), CLIPS, JOB)
    assert clips is CLIPS
    assert job is JOB


def test_a_calibration_also_hides_whole_limbs():
    keypoints = np.zeros((4000, 17, 2), np.float32)
    clips = ClipSet.build([Clip(keypoints, None, None, "S", "a")], H36M_17)
    told, job = SimpleNamespace(takes_mask=True, frames=1), JOB.replace(occlusion="partial", occlusion_rate=0.3)
    plain, more = (hide_for(told, clips, job, limbs=limbs)[0].seen for limbs in (False, True))
    leg = [H36M_17.joints.index(f"left_{name}") for name in ("hip", "knee", "ankle")]
    assert (~more[:, leg]).all(axis=1).mean() > (~plain[:, leg]).all(axis=1).mean() + 0.05
    assert more.all(axis=1).mean() > 0.25  # most of what is calibrated are people who are seen whole
    assert (more <= plain).all()
