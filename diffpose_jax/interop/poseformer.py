"""Weights of the released PoseFormer, from a torch state_dict to `PoseFormer`'s variables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from diffpose_jax.interop.layers import layer_norm, linear, split_collections
from diffpose_jax.interop.mixste import position_table, transformer_stage
from diffpose_jax.interop.state_dict import StateDict, Variables


def poseformer_variables(entries: Mapping[str, np.ndarray]) -> Variables:
    """The variables of the supervised `PoseFormer`; no weights of its use as a denoiser were released."""
    source = StateDict(entries)
    parts = {
        "embed": linear(source, "Spatial_patch_to_embedding"),
        "spatial_position": position_table(source, "Spatial_pos_embed"),
        "temporal_position": position_table(source, "Temporal_pos_embed"),
        **transformer_stage(source, "spatial", "Spatial_blocks"),
        **transformer_stage(source, "temporal", "blocks"),
        "spatial_norm": layer_norm(source, "Spatial_norm"),
        "temporal_norm": layer_norm(source, "Temporal_norm"),
        "frame_mix": linear(source, "weighted_mean", 1),
        "head_norm": layer_norm(source, "head.0"),
        "output": linear(source, "head.1"),
    }
    source.finish()
    return split_collections(parts)
