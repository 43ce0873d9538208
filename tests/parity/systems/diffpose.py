"""DiffPose's networks, sampler and pipelines, frame and video, through the project's own modules."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Batch, device_clips, end_aligned_windows, gather
from diffpose_jax.diffusion.plans import Plan, ddim_plan
from diffpose_jax.diffusion.process import diffuse
from diffpose_jax.diffusion.samplers import Trajectory, sample_trajectory
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.evaluation import metrics
from diffpose_jax.geometry import normalise_screen
from diffpose_jax.interop.graformer import graformer_variables
from diffpose_jax.interop.mixste import mixste_variables
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.batches import subtract_root, zero_root
from diffpose_jax.lifters.diffpose.release import DiffPoseRelease, DiffPoseReleaseOptions, denoising_loss
from diffpose_jax.lifters.supervised import MixSTELifter, MixSTEOptions
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.models.embeddings import embed_sinusoidally
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.models.graph import build_chebyshev_basis, normalise_rows
from diffpose_jax.skeleton import H36M_17, Skeleton

from .base import System
from .mixste import mixste_network
from .modulated_gcn import apply_and_tap


def gcndiff(vector: Any) -> dict[str, np.ndarray]:
    """The denoiser with every joint visible and with some hidden as keys, layer by layer."""
    inputs = vector.inputs
    network, variables = _network(vector.config, vector.weights), graformer_variables(vector.weights)
    k = jnp.asarray(inputs["t"], jnp.int32)
    eps, taps = _apply(network, variables, inputs["x"], k, mask=inputs["mask"])
    outputs = {
        "eps": eps,
        "eps_mask2": _apply(network, variables, inputs["x"], k, mask=inputs["mask2"])[0],
        "temb_sinusoid": embed_sinusoidally(k, vector.config["hid_dim"]),
        "temb_mlp": taps["step"],
        "laplacian": np.eye(17, dtype=np.float32) - inputs["adj"],
        "cheb_stack": build_chebyshev_basis(H36M_17.adjacency()),
    }
    np.testing.assert_allclose(normalise_rows(H36M_17.adjacency()), inputs["adj"], atol=1e-7)
    return {name: np.asarray(value) for name, value in (outputs | _layers(taps)).items()}


def gcnpose(vector: Any) -> dict[str, np.ndarray]:
    """The lifter that gives the denoiser its start, likewise; its unused step embedding is among the weights."""
    inputs = vector.inputs
    network, variables = _network(vector.config, vector.weights), graformer_variables(vector.weights)
    xyz, taps = _apply(network, variables, inputs["uv"], mask=inputs["mask"])
    hidden, _ = _apply(network, variables, inputs["uv"], mask=inputs["mask2"])
    return {"xyz": xyz, "xyz_mask2": hidden, "xyz_root_relative": xyz - xyz[:, :1], **_layers(taps)}


def sampler(vector: Any) -> dict[str, np.ndarray]:
    """Reverse steps over several lists of timesteps, with replayed noise where there is any; and the training loss."""
    config, inputs = vector.config, vector.inputs
    schedule = _schedule(config)
    network, variables = _network(config, vector.weights), graformer_variables(vector.weights)
    lifter = _lifter(network, schedule)
    np.testing.assert_allclose(schedule.beta, inputs["betas"], rtol=1e-6)
    outputs = {"alpha_bar_from_minus1": np.append(1, schedule.alpha_bar)}

    def replay(case: str, x: np.ndarray, noise: np.ndarray | None) -> Trajectory:
        plan = ddim_plan(schedule, inputs[f"{case}_seq"][::-1], float(inputs[f"{case}_eta"]))
        return _replay(lifter, variables, plan, x, noise)

    for case in (case["name"] for case in config["cases"]):
        trajectory = replay(case, inputs["x"], inputs.get(f"{case}_z"))
        outputs |= {f"{case}_xs": np.stack([inputs["x"], *trajectory.x]), f"{case}_x0": trajectory.x0}
    hypotheses = int(inputs["hyp_H"])
    final = replay("hyp", np.tile(inputs["x"], (hypotheses, 1, 1)), inputs["hyp_z"]).x[-1]
    mean = final.reshape(hypotheses, *inputs["x"].shape).mean(0)
    outputs |= {"hyp_final_uvxyz": final, "hyp_mean_uvxyz": mean}
    outputs["hyp_xyz_root_relative"] = subtract_root(jnp.asarray(mean[..., 2:]), H36M_17)

    noise = inputs["train_e"] * inputs["train_noise_scale"]
    xt, eps = _predict_noise(lifter, variables, inputs["train_x0"], inputs["train_t"], noise)
    outputs |= {"train_xt": xt, "train_pred": eps, "train_loss": _loss(eps, noise)}
    return {name: np.asarray(value, np.float32) for name, value in outputs.items()}


def video_denoiser(vector: Any) -> dict[str, np.ndarray]:
    """The denoiser at full size, and the gradients of its training loss with dropout off."""
    config, inputs = vector.config, vector.inputs
    schedule = _schedule(config)
    network, variables = _network(config, vector.weights), graformer_variables(vector.weights)
    lifter, noise = _lifter(network, schedule), inputs["eps_raw"] * inputs["noise_scale"]

    @jax.value_and_grad
    def loss(params: Any) -> jax.Array:
        _, eps = _predict_noise(lifter, {"params": params}, inputs["x0"], inputs["t"], noise)
        return _loss(eps, noise)

    value, gradient = jax.jit(loss)(variables["params"])
    k = jnp.asarray(inputs["t"], jnp.int32)
    xt, eps = _predict_noise(lifter, variables, inputs["x0"], k, noise)
    _, taps = _apply(network, variables, np.asarray(xt), k, mask=np.ones((1, 1, 17), bool))
    basis = build_chebyshev_basis(H36M_17.adjacency())
    outputs = {
        "xt": xt,
        "eps_pred": eps,
        "loss": value,
        "adj": normalise_rows(H36M_17.adjacency()),
        "laplacian": basis[1],
        "betas": schedule.beta,
        "alphas_bar": schedule.alpha_bar,
        "sinusoid": embed_sinusoidally(k, config["hid_dim"]),
        "temb": taps["step"],
        "h_in_0": taps["input"][0],
        "h_att0_0": taps["attention_0"][0],
        "h_gc0_0": taps["block_0"][0],
        "grad_global_norm": jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient))),
        "grad_A_hat_0": gradient["attention_0"]["graph_net"]["graph"],
        "grad_gconv_output_weight": gradient["output"]["weight"][:, None],
        "grad_temb_dense_0_bias": gradient["step"]["expand"]["bias"],
    }
    outputs = {name: np.asarray(value) for name, value in outputs.items()}
    # The system's tolerance is that of the gradients, relative; what precedes them must be nearer.
    for name in (name for name in vector.outputs if not name.startswith("grad_")):
        np.testing.assert_allclose(outputs[name], vector.outputs[name], atol=1e-5, rtol=1e-6, err_msg=name)
    return outputs


def video_pipeline(vector: Any) -> dict[str, np.ndarray]:
    """Videos from pixels to errors: end-aligned windows, MixSTE with flip averaging, the release's start and steps."""
    config, inputs = vector.config, vector.inputs
    skeleton = replace(H36M_17, left=tuple(inputs["kps_left"].tolist()), right=tuple(inputs["kps_right"].tolist()))
    schedule, network = _schedule(config["diffusion"]), _network(config["denoiser"], _part(vector, "model_diff."))
    lifter = _lifter(network, schedule, config["mixste"], skeleton)
    frozen = mixste_variables(_part(vector, "model_pose."))
    variables = {**graformer_variables(_part(vector, "model_diff.")), "frozen": frozen}
    videos = [_windows(inputs, number, config["receptive_field"], skeleton) for number in range(len(inputs["res_wh"]))]
    batch = jax.tree.map(lambda *parts: jnp.concatenate(parts), *videos)
    bounds = np.cumsum([len(video.index) for video in videos])[:-1]
    lift = jax.jit(with_flips(lifter.context).sample)
    estimate, plain = (lift(frozen, jax.random.key(0), batch, Sampling(flip=flip))[0] for flip in ("average", "none"))
    outputs: dict[str, Any] = {}

    def record(name: str, windows: Any) -> list[np.ndarray]:
        parts = np.split(np.asarray(windows), bounds)
        outputs.update({f"{name}_{number}": part for number, part in enumerate(parts)})
        return parts

    def record_frames(name: str, poses: Any) -> None:
        for number, part in enumerate(record(name, poses.reshape((*estimate.shape[:-1], 5)))):
            outputs[f"{name}_{number}"] = part.reshape(-1, *part.shape[2:])

    for name, windows in {"chunks2d": batch.keypoints, "context": estimate, "context_noflip": plain}.items():
        record(name, windows)
    start = np.concatenate([batch.keypoints, estimate], axis=-1)
    for name in ("cpn", "gt"):
        options = config[name]
        plan = ddim_plan(
            schedule, options["test_timesteps"], options["eta"], "even", options["test_num_diffusion_timesteps"]
        )
        np.testing.assert_array_equal(plan.step[::-1], options["seq"])
        sampling = Sampling(options["test_times"], flip="average", plan=plan)
        poses = jax.jit(with_flips(lifter).sample)(variables, jax.random.key(0), batch, sampling)
        centred = record(f"{name}_xyz_centred", poses.mean(0))
        frames = start.reshape(-1, *start.shape[2:])
        states = _replay(lifter, variables, plan, frames).x
        record_frames(f"{name}_eps_first", _eps(lifter, variables, frames, plan.step[0]))
        record_frames(f"{name}_uvxyz_mid", states[0])
        record_frames(f"{name}_uvxyz_final", states[-1])
        unshifted = zero_root(jnp.asarray(states[-1][..., 2:].reshape(estimate.shape)), skeleton)
        outputs[f"{name}_metrics_centred"] = _errors(centred, videos)
        outputs[f"{name}_metrics_executed"] = _errors(np.split(unshifted, bounds), videos)
    starts = np.split(start, bounds)[config["extra"]["source_sequence"]]
    outputs |= _noised(vector, lifter, variables, starts.reshape(-1, *start.shape[2:]))
    return {name: np.asarray(value) for name, value in outputs.items()}


def _noised(vector: Any, lifter: DiffPoseRelease, variables: Any, start: np.ndarray) -> dict[str, Any]:
    """Hypotheses from a start with recorded noise added, which the release leaves out."""
    options, inputs = vector.config["extra"], vector.inputs
    span, hypotheses = options["test_num_diffusion_timesteps"], options["test_times"]
    spacing = {"uniform": "even", "quad": "quadratic"}[options["skip_type"]]
    plan = ddim_plan(lifter.schedule, options["test_timesteps"], options["eta"], spacing, span)
    np.testing.assert_array_equal(plan.step[::-1], options["seq"])
    x = jnp.asarray(np.tile(start, (hypotheses, 1, 1)))
    if options["start_noised"]:
        noise = jnp.asarray(inputs["extra_noise_init"] * inputs["extra_noise_scale"])
        x = diffuse(lifter.schedule, x, jnp.int32(span), noise)
    final = _replay(lifter, variables, plan, x, inputs["extra_noise_steps"]).x[-1]
    mean = final.reshape(hypotheses, *start.shape).mean(0)
    centred = subtract_root(jnp.asarray(mean[..., 2:]), H36M_17)
    return {"extra_uvxyz_final": mean, "extra_xyz_centred": centred}


def _lifter(
    network: GraFormer, schedule: Schedule, mixste: dict[str, Any] | None = None, skeleton: Skeleton = H36M_17
) -> DiffPoseRelease:
    """The video release around a MixSTE whose poses are left where the network puts them."""
    frames = mixste["num_frame"] if mixste else 1
    estimator = mixste_network(mixste) if mixste else None
    context = MixSTELifter(estimator, skeleton, MixSTEOptions(frames=frames, root_relative=False))
    options, plan = DiffPoseReleaseOptions(centre_estimate=False), ddim_plan(schedule, 1)
    return DiffPoseRelease(network, skeleton, schedule, plan, context, options)


def _windows(inputs: dict[str, np.ndarray], number: int, frames: int, skeleton: Skeleton) -> Batch:
    """All windows of one video."""
    keypoints = normalise_screen(inputs[f"kp2d_px_{number}"], inputs["res_wh"][number].astype(np.float32))
    poses = inputs[f"pose3d_cam_{number}"]
    clip = Clip(keypoints, poses - poses[:, :1], None, "video", "recorded")
    clips = ClipSet.build([clip], skeleton)
    windows = end_aligned_windows(clips, frames)
    return gather(device_clips(clips), windows, jnp.arange(len(windows.start), dtype=jnp.int32), frames)


def _errors(poses: list[jax.Array], videos: list[Batch]) -> np.ndarray:
    """MPJPE, P-MPJPE, N-MPJPE, velocity error in mm, videos weighted by their windows' frames."""
    functions = (metrics.mpjpe, metrics.p_mpjpe, metrics.n_mpjpe, metrics.velocity_error)
    rows, weights = [], []
    for video, predicted in zip(videos, poses, strict=True):
        predicted, target = (part.reshape(-1, *part.shape[2:]) for part in (predicted, video.poses))
        rows.append(jax.jit(lambda *pair: [function(*pair).mean() for function in functions])(predicted, target))
        weights.append(len(predicted))
    return 1000 * np.average(rows, axis=0, weights=weights)


def _part(vector: Any, prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in vector.weights.items() if key.startswith(prefix)}


def _schedule(config: dict[str, Any]) -> Schedule:
    """The schedule with the releases' rounding of 1 - beta and 1 - alpha_bar, worth 1e-5 in a state near step 0."""
    ends = {"start": config["beta_start"], "end": config["beta_end"]}
    schedule = make_schedule(config["beta_schedule"], config["num_diffusion_timesteps"], **ends)
    alpha_bar = np.cumprod(1 - schedule.beta, dtype=np.float64).astype(np.float32)
    np.testing.assert_allclose(alpha_bar, schedule.alpha_bar, atol=1e-6)
    return schedule._replace(alpha_bar=alpha_bar, one_minus_alpha_bar=1 - alpha_bar)


def _replay(lifter: DiffPoseRelease, variables: Any, plan: Plan, x: Any, noise: np.ndarray | None = None) -> Trajectory:
    """The reverse steps of a plan from poses `[N, J, 5]`: all states and clean predictions `[S, N, J, 5]`."""
    noise = None if noise is None else jnp.asarray(noise)[:, :, None]
    run = jax.jit(lambda x: sample_trajectory(None, lifter.denoiser(variables), x[:, None], plan, noise)[1])
    return Trajectory(*(np.asarray(part[:, :, 0]) for part in run(jnp.asarray(x))))


def _eps(lifter: DiffPoseRelease, variables: Any, x: np.ndarray, k: Any) -> jax.Array:
    return jax.jit(lifter.denoiser(variables))(jnp.asarray(x)[:, None], jnp.asarray(k, jnp.int32))[1][:, 0]


def _predict_noise(
    lifter: DiffPoseRelease, variables: Any, x0: np.ndarray, t: np.ndarray, noise: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """Diffuse poses `[N, J, 5]` to their timesteps and predict the noise."""
    k = jnp.asarray(t, jnp.int32)
    xt = diffuse(lifter.schedule, jnp.asarray(x0), k, jnp.asarray(noise))
    return xt, _eps(lifter, variables, xt, k)


def _loss(eps: jax.Array, noise: np.ndarray) -> jax.Array:
    return denoising_loss(eps[:, None], jnp.asarray(noise)[:, None])


def _network(config: dict[str, Any], weights: dict[str, np.ndarray]) -> GraFormer:
    return GraFormer(
        H36M_17,
        config["hid_dim"],
        config["num_layer"],
        config["n_head"],
        out_channels=config["coords_dim"][1],
        step="gconv_layers.0.temb_proj.weight" in weights,
    )


def _apply(network: GraFormer, variables: Any, x: np.ndarray, *k: Any, mask: np.ndarray) -> Any:
    """Poses `[N, J, C]` through the network as N examples of one frame; mask `[1, 1, J]`."""
    masked = SimpleNamespace(apply=functools.partial(network.apply, mask=jnp.asarray(mask)))
    y, taps = apply_and_tap(masked, variables, x[:, None], *k)
    return y[:, 0], taps


def _layers(taps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    first = taps["input"] + taps["attention_0/attention"].swapaxes(0, 1)
    return {
        "after_gconv_input": taps["input"],
        "layer0_self_attn_raw": taps["attention_0/attention"].swapaxes(0, 1),
        "layer0_after_attn_sublayer": first,
        "layer0_after_graphnet_sublayer": taps["attention_0"],
        "layer0_after_residual_gcn": taps["block_0"],
        "before_gconv_output": taps[max(name for name in taps if name.startswith("block_") and "/" not in name)],
    }


SYSTEMS = {
    "diffpose_gcndiff": System(gcndiff, absolute=5e-6),
    "diffpose_gcnpose": System(gcnpose, absolute=5e-6),
    "diffpose_sampler": System(sampler, absolute=1e-5),
    "diffpose_video_denoiser": System(video_denoiser, absolute=1e-5, relative=1e-4),
    "diffpose_video_pipeline": System(video_pipeline, absolute=1e-5),
}
