"""What benchmarks measure: MPI-INF-3DHP's tool, and the coherence metrics and aggregations of DiffHPE."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.diffusion import hypotheses
from diffpose_jax.evaluation import coherence, metrics
from diffpose_jax.geometry import project

from .base import System
from .modulated_gcn import lens

MM = 1000.0


def mpi_inf_3dhp(vector: Any) -> dict[str, np.ndarray]:
    """Errors, PCK and AUC per sequence, per activity and of all valid frames, in mm, float64."""
    config, inputs = vector.config, vector.inputs
    groups = {name: tuple(joint - 1 for joint in joints) for name, joints in config["groups"].items()}
    assert list(groups.values()) == list(metrics.JOINT_GROUPS_3DHP.values())
    first, step, last = map(float, config["thresholds_mm"].split(" ")[0].split(":"))
    thresholds = tuple(np.arange(first, last + step / 2, step).tolist())
    np.testing.assert_allclose(thresholds, np.array(metrics.AUC_THRESHOLDS) * MM, atol=1e-9)

    frames = []
    # In mm and float64 the probes lie exactly on the thresholds.
    with jax.enable_x64(True):
        for sequence in range(config["n_sequences"]):
            pred, gt, valid, activity = (inputs[f"{name}_{sequence}"] for name in ("pred", "gt", "valid", "activity"))
            target = metrics.root_relative(jnp.asarray(gt), config["root_joint_zero_based"])
            errors = metrics.joint_errors(jnp.asarray(pred), target)
            pck = metrics.pck_3dhp(errors, float(config["pck_threshold_mm"]))
            auc = metrics.auc_3dhp(errors, thresholds)
            measured = [errors, *(jnp.stack(list(found.values()), axis=-1) * 100 for found in (pck, auc))]
            kept = valid == 1
            frames.append((activity[kept], *(np.asarray(part)[kept] for part in measured)))

    activity, *pooled = (np.concatenate(parts) for parts in zip(*frames, strict=True))
    sequences = [np.stack([part.mean(axis=0) for part in parts]) for parts in list(zip(*frames, strict=True))[1:]]
    errors, pck, auc = sequences
    outputs = {
        "seq_per_joint": errors,
        "seq_mpjpe": errors.mean(axis=1),
        "seq_pck": pck,
        "seq_auc": auc,
        "headline_seq_mean": np.array([pck[:, -1].mean(), auc[:, -1].mean(), errors.mean(axis=1).mean()]),
        "all_mpjpe": pooled[0].mean(),
        "all_pck": pooled[1].mean(axis=0),
        "all_auc": pooled[2].mean(axis=0),
    }
    done = [[part[activity == kind] for part in pooled] for kind in range(1, 8)]
    outputs["act_mpjpe"] = np.array([part[0].mean() if len(part[0]) else np.nan for part in done])
    for place, name in ((1, "pck"), (2, "auc")):
        absent = np.full(pooled[place].shape[1], np.nan)
        outputs[f"act_{name}"] = np.stack([p[place].mean(axis=0) if len(p[place]) else absent for p in done])
    return outputs


def coherence_and_aggregations(vector: Any) -> dict[str, np.ndarray]:
    """Four aggregations, errors by joint and coordinate, bone lengths, symmetry gap and segment deviation."""
    config, inputs = vector.config, vector.inputs
    bones = coherence.list_bones_release()
    recorded = (tuple(map(tuple, config["bones"])), tuple(config["bones_left"]), tuple(config["bones_right"]))
    assert (bones.joints, bones.left, bones.right) == recorded
    samples = jnp.moveaxis(jnp.asarray(inputs["samples"]), 1, 0)
    target, pred = jnp.asarray(inputs["gt"]), jnp.asarray(inputs["pred"])
    poses = _aggregate(samples, target, inputs)
    outputs = {}
    for name, pose in poses.items():
        outputs[f"agg_{name}_pose_mm"] = pose * MM
        outputs[f"agg_{name}_mpjpe_mm"] = metrics.mpjpe(pose, target).mean() * MM
        outputs[f"agg_{name}_mpjpe_sum_mm"] = metrics.joint_errors(pose, target).sum() * MM
    lengths = coherence.bone_lengths(pred, bones.joints)
    gaps = coherence.symmetry_gaps(pred, bones)
    deviations = coherence.segment_stds(pred, bones, unbiased=True)
    outputs |= {
        "mpjpe_mean": metrics.mpjpe(pred, target).mean(),
        "mpjpe_sum": metrics.joint_errors(pred, target).sum(),
        "jointwise": metrics.joint_errors(pred, target).mean(axis=(0, 1)),
        "coordwise": metrics.coordinate_errors(pred, target).mean(axis=(0, 1, 2)),
        "p_mpjpe": metrics.p_mpjpe(pred, target).mean(),
        "bone_lengths_mm": jnp.swapaxes(lengths, -1, -2) * MM,
        "symmetry_gap_mm": gaps.mean() * MM,
        "symmetry_sq": (gaps**2).mean() * MM**2,
        "symmetry_per_pair_mm": gaps.mean(axis=(0, 1)) * MM,
        "segment_std_mm": deviations.mean() * MM,
        "segment_var": (deviations**2).mean() * MM**2,
        "segment_std_per_bone_mm": deviations.mean(axis=0) * MM,
    }
    return {name: np.asarray(value) for name, value in outputs.items()}


def _aggregate(samples: jax.Array, target: jax.Array, inputs: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    errors = metrics.joint_errors(samples, target[None])
    # The release projects poses whose hip is at the origin.
    projected = project(jnp.swapaxes(samples, 0, 1), lens(inputs["cam"][:, 0, :9]))
    distance = jnp.linalg.norm(jnp.swapaxes(projected, 0, 1) - inputs["pose_2d"][None], axis=-1)
    return {
        "average": hypotheses.mean(samples),
        "best": hypotheses.oracle_best(samples, target, per="clip"),
        "worst": hypotheses.select_by_error(samples, -errors, per="clip"),
        "reproj": hypotheses.reprojection(samples, distance, per="joint"),
    }


SYSTEMS = {
    "MPI-INF-3DHP test metrics": System(mpi_inf_3dhp, absolute=1e-9),
    # In metres and in millimetres: 1e-3 mm of what is printed, relative to lengths of some hundred.
    "diffhpe_metrics": System(coherence_and_aggregations, absolute=2e-5, relative=3e-6),
}
