"""DiffPose's networks, sampler and pipelines, frame and video, through the project's own modules."""

from __future__ import annotations

import functools

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffpose_jax.interop.graformer import graformer_variables
from diffpose_jax.models.embeddings import sinusoidal_embedding
from diffpose_jax.models.graformer import GraFormer
from diffpose_jax.models.graph import chebyshev_basis, row_stochastic
from diffpose_jax.skeleton import H36M_17

from .base import System
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
        "temb_sinusoid": sinusoidal_embedding(k, vector.config["hid_dim"]),
        "temb_mlp": taps["step"],
        "laplacian": np.eye(17, dtype=np.float32) - inputs["adj"],
        "cheb_stack": chebyshev_basis(H36M_17.adjacency()),
    }
    np.testing.assert_allclose(row_stochastic(H36M_17.adjacency()), inputs["adj"], atol=1e-7)
    return {name: np.asarray(value) for name, value in (outputs | _layers(taps)).items()}


def gcnpose(vector: Any) -> dict[str, np.ndarray]:
    """The lifter that gives the denoiser its start, likewise; its unused step embedding is among the weights."""
    inputs = vector.inputs
    network, variables = _network(vector.config, vector.weights), graformer_variables(vector.weights)
    xyz, taps = _apply(network, variables, inputs["uv"], mask=inputs["mask"])
    hidden, _ = _apply(network, variables, inputs["uv"], mask=inputs["mask2"])
    return {"xyz": xyz, "xyz_mask2": hidden, "xyz_root_relative": xyz - xyz[:, :1], **_layers(taps)}


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
}
