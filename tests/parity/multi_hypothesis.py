"""The four errors that Shan et al. 2023 report for many hypotheses, two of them oracles."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from diffpose_jax.diffusion import hypotheses as aggregation
from diffpose_jax.evaluation.metrics import mpjpe
from diffpose_jax.geometry import procrustes

Array = jax.Array


def multi_hypothesis_errors(
    hypotheses: Array, target: Array, reprojection_errors: Array | None = None, aligned: bool = False
) -> dict[str, Array]:
    """Errors `[B, F]` m of hypotheses `[H, B, F, J, 3]` against the target `[B, F, J, 3]`, roots at zero.

    p_best (ORACLE: one hypothesis for the whole batch, so it depends on the batch), j_best (ORACLE: the best of each
    joint), p_agg (the mean) and, with the distances `[H, B, F, J]` of the joints to the 2D input, j_agg (each joint
    from the hypothesis that reprojects best). With `aligned` they are errors after the similarity alignment of every
    pose: of the hypotheses before a selection, of the mean after it, while j_agg still selects by the distances given.
    """
    poses = procrustes(hypotheses, jnp.broadcast_to(target[None], hypotheses.shape)) if aligned else hypotheses
    mean = aggregation.mean(hypotheses)
    found = {
        "p_best": aggregation.oracle_best(poses, target, "batch"),
        "j_best": aggregation.oracle_best(poses, target, "joint"),
        "p_agg": procrustes(mean, target) if aligned else mean,
    }
    if reprojection_errors is not None:
        found["j_agg"] = aggregation.reprojection(poses, reprojection_errors, "joint")
    return {name: mpjpe(pose, target) for name, pose in found.items()}
