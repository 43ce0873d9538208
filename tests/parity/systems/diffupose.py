"""DiffuPose's denoiser, loss, sampler and evaluation, through the project's own modules."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.diffusion import hypotheses
from diffpose_jax.diffusion.plans import ddpm_plan
from diffpose_jax.diffusion.process import diffuse
from diffpose_jax.diffusion.samplers import Trajectory, sample_trajectory
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.evaluation import metrics
from diffpose_jax.evaluation.protocols import Frames, back_project, back_project_release, backprojection_release
from diffpose_jax.interop.modulated_gcn import diffupose_variables
from diffpose_jax.lifters.diffupose import DiffuPose, denoising_loss
from diffpose_jax.lifters.joint_weights import joint_weights
from diffpose_jax.models.embeddings import embed_sinusoidally
from diffpose_jax.models.graph import build_affinity
from diffpose_jax.models.modulated_gcn import StepModulatedGCN
from diffpose_jax.skeleton import get_skeleton, mirror

from .base import System
from .modulated_gcn import apply_and_tap, lens

# The release's linear schedule is the one of 1000 steps rescaled.
SCHEDULES = {"cosine": "cosine", "linear": "linear_rescaled"}


def denoiser(vector: Any) -> dict[str, np.ndarray]:
    """The network for several steps at once, layer by layer."""
    inputs, width = vector.inputs, vector.config["hid_dim"]
    network, variables = _network(vector)
    k = inputs["t"].astype(np.int32)
    y, taps = apply_and_tap(network, variables, inputs["x"], inputs["cond"], k)
    outputs = {"y": y, "sin_emb": np.asarray(embed_sinusoidally(jnp.asarray(k), width // 8))}
    names = {
        "time_emb": "step",
        "after_input": "trunk/input",
        "after_layers": "trunk",
        "after_block1": "modulation_1",
        "after_nonlocal": "non_local",
        "after_block2": "modulation_2",
    }
    return outputs | {name: taps[path] for name, path in names.items()}


def loss(vector: Any) -> dict[str, np.ndarray]:
    """The training loss for recorded steps and noise, the network in evaluation mode."""
    config, inputs = vector.config, vector.inputs
    assert config["loss"] == "l1", f"the lifter's loss is l1, the vector's is {config['loss']}"
    network, variables = _network(vector)
    k = jnp.asarray(inputs["t"], jnp.int32)
    x_k = diffuse(_schedule(config["beta_schedule"], config["timesteps"]), inputs["x0"], k, inputs["noise"])
    output, _ = apply_and_tap(network, variables, x_k, inputs["cond"], k)
    weights = joint_weights("limb_ends", get_skeleton(config["layout"]))
    weighted, displayed = denoising_loss(output, inputs["noise"], inputs["cond"], weights, config["lambda_2d"])
    return {
        "x_t": np.asarray(x_k),
        "model_out": np.asarray(output),
        "joint_weights": weights,
        "weighted_loss": np.asarray(weighted),
        "reported_loss": np.asarray(displayed),
    }


def sampler(vector: Any) -> dict[str, np.ndarray]:
    """Ancestral sampling with recorded noise, each hypothesis for the keypoints and for their mirror image."""
    config, inputs, skeleton = vector.config, vector.inputs, vector.skeleton
    assert config["objective"] == "pred_noise"
    assert config["clip_denoised"]
    network, variables = _network(vector)
    schedule = _schedule(config["beta_schedule"], config["timesteps"])
    lifter = DiffuPose(network, skeleton, schedule, ddpm_plan(schedule))
    mirrored = mirror(jnp.asarray(inputs["cond"]), skeleton)

    @jax.jit
    def run(keypoints: jax.Array, x_init: jax.Array, noise: jax.Array) -> Trajectory:
        return sample_trajectory(None, lifter.denoiser(variables, keypoints), x_init, lifter.plan, noise)[1]

    runs, traces = [], []
    for number, (x_init, noise) in enumerate(zip(inputs["init"], inputs["noise"], strict=True)):
        states = run(mirrored if number % 2 else inputs["cond"], x_init, noise).x
        runs.append(mirror(states[-1], skeleton) if number % 2 else states[-1])
        traces.append(states)
    poses = jnp.stack(runs)
    outputs = {"trace0": traces[0], "hyps": jnp.moveaxis(poses, 0, 1), "mean": hypotheses.mean(poses)}
    outputs |= {f"cosT_{name}": value for name, value in _buffers(schedule).items()}
    for name, steps in set(re.findall(r"\b(cosine|linear)(\d+)_", " ".join(vector.outputs))):
        named = _buffers(_schedule(name, int(steps)))
        outputs |= {f"{name}{steps}_{buffer}": value for buffer, value in named.items()}
    return {name: np.asarray(value) for name, value in outputs.items()}


def evaluation(vector: Any) -> dict[str, np.ndarray]:
    """The released evaluation: plain errors, and those after x and y were overwritten with ground-truth help."""
    inputs = vector.inputs
    shape = inputs["pred"].shape
    poses, keypoints, absolute = (
        jnp.asarray(inputs[name]).reshape(-1, *inputs[name].shape[2:])
        for name in ("pred", "uv", "gt_with_root_position")
    )
    root, target = absolute[:, 0], absolute.at[:, 0].set(0)
    per_frame = np.broadcast_to(inputs["cam"][:, None], (*shape[:2], inputs["cam"].shape[-1]))
    camera = lens(per_frame.reshape(len(poses), -1))
    frames = Frames(target, jnp.zeros(len(poses), bool), keypoints, root, camera)
    official = backprojection_release(poses, frames)
    outputs = {
        "mpjpe_plain": metrics.mpjpe(poses, target).mean(),
        "p_mpjpe_plain": metrics.p_mpjpe(poses, target).mean(),
        "backprojected": back_project(poses, keypoints, root, camera).reshape(shape),
        "pred_after_inplace": back_project_release(poses, keypoints, root, camera).reshape(shape),
    }
    outputs |= {f"{name}_official": official[name].mean() for name in ("mpjpe", "p_mpjpe")}
    outputs["n_mpjpe_official_quirk"] = official["n_mpjpe_release"].mean()
    return {name: np.asarray(value) for name, value in outputs.items()}


def _network(vector: Any) -> tuple[StepModulatedGCN, Any]:
    config, skeleton = vector.config, vector.skeleton
    np.testing.assert_array_equal(build_affinity(skeleton.adjacency()), vector.inputs["adj"])
    return StepModulatedGCN(skeleton, config["hid_dim"], config["num_layers"]), diffupose_variables(vector.weights)


def _schedule(name: str, steps: int) -> Schedule:
    return make_schedule(SCHEDULES[name], steps)


def _buffers(schedule: Schedule) -> dict[str, np.ndarray]:
    alpha_bar, rest = schedule.alpha_bar, schedule.one_minus_alpha_bar
    # The coefficients of ancestral sampling are those of the posterior.
    on_x, on_x0, _, std = ddpm_plan(schedule).table[::-1].T
    return {
        "betas": schedule.beta,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": schedule.alpha_bar_prev,
        "sqrt_alphas_cumprod": np.sqrt(alpha_bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(rest),
        "log_one_minus_alphas_cumprod": np.log(rest),
        "sqrt_recip_alphas_cumprod": 1 / np.sqrt(alpha_bar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(rest / alpha_bar),
        "posterior_variance": std**2,
        "posterior_log_variance_clipped": np.log(np.maximum(std**2, 1e-20)),
        "posterior_mean_coef1": on_x0,
        "posterior_mean_coef2": on_x,
        "p2_loss_weight": np.ones_like(rest),
    }


SYSTEMS = {
    "diffupose_denoiser": System(denoiser),
    "diffupose_loss": System(loss),
    "diffupose_sampler": System(sampler, absolute=1e-4),
    "diffupose_eval": System(evaluation),
}
