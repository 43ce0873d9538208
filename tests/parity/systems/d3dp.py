"""Samplers and aggregation of D3DP and Diff3DHPE, through the project's own lifters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.diffusion import hypotheses, plans, samplers
from diffpose_jax.diffusion.process import at_step, diffuse, snr_weight
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.geometry import denormalise_screen, project
from diffpose_jax.interop.mixste import d3dp_denoiser_variables, diff3dhpe_backbone_variables
from diffpose_jax.lifters.d3dp import D3DP, D3DPOptions
from diffpose_jax.lifters.diff3dhpe import Diff3DHPE, Diff3DHPEOptions, network_input, weighted_square
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.skeleton import Skeleton, mirror

from ...pinhole import project_linear
from ..multi_hypothesis import multi_hypothesis_errors
from .base import System
from .mixste import mixste_network
from .modulated_gcn import lens

# The release's names and ours.
ERRORS = {"P_Best": "p_best", "J_Best": "j_best", "P_Agg": "p_agg", "J_Agg": "j_agg"}


def d3dp_sampler(vector: Any) -> dict[str, np.ndarray]:
    """Every clean prediction of every run, with the recorded noise."""
    config, inputs = vector.config, vector.inputs
    assert config["objective"] == "pred_x0"
    skeleton, frames = _skeleton(config, inputs["x2d"].shape[-2]), config["number_of_frames"]
    network = MixSTE(
        frames, skeleton.num_joints, config["cs"], config["dep"], config["num_heads"], config["mlp_ratio"], step="once"
    )
    variables = d3dp_denoiser_variables(vector.weights)
    np.testing.assert_array_equal(mirror(inputs["x2d"], skeleton), inputs["x2d_flip"])
    schedule = make_schedule("cosine", config["timestep"])
    plan = plans.ddim_plan(schedule, config["sampling_timesteps"], config["eta"])
    # [B, H, ...] and [K - 1, B, H, ...] become [H, B, ...] and [H, K, B, ...]; the last step draws nothing.
    start = jnp.moveaxis(inputs["init_noise"], 1, 0)
    steps = jnp.moveaxis(inputs["step_noise"], 2, 0)
    steps = jnp.concatenate([steps, jnp.zeros((len(steps), 1, *steps.shape[2:]))], axis=1)
    outputs = {"times": _times(plan), "alphas_cumprod": schedule.alpha_bar.astype(np.float64)}
    for run in config["runs"]:
        options = D3DPOptions(frames=frames, signal_scale=run["scale"])
        lifter = D3DP(network, skeleton, schedule, plan, options)
        trajectory = _replay(lifter, variables, inputs["x2d"], start, steps, run["flip"])
        outputs[f"x0_{run['name']}"] = np.asarray(trajectory.x0).transpose(2, 1, 0, 3, 4, 5)
    return outputs


def d3dp_aggregation(vector: Any) -> dict[str, np.ndarray]:
    """The errors on Human3.6M, and the poses on MPI-INF-3DHP in mm with a camera in pixels."""
    inputs = vector.inputs
    # [B, T, H, ...] becomes [T, H, B, ...]: aggregation knows nothing of diffusion iterations.
    poses, poses_3dhp = (jnp.moveaxis(inputs[name], 0, 2) for name in ("pred", "pred_3dhp"))
    seen_at = project(poses + inputs["traj"][None, None], lens(inputs["cam"]))
    distances = jnp.linalg.norm(seen_at - inputs["x2d"][None, None], axis=-1)
    outputs = {"reproj_2d": np.moveaxis(np.asarray(seen_at), 2, 0)}
    for prefix, aligned in (("", False), ("P_", True)):
        errors = [
            multi_hypothesis_errors(one, jnp.asarray(inputs["target"]), distance, aligned)
            for one, distance in zip(poses, distances, strict=True)
        ]
        for name, ours in ERRORS.items():
            outputs[prefix + name] = np.array([np.mean(error[ours]) for error in errors], np.float32)

    linear = vector.config["threedhp_sequence"] in ("TS1", "TS2", "TS3", "TS4")
    points = poses_3dhp + inputs["traj_3dhp"][None, None]
    pixels = (project_linear if linear else project)(points, lens(inputs["cam_3dhp"]))
    wanted = denormalise_screen(inputs["x2d_3dhp"], inputs["wh_3dhp"].astype(np.float32))
    distances = jnp.linalg.norm(pixels - wanted[None, None], axis=-1)
    target = jnp.asarray(inputs["target_3dhp"])
    chosen = {
        "P_Agg": jax.vmap(hypotheses.mean)(poses_3dhp),
        "P_Best": jnp.stack([hypotheses.oracle_best(one, target, "batch") for one in poses_3dhp]),
        "J_Best": jnp.stack([hypotheses.oracle_best(one, target, "joint") for one in poses_3dhp]),
        "J_Agg": jax.vmap(hypotheses.reprojection)(poses_3dhp, distances),
    }
    return outputs | {f"pose_{name}": np.moveaxis(np.asarray(pose), 0, 1) for name, pose in chosen.items()}


def diff3dhpe_sampler(vector: Any) -> dict[str, np.ndarray]:
    """Every state and clean prediction by equation 13 and as released, flips averaged after the chain, and the loss."""
    config, inputs = vector.config, vector.inputs
    skeleton, frames = _skeleton(config, config["num_joints"]), config["num_frame"]
    network = mixste_network(config, step="blocks" if config["with_time_emb"] else "none")
    variables = diff3dhpe_backbone_variables(vector.weights)
    schedule = make_schedule(config["beta_schedule"], config["timesteps"])
    plan = plans.ddim_plan(schedule, config["sampling_timesteps"], config["eta"])
    outputs = {"times": _times(plan), "alphas_cumprod": schedule.alpha_bar}
    clip = 1.0 if config["clip_denoised"] else np.inf
    keypoints = np.concatenate([inputs["pose_2d"], inputs["pose_2d_flip"]])
    start = np.concatenate([inputs["init_noise"], inputs["init_noise_flip"]])
    for variant in ("paper", "released"):
        options = Diff3DHPEOptions(frames=frames, eps_release=variant == "released")
        lifter = Diff3DHPE(network, skeleton, schedule, plan, options, clip)
        # Both chains of the flip average at once, each with its own noise: first the input, then its mirror image.
        trajectory = _replay(lifter, variables, keypoints, start[None])
        straight, flipped = jnp.split(trajectory.x[0, -1], 2)
        outputs |= {
            f"{variant}_x0": np.moveaxis(trajectory.x0[0], 0, 1)[: len(straight)],
            f"{variant}_y": np.moveaxis(trajectory.x[0], 0, 1)[: len(straight)],
            f"{variant}_pred": straight,
            f"{variant}_pred_flip_raw": flipped,
            f"{variant}_pred_tta": (straight + mirror(flipped, skeleton)) / 2,
        }
    return {name: np.asarray(value) for name, value in (outputs | _loss(network, variables, schedule, inputs)).items()}


def _loss(network: Any, variables: Any, schedule: Schedule, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    k, x0 = jnp.asarray(inputs["loss_t"], jnp.int32), jnp.asarray(inputs["loss_y0"])
    y_t = diffuse(schedule, x0, k, inputs["loss_noise"])
    output = network.apply(variables, network_input(jnp.asarray(inputs["loss_pose_2d"]), y_t), k, train=False)
    outputs = {"loss_y_t": y_t, "loss_model_out": output}
    for variant in ("paper", "released"):
        weight = at_step(snr_weight(schedule, release=variant == "released"), k, x0)
        outputs |= {f"loss_weight_{variant}": weight.ravel(), f"loss_{variant}": weighted_square(output, x0, weight)}
    return outputs


def _replay(
    lifter: D3DP | Diff3DHPE, variables: Any, keypoints: np.ndarray, start: Any, noise: Any = None, flip: bool = False
) -> samplers.Trajectory:
    """The lifter's reverse steps from recorded noise `[H, B, F, J, 3]`, with that of the steps `[H, S, B, F, J, 3]`."""

    @jax.jit
    def replay(state: jax.Array, noise: jax.Array | None) -> samplers.Trajectory:
        denoiser = lifter.denoiser(variables, jnp.asarray(keypoints), flip)
        return samplers.sample_trajectory(None, denoiser, state, lifter.plan, noise)[1]

    return jax.vmap(replay, in_axes=(0, None if noise is None else 0))(jnp.asarray(start), noise)


def _skeleton(config: dict[str, Any], joints: int) -> Skeleton:
    """The joints of a config that names left and right only; the tree does not matter here."""
    left, right = tuple(config["joints_left"]), tuple(config["joints_right"])
    return Skeleton("recorded", tuple(f"joint_{j}" for j in range(joints)), (-1,) + (0,) * (joints - 1), left, right)


def _times(plan: plans.Plan) -> np.ndarray:
    return np.append(plan.step, -1).astype(np.int64)


SYSTEMS = {
    "D3DP DDIM sampler": System(d3dp_sampler, absolute=1e-4),
    # The mean of coordinates in mm rounds at 3e-5.
    "D3DP multi-hypothesis aggregation": System(d3dp_aggregation, absolute=5e-5),
    "diff3dhpe_sampler": System(diff3dhpe_sampler, absolute=3e-4),
}
