"""The cheapest plan whose poses are as good as the whole chain's is chosen, and used from then on."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.step_choice import STEPS, choose_steps
from diffpose_jax.evaluation.timed_lifting import Limit
from diffpose_jax.lifters.base import Lifter, Sampling
from diffpose_jax.registry import config_for
from diffpose_jax.skeleton import H36M_17, Skeleton
from diffpose_jax.workdir.trained import Trained, load_trained

JOB = Job(Sampling(8, flip="none"), (), 256)


@dataclasses.dataclass(frozen=True)
class Improving(Lifter):
    """A lifter whose mean is wrong by the truth times `missing` for plans of fewer than `enough` steps."""

    enough: int = 1
    frames: int = 1
    diffuses = True
    skeleton: Skeleton = H36M_17

    def sample(self, variables, key, batch, sampling):
        wrong = 0.1 if len(sampling.plan.step) < self.enough else 0.0
        noise = 0.05 * jax.random.normal(key, (sampling.hypotheses, *batch.poses.shape))
        poses = (1 + wrong) * batch.poses[None] + noise
        return poses - poses[..., :1, :]


def people() -> ClipSet:
    rng = np.random.default_rng(0)
    clips = []
    for subject in ("A", "B"):
        poses = rng.normal(0, 0.3, (80, 17, 3))
        poses -= poses[:, :1]
        clips.append(Clip(rng.normal(0, 0.3, (80, 17, 2)), poses, None, subject, "walk"))
    return ClipSet.build(clips, H36M_17)


def trained(enough: int) -> Trained:
    return Trained(config_for("diffupose"), Improving(enough), {"nothing": jnp.zeros(1)}, 7)


@pytest.mark.parametrize("enough", [1, 4])
def test_the_fewest_steps_that_are_enough_are_chosen(enough):
    chosen = choose_steps(trained(enough), people(), JOB, Limit(600))
    assert chosen["sampling_steps"] == min(steps for steps in STEPS if steps >= enough)
    assert chosen["sampler"] in ("ddim", "ddpm")


def test_without_time_or_a_plan_that_is_good_enough_nothing_is_chosen(caplog):
    with caplog.at_level("WARNING", logger="absl"):
        assert choose_steps(trained(1), people(), JOB, Limit(0)) is None
    assert "no fewer than 1 steps are as good as all; there was no time to try more" in caplog.text
    assert choose_steps(trained(100), people(), JOB, Limit(600)) is None


def test_a_lifter_without_reverse_steps_has_none_to_choose(tmp_path, untrained):
    workdir = untrained(tmp_path / "run", config_for("residual_mlp"))
    with pytest.raises(UserError, match="--steps: expected a method with reverse steps"):
        choose_steps(load_trained(workdir), people(), JOB, Limit(600))


def test_the_steps_in_a_record_are_those_of_the_loaded_lifter(diffupose_workdir, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(diffupose_workdir, workdir)
    record = {"step": 7, "temperature": 1.0, "diffusion": {"sampler": "ddim", "sampling_steps": 2}}
    path = workdir / "calibration.json"
    path.write_text(json.dumps(record))
    assert len(load_trained(workdir).lifter.plan.step) == 2
    assert len(load_trained(workdir, calibrated=False).lifter.plan.step) == 3
    path.write_text(json.dumps(record | {"diffusion": {"sampler": "ddim", "sampling_steps": 0}}))
    with pytest.raises(UserError, match="expected a file written by calibrate"):
        load_trained(workdir)
