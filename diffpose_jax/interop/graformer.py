"""Weights of both networks of the DiffPose releases, from a torch state_dict to the variables of `GraFormer`.

Pure functions of `{key: numpy array}`. The skeleton's Chebyshev polynomials are not among the entries; the network
computes them from its skeleton.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from diffpose_jax.interop.layers import linear, split_collections, stack_linear
from diffpose_jax.interop.state_dict import StateDict, Variables


def graformer_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of `GraFormer`: the denoiser's if the entries have step projections, else the lifter's.

    The lifter's timestep embedding, which nothing uses, is kept where the release has it; a network without
    `release_dead_embedding` ignores it.
    """
    source = StateDict(entries)
    has_step = "gconv_layers.0.temb_proj.weight" in source
    parts = {"input": _chebyshev(source, "gconv_input"), "output": _chebyshev(source, "gconv_output")}
    if has_step or "temb.dense.0.weight" in source:
        embedding = {"expand": linear(source, "temb.dense.0"), "project": linear(source, "temb.dense.1")}
        parts["step" if has_step else "step_unused"] = embedding
    for layer in range(source.count("gconv_layers.{}.gconv1.gconv.weight")):
        parts[f"attention_{layer}"] = _attention_layer(source, f"atten_layers.{layer}")
        block = {f"conv_{c}": _chebyshev(source, f"gconv_layers.{layer}.gconv{c}.gconv") for c in (1, 2)}
        if has_step:
            block["step"] = linear(source, f"gconv_layers.{layer}.temb_proj")
        parts[f"block_{layer}"] = block
    source.finish()
    return split_collections(parts)


def _attention_layer(source: StateDict, prefix: str) -> Variables:
    query, key, value, output = (linear(source, f"{prefix}.self_attn.linears.{index}") for index in range(4))
    graph_net = {
        "graph": source.take(f"{prefix}.feed_forward.A_hat", (None, None)),
        "expand": linear(source, f"{prefix}.feed_forward.gconv1.fc"),
        "project": linear(source, f"{prefix}.feed_forward.gconv2.fc"),
    }
    norms = {f"norm_{index + 1}": _norm(source, f"{prefix}.sublayer.{index}.norm") for index in range(2)}
    return {"attention": {"qkv": stack_linear([query, key, value]), "project": output}, "graph_net": graph_net, **norms}


def _norm(source: StateDict, prefix: str) -> Variables:
    scale = source.take(f"{prefix}.a_2", (None,))
    return {"scale": scale, "bias": source.take(f"{prefix}.b_2", scale.shape)}


def _chebyshev(source: StateDict, prefix: str) -> Variables:
    # One kernel for each of the three Chebyshev polynomials T_0, T_1, T_2; the release keeps axes of size one.
    weight = source.take(f"{prefix}.weight", (3, 1, None, None))[:, 0]
    return {"weight": weight, "bias": source.take(f"{prefix}.bias", (1, 1, weight.shape[-1])).reshape(-1)}
