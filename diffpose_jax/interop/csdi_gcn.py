"""Weights of DiffHPE, from a torch state_dict to flax variables. Pure functions of `{key: numpy array}`."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from diffpose_jax.interop.layers import batch_norm, linear, split_collections, stack_linear
from diffpose_jax.interop.mixste import mixste_features_variables
from diffpose_jax.interop.state_dict import StateDict, Variables

_CONTEXT = "conditioning."  # prefix of the frozen MixSTE, and of the trained pose encoder


def diffhpe_2d_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of the lifter `diffhpe` without a context (DiffHPE-2D), from a whole model's entries."""
    source = StateDict(entries)
    parts = {"denoiser": _csdi_gcn(source, "diffmodel.")}
    source.finish()
    return split_collections(parts)


def diffhpe_wrapper_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of the lifter `diffhpe` around a frozen MixSTE (DiffHPE-Wrapper), from a whole model's entries.

    The release keeps the MixSTE ('conditioning.') without its last linear layer, which its features do not need; zeros
    take its place, so that 'frozen' has the form of a trained MixSTE.
    """
    named = {key.removeprefix("module."): value for key, value in entries.items()}
    context = {key.removeprefix(_CONTEXT): named.pop(key) for key in list(named) if _is_context(key)}
    source = StateDict(named)
    parts = {"denoiser": _csdi_gcn(source, "diffmodel."), "pose_encoder": linear(source, f"{_CONTEXT}data_enc")}
    source.finish()
    frozen = mixste_features_variables(context)
    width = len(frozen["params"]["head_norm"]["scale"])
    frozen["params"]["output"] = {"kernel": np.zeros((width, 3), np.float32), "bias": np.zeros(3, np.float32)}
    return {**split_collections(parts), "frozen": frozen}


def _is_context(key: str) -> bool:
    return key.startswith(_CONTEXT) and not key.startswith(f"{_CONTEXT}data_enc.")


def _csdi_gcn(source: StateDict, prefix: str) -> Variables:
    count = source.count(f"{prefix}residual_layers.{{}}.mid_projection.weight")
    blocks = [_block(source, f"{prefix}residual_layers.{layer}") for layer in range(count)]
    # Layers of equal shapes are scanned: their weights are stacked along a first axis.
    embedding = f"{prefix}diffusion_embedding.projection"
    return {
        "input": linear(source, f"{prefix}input_projection", 1),
        "step": {"expand": linear(source, f"{embedding}1"), "project": linear(source, f"{embedding}2")},
        "blocks": jax.tree.map(lambda *layers: np.stack(layers), *blocks),
        "mix": linear(source, f"{prefix}output_projection1", 1),
        "output": linear(source, f"{prefix}output_projection2", 1),
    }


def _block(source: StateDict, prefix: str) -> Variables:
    block = {
        "step": linear(source, f"{prefix}.diffusion_projection"),
        "feature": _graph_layer(source, f"{prefix}.feature_layer"),
        "gate": linear(source, f"{prefix}.mid_projection", 1),
        "output": linear(source, f"{prefix}.output_projection", 1),
    }
    if f"{prefix}.time_layer.gconv.W" in source:
        block["time"] = _graph_layer(source, f"{prefix}.time_layer")
    if f"{prefix}.non_local.non_local.theta.weight" in source:
        block["non_local"] = _non_local(source, f"{prefix}.non_local.non_local")
    return block


def _graph_layer(source: StateDict, prefix: str) -> Variables:
    weight = source.take(f"{prefix}.gconv.W", (2, None, None, None))
    conv = {"weight": weight, "bias": source.take(f"{prefix}.gconv.bias", weight.shape[-1:])}
    return {"conv": conv, "norm": batch_norm(source, f"{prefix}.bn")}


def _non_local(source: StateDict, prefix: str) -> Variables:
    return {
        "embed": stack_linear([linear(source, f"{prefix}.{name}", 1) for name in ("theta", "phi.0", "g.0")]),
        "score": source.take(f"{prefix}.concat_project.0.weight", (1, None, 1, 1)).reshape(-1, 1),
        "project": linear(source, f"{prefix}.W.0", 1),
        "norm": batch_norm(source, f"{prefix}.W.1"),
    }
