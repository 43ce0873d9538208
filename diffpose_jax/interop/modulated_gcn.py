"""Weights of the released modulated GCN and of DiffuPose, from a torch state_dict to this project's variables.

Pure functions of `{key: numpy array}`. The skeleton's fixed affinity is not among the entries; the network computes it
from its skeleton and adds the learned one (`adj2`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from diffpose_jax.interop.layers import batch_norm, linear, split_collections, stack_linear
from diffpose_jax.interop.state_dict import StateDict, Variables


def modulated_gcn_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of `ModulatedGCN` for either released variant, with or without its non-local blocks."""
    source = StateDict(entries)
    trunk = _trunk(source)
    parts = {"trunk": trunk, "output": _graph_conv(source, "gconv_output")}
    if "non_local.theta.weight" in source:
        parts["non_local"] = _embedded_gaussian(source, "non_local")
    source.finish()
    return split_collections(parts)


def diffupose_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of `StepModulatedGCN`, DiffuPose's denoiser; keys without 'denoise_fn.'."""
    source = StateDict(entries)
    parts = {
        "trunk": _trunk(source),
        "step": {"expand": linear(source, "time_mlp.1"), "project": linear(source, "time_mlp.3")},
        "modulation_1": {"project": linear(source, "block1.mlp.1")},
        "non_local": _embedded_gaussian(source, "non_local"),
        "modulation_2": {"project": linear(source, "block2.mlp.1")},
        "output": _graph_conv(source, "gconv_output"),
    }
    if "block3.mlp.1.weight" in source:
        parts["modulation_unused"] = {"project": linear(source, "block3.mlp.1")}
    source.finish()
    return split_collections(parts)


def _trunk(source: StateDict) -> Variables:
    trunk = {"input": _graph_unit(source, "gconv_input.0")}
    pooled = "gconv_input.1.non_local.theta.weight" in source
    if pooled:
        trunk["input_non_local"] = _pooled(source, "gconv_input.1.non_local")
    stride = 2 if pooled else 1  # the release alternates residual and pooled blocks in one list
    layer = 0
    while f"gconv_layers.{stride * layer}.gconv1.gconv.W" in source:
        prefix = f"gconv_layers.{stride * layer}"
        trunk[f"block_{layer}"] = {f"unit_{u}": _graph_unit(source, f"{prefix}.gconv{u}") for u in (1, 2)}
        if pooled:
            block = f"gconv_layers.{stride * layer + 1}.non_local"
            trunk[f"block_{layer}_non_local"] = _pooled(source, block)
        layer += 1
    return trunk


def _graph_unit(source: StateDict, prefix: str) -> Variables:
    return {"conv": _graph_conv(source, f"{prefix}.gconv"), "norm": batch_norm(source, f"{prefix}.bn")}


def _graph_conv(source: StateDict, prefix: str) -> Variables:
    weight = source.take(f"{prefix}.W", (2, None, None))
    modulation = source.take(f"{prefix}.M", (None, weight.shape[-1]))
    joints = len(modulation)
    return {
        "weight": weight,
        "modulation": modulation,
        "affinity": source.take(f"{prefix}.adj2", (joints, joints)),
        "bias": source.take(f"{prefix}.bias", (weight.shape[-1],)),
    }


def _embedded_gaussian(source: StateDict, prefix: str) -> Variables:
    return {
        "embed": stack_linear([linear(source, f"{prefix}.{name}", 2) for name in ("theta", "phi", "g")]),
        "project": linear(source, f"{prefix}.W.0", 2),
        "norm": batch_norm(source, f"{prefix}.W.1"),
    }


def _pooled(source: StateDict, prefix: str) -> Variables:
    return {
        "embed": stack_linear([linear(source, f"{prefix}.{name}", 1) for name in ("theta", "phi.0", "g.0")]),
        "score": source.take(f"{prefix}.concat_project.0.weight", (1, None, 1, 1)).reshape(-1, 1),
        "project": linear(source, f"{prefix}.W.0", 1),
        "norm": batch_norm(source, f"{prefix}.W.1"),
    }
