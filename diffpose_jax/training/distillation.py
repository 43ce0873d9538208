"""Distillation: a student learns to draw in few reverse steps the hypotheses that its teacher draws in many.

Luhman and Luhman, "Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed", 2021. DDIM
without noise (eta = 0) makes one pose of one initial noise. Teacher and student start from the same noise, and the
student's end is pulled to the teacher's, through all of its own steps.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config
from diffpose_jax.diffusion.plans import Plan
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Aux, Batch, Lifter, Sampling, Variables
from diffpose_jax.lifters.building import make_plan, make_schedule_of
from diffpose_jax.lifters.pose_losses import mpjpe
from diffpose_jax.lifters.wrappers import Wrapper
from diffpose_jax.workdir.trained import load_trained

# The key of `loss`'s variables under which the teacher's stand.
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class Distilled(Wrapper):
    """A method whose loss is how far its own hypotheses are from those of its teacher.

    Attributes:
        lifter: The method; its own plan is the student's.
        teacher_plan: The teacher's reverse steps.
    """

    teacher_plan: Plan

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """The mean distance of the joints of one hypothesis to the teacher's from the same noise, m.

        Args:
            variables: The student's, and the teacher's as `variables[TEACHER]`.
            key: The key of the noise.
            batch: Keypoints; poses are not read.
        """
        student = {name: part for name, part in variables.items() if name != TEACHER}
        # The noise derives from the key and the examples' indices alone, so that both start from the same.
        wanted = self.lifter.sample(variables[TEACHER], key, batch, Sampling(plan=self.teacher_plan))
        found = self.lifter.sample(student, key, batch, Sampling())
        # The distance, not its square: where the student cannot follow, the squared error would draw all hypotheses to
        # their mean, and so would this one to their median, but later.
        total = mpjpe(found, jax.lax.stop_gradient(wanted))
        return total, Aux({"loss": total}, student.get("batch_stats", {}))


def with_distillation(lifter: Lifter, config: ConfigDict) -> Lifter:
    """The lifter within `Distilled` where `training.distil` names a teacher, else as it is.

    Raises:
        UserError: A method without reverse steps, or reverse steps that draw noise.
    """
    if not config.training.distil:
        return lifter
    if not lifter.diffuses:
        raise UserError(f"config.training.distil: expected a method with reverse steps, found {config.lifter.name}")
    plan: Plan = lifter.plan  # type: ignore[attr-defined]
    if plan.table[:, 3].any():
        raise UserError("config.training.distil: expected reverse steps that draw no noise "
                        f"(diffusion.sampler=ddim, diffusion.eta=0), found {config.diffusion.sampler} with "
                        f"eta={config.diffusion.eta}")  # fmt: skip
    steps = config.training.distil_steps
    diffusion = copy_config(config, diffusion={"sampler": "ddim", "eta": 0.0, "sampling_steps": steps}).diffusion
    return cast(Lifter, Distilled(lifter, make_plan(diffusion, make_schedule_of(diffusion))))


def load_teacher(config: ConfigDict) -> Variables | None:
    """The variables of the teacher that `training.distil` names, None where there is none.

    Raises:
        UserError: Nothing was trained there.
    """
    if not config.training.distil:
        return None
    return jax.tree.map(jnp.asarray, load_trained(config.training.distil, calibrated=False).variables)
