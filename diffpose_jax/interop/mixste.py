"""Weights of the released MixSTE and of the denoisers that descend from it, from a torch state_dict to flax variables.

Pure functions of `{key: numpy array}`, keys relative to the network, to the variables of `models.mixste.MixSTE`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from diffpose_jax.interop.layers import layer_norm, linear, split_collections
from diffpose_jax.interop.state_dict import StateDict, Variables


def mixste_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of the supervised `MixSTE`."""
    source = StateDict(entries)
    return _finish(source, {**_trunk(source), **_head(source)})


def mixste_features_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of a `MixSTE` without its last linear layer, as in the frozen conditioner of DiffHPE-Wrapper.

    Its head is the normalisation alone, under the keys `head.weight` and `head.bias`.
    """
    source = StateDict(entries)
    return _finish(source, {**_trunk(source), "head_norm": layer_norm(source, "head")})


def d3dp_denoiser_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of D3DP's denoiser, `MixSTE(step='once')`; keys without 'pose_estimator.'."""
    source = StateDict(entries)
    return _finish(source, {**_trunk(source), **_step(source), **_head(source)})


def diff3dhpe_backbone_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of Diff3DHPE's denoiser; keys without 'model.'.

    That is `MixSTE(step='blocks')`, or `step='none'` where the state_dict has no step embedding, and with
    `middle_frame` where it has the `weighted_mean` of frames (sequence to frame).
    """
    source = StateDict(entries)
    parts = {**_trunk(source, "fusion_layer"), **_step(source), **_head(source)}
    if "weighted_mean.weight" in source:
        parts["frame_mix"] = linear(source, "weighted_mean", 1)
    return _finish(source, parts)


def transformer_block(source: StateDict, prefix: str) -> Variables:
    """A transformer block, with its own layer for the timestep embedding if it has one."""
    # The fused layer of the release has queries, keys and values side by side, head after head in each, as ours has.
    block = {
        "attention_norm": layer_norm(source, f"{prefix}.norm1"),
        "attention": {"qkv": linear(source, f"{prefix}.attn.qkv"), "project": linear(source, f"{prefix}.attn.proj")},
        "mlp_norm": layer_norm(source, f"{prefix}.norm2"),
        "expand": linear(source, f"{prefix}.mlp.fc1"),
        "contract": linear(source, f"{prefix}.mlp.fc2"),
    }
    if f"{prefix}.time_mlp.1.weight" in source:
        block["step"] = linear(source, f"{prefix}.time_mlp.1")
    return block


def transformer_stage(source: StateDict, stage: str, prefix: str) -> Variables:
    """All blocks `{prefix}.0`, `{prefix}.1`, ... of a stage, by their flax names `{stage}_0`, ..."""
    count = source.count(prefix + ".{}.norm1.weight")
    return {f"{stage}_{layer}": transformer_block(source, f"{prefix}.{layer}") for layer in range(count)}


def position_table(source: StateDict, key: str) -> np.ndarray:
    """A table of positional embeddings `[positions, C]`, which the release keeps with a leading axis of one."""
    return source.take(key, (1, None, None))[0]


def _trunk(source: StateDict, embedding: str = "Spatial_patch_to_embedding") -> Variables:
    return {
        "embed": linear(source, embedding),
        "spatial_position": position_table(source, "Spatial_pos_embed"),
        "temporal_position": position_table(source, "Temporal_pos_embed"),
        **transformer_stage(source, "spatial", "STEblocks"),
        **transformer_stage(source, "temporal", "TTEblocks"),
        "spatial_norm": layer_norm(source, "Spatial_norm"),
        "temporal_norm": layer_norm(source, "Temporal_norm"),
    }


def _step(source: StateDict) -> Variables:
    if "time_mlp.1.weight" not in source:
        return {}
    return {"step": {"expand": linear(source, "time_mlp.1"), "project": linear(source, "time_mlp.3")}}


def _head(source: StateDict) -> Variables:
    return {"head_norm": layer_norm(source, "head.0"), "output": linear(source, "head.1")}


def _finish(source: StateDict, parts: Variables) -> Variables:
    source.finish()
    return split_collections(parts)
