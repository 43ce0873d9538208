"""The layers that released networks share, from entries of a torch state_dict to flax variables.

Torch keeps the kernel of a linear layer as `[out, in]` and multiplies from the left; flax keeps `[in, out]`.
"""

from __future__ import annotations

import numpy as np

from diffpose_jax.interop.state_dict import StateDict, Variables


def batch_norm(source: StateDict, prefix: str) -> Variables:
    """A batch normalisation: scale and bias `[C]`, and its running statistics for `split_collections`."""
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
    """A linear layer, or a convolution of kernel size one with `kernel_axes` axes: kernel `[in, out]`, bias `[out]`."""
    weight = source.take(f"{prefix}.weight", (None, None) + (1,) * kernel_axes)
    weight = weight.reshape(weight.shape[:2])
    return {"kernel": weight.T, "bias": source.take(f"{prefix}.bias", (len(weight),))}


def layer_norm(source: StateDict, prefix: str) -> Variables:
    """A layer normalisation: scale and bias `[C]`."""
    scale = source.take(f"{prefix}.weight", (None,))
    return {"scale": scale, "bias": source.take(f"{prefix}.bias", scale.shape)}


def stack_linear(layers: list[Variables]) -> Variables:
    """Joins linear layers of one input into one, their outputs side by side."""
    return {name: np.concatenate([layer[name] for layer in layers], axis=-1) for name in ("kernel", "bias")}


def split_collections(parts: Variables) -> Variables:
    """Splits a tree of layers into flax's collections: what is under 'running' are batch statistics."""
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
