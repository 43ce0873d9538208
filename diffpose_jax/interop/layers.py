"""The layers that released networks share, from entries of a torch state_dict to flax variables."""

from __future__ import annotations

import numpy as np

from diffpose_jax.interop.state_dict import StateDict, Variables


def batch_norm(source: StateDict, prefix: str) -> Variables:
    """A batch normalisation with its running statistics."""
    scale = source.take(f"{prefix}.weight", (None,))
    return {
        "scale": scale,
        "bias": source.take(f"{prefix}.bias", scale.shape),
        "running": {
            "mean": source.take(f"{prefix}.running_mean", scale.shape),
            "var": source.take(f"{prefix}.running_var", scale.shape),
        },
    }


def linear(source: StateDict, prefix: str, kernel_axes: int = 0) -> Variables:
    """A linear layer, or a 1x1 convolution whose kernel has `kernel_axes` axes of size one."""
    weight = source.take(f"{prefix}.weight", (None, None) + (1,) * kernel_axes)
    weight = weight.reshape(weight.shape[:2])
    return {"kernel": weight.T, "bias": source.take(f"{prefix}.bias", (len(weight),))}


def layer_norm(source: StateDict, prefix: str) -> Variables:
    """A layer normalisation: scale and bias `[C]`."""
    scale = source.take(f"{prefix}.weight", (None,))
    return {"scale": scale, "bias": source.take(f"{prefix}.bias", scale.shape)}


def stacked(layers: list[Variables]) -> Variables:
    """Linear layers of one input as one, their outputs side by side."""
    return {name: np.concatenate([layer[name] for layer in layers], axis=-1) for name in ("kernel", "bias")}


def collect(parts: Variables) -> Variables:
    """Split a tree of layers into flax collections: what stands under 'running' is batch statistics."""
    params, batch_stats = _split(parts)
    return {"params": params, "batch_stats": batch_stats} if batch_stats else {"params": params}


def _split(tree: Variables) -> tuple[Variables, Variables]:
    params: Variables = {}
    batch_stats: Variables = {}
    for name, branch in tree.items():
        if not isinstance(branch, dict):
            params[name] = branch
        elif name == "running":
            batch_stats.update(branch)
        else:
            params[name], stats = _split(branch)
            if stats:
                batch_stats[name] = stats
    return params, batch_stats
