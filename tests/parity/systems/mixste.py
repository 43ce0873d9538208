"""MixSTE, the denoisers made from it, and PoseFormer, through the project's own modules."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.interop.mixste import d3dp_denoiser_variables, diff3dhpe_backbone_variables, mixste_variables
from diffpose_jax.interop.poseformer import poseformer_variables
from diffpose_jax.models.embeddings import embed_sinusoidally
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.poseformer import PoseFormer

from .base import System


def mixste(vector: Any) -> dict[str, np.ndarray]:
    """The supervised network."""
    network, variables = mixste_network(vector.config), mixste_variables(vector.weights)
    pred, taps = apply_and_tap(network, variables, vector.inputs["pose_2d"])
    return {"pred": pred} | _mixste_taps(taps)


def d3dp_denoiser(vector: Any) -> dict[str, np.ndarray]:
    """D3DP's denoiser for all hypotheses, and for the first one as in training."""
    inputs, network = vector.inputs, mixste_network(vector.config, step="once")
    variables, k = d3dp_denoiser_variables(vector.weights), jnp.asarray(inputs["t"], jnp.int32)
    x3d = np.moveaxis(inputs["x3d"], 1, 0)
    x = np.concatenate([np.broadcast_to(inputs["x2d"][None], (*x3d.shape[:-1], 2)), x3d], axis=-1)
    poses = jax.jit(jax.vmap(lambda x: network.apply(variables, x, k, train=False)))(x)
    pose_train, taps = apply_and_tap(network, variables, x[0], k)
    return {"pose": np.moveaxis(np.asarray(poses), 0, 1), "pose_train": pose_train} | _step_taps(network, k, taps)


def diff3dhpe_backbone(vector: Any) -> dict[str, np.ndarray]:
    """Diff3DHPE's denoiser, sequence to sequence, or to the middle frame where the noisy pose has one frame."""
    inputs, config = vector.inputs, vector.config
    step = "blocks" if config["with_time_emb"] else "none"
    middle_frame = vector.system.endswith("_s2f")
    network = mixste_network(config, step=step, middle_frame=middle_frame)
    k = jnp.asarray(inputs["t"], jnp.int32)
    y_t = np.broadcast_to(inputs["y_t"], (*inputs["pose_2d"].shape[:-1], 3))
    x = np.concatenate([inputs["pose_2d"], y_t], axis=-1)
    pred, taps = apply_and_tap(network, diff3dhpe_backbone_variables(vector.weights), x, k)
    return {"pred": pred} | _mixste_taps(taps) | _step_taps(network, k, taps)


def poseformer(vector: Any) -> dict[str, np.ndarray]:
    """PoseFormer, with what its two stages and the mean over frames give."""
    config, x = vector.config, vector.inputs["x"]
    assert config["qkv_bias"]
    assert config.get("qk_scale") is None
    sizes = (config[name] for name in ("num_frame", "num_joints", "embed_dim_ratio", "depth", "num_heads", "mlp_ratio"))
    network, variables = PoseFormer(*sizes), poseformer_variables(vector.weights)
    pose, taps = apply_and_tap(network, variables, x)
    # A wrong epsilon in the head moves the poses by no more than what rounds before it: the head is checked alone.
    with nn.intercept_methods(_replace_output("frame_mix", np.moveaxis(vector.outputs["pooled"], 1, -1))):
        of_recorded = network.apply(variables, x, train=False)
    np.testing.assert_allclose(of_recorded, vector.outputs["pose"], atol=3e-6, err_msg="head of the recorded features")
    return {
        "pose": pose,
        "spatial": taps["spatial_norm"][0].reshape(*x.shape[:2], -1),
        "temporal": taps["temporal_norm"][0][:, 0],
        "pooled": np.moveaxis(taps["frame_mix"][0], -1, 1),
    }


def _replace_output(name: str, output: np.ndarray) -> Any:
    """An interceptor that lets the layer of that name give `output` whatever it gets."""

    def replace(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        found = call(*args, **kwargs)
        if context.module.name != name or context.method_name != "__call__":
            return found
        assert found.shape == output.shape, f"{name}: {found.shape} for {output.shape}"
        return jnp.asarray(output)

    return replace


# The published values of what a config may also name: they must be the network's own defaults.
EPSILONS = {"epsilon": ("ln_eps", 1e-6), "head_epsilon": ("head_ln_eps", 1e-5)}


def mixste_network(config: dict[str, Any], **options: Any) -> MixSTE:
    """The network of a vector's config; `options` are those the config does not name."""
    assert config["qkv_bias"]
    assert config.get("qk_scale") is None
    for name, (key, published) in EPSILONS.items():
        if config.get(key, published) != published:
            options[name] = config[key]
    return MixSTE(
        config["num_frame"],
        config["num_joints"],
        config.get("embed_dim", config.get("embed_dim_ratio")),
        config["depth"],
        config["num_heads"],
        config["mlp_ratio"],
        pde=config.get("pde_attention", False),
        **options,
    )


def apply_and_tap(network: Any, variables: Any, *inputs: Any) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    """Apply a network in evaluation mode; return its output and those of its parts, by name, one for every call."""
    apply = functools.partial(network.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    y, captured = jax.jit(apply)(variables, *inputs)
    parts = {name: part["__call__"] for name, part in captured["intermediates"].items() if name != "__call__"}
    return np.asarray(y), {name: [np.asarray(value) for value in calls] for name, calls in parts.items()}


def _mixste_taps(taps: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {
        "ste0": taps["spatial_norm"][0],
        "tte0": taps["temporal_norm"][0].swapaxes(1, 2),
        "feat": taps["head_norm"][0],
    }


def _step_taps(network: MixSTE, k: jax.Array, taps: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    if network.step == "none":
        return {}
    return {"time_sinusoid": np.asarray(embed_sinusoidally(k, network.width)), "time_embed": taps["step"][0]}


SYSTEMS = {
    "mixste": System(mixste, absolute=5e-6),
    "PoseFormer": System(poseformer),
    "D3DP denoiser (MixSTE2 with time embedding)": System(d3dp_denoiser),
    "diff3dhpe_backbone": System(diff3dhpe_backbone, absolute=4e-5),
    "diff3dhpe_backbone_s2f": System(diff3dhpe_backbone, absolute=4e-5),
}
