"""MixSTE and PoseFormer as denoisers in float64 numpy, written from their published description, over torch's entries.

No code of these networks could be recorded, so this stands in for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import erf

from .vectors import Vector, generate_weights

Entries = dict[str, np.ndarray]


def backbone_vector(seed: int, *, pde: bool, step: bool, middle_frame: bool, **config: Any) -> Vector:
    """A vector of Diff3DHPE's denoiser, as the recorded ones are, with outputs of this module."""
    sizes = {"num_frame": 5, "num_joints": 17, "embed_dim": 16, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}
    epsilons = {"ln_eps": 1e-6, "head_ln_eps": 1e-5}
    config = {**sizes, **epsilons, "in_chans": 5, "qkv_bias": True} | config
    config |= {"pde_attention": pde, "with_time_emb": step}
    shape = (2, config["num_frame"], config["num_joints"])
    rng = np.random.default_rng(seed)
    inputs = {
        "pose_2d": rng.standard_normal((*shape, 2)).astype(np.float32),
        "y_t": rng.standard_normal((2, 1 if middle_frame else shape[1], shape[2], 3)).astype(np.float32),
        "t": np.array([999, 17]),
    }
    weights = generate_weights(backbone_keys(config, middle_frame), seed)
    outputs = {name: value.astype(np.float32) for name, value in backbone(weights, config, **inputs).items()}
    return Vector("diff3dhpe_backbone" + "_s2f" * middle_frame, config, inputs, outputs, weights)


def backbone_keys(config: dict[str, Any], middle_frame: bool) -> list[tuple[str, list[int]]]:
    """The entries of the denoiser's state_dict and their shapes."""
    width, frames, step = config["embed_dim"], config["num_frame"], config["with_time_emb"]
    keys = [("Spatial_pos_embed", [1, config["num_joints"], width]), ("Temporal_pos_embed", [1, frames, width])]
    keys += affine("fusion_layer", 5, width) + affine("head.0", width) + affine("head.1", width, 3)
    keys += affine("Spatial_norm", width) + affine("Temporal_norm", width)
    for stage in ("STEblocks", "TTEblocks"):
        for layer in range(config["depth"]):
            keys += block_keys(f"{stage}.{layer}", width, int(width * config["mlp_ratio"]), 2 * width if step else 0)
    if step:
        keys += affine("time_mlp.1", width, 2 * width) + affine("time_mlp.3", 2 * width, 2 * width)
    if middle_frame:
        keys += [("weighted_mean.weight", [1, frames, 1]), ("weighted_mean.bias", [1])]
    return keys


def block_keys(prefix: str, width: int, hidden: int, step: int) -> list[tuple[str, list[int]]]:
    """The entries of a transformer block, with a layer for a step embedding of `step` channels unless that is zero."""
    keys = affine(f"{prefix}.norm1", width) + affine(f"{prefix}.norm2", width)
    keys += affine(f"{prefix}.attn.qkv", width, 3 * width) + affine(f"{prefix}.attn.proj", width, width)
    keys += affine(f"{prefix}.mlp.fc1", width, hidden) + affine(f"{prefix}.mlp.fc2", hidden, width)
    return keys + (affine(f"{prefix}.time_mlp.1", step, width) if step else [])


def affine(prefix: str, channels: int, features: int | None = None) -> list[tuple[str, list[int]]]:
    """Weight and bias of a linear layer, or of a normalisation when `features` is not given."""
    weight = [channels] if features is None else [features, channels]
    return [(f"{prefix}.weight", weight), (f"{prefix}.bias", weight[:1])]


def backbone(
    entries: Entries, config: dict[str, Any], pose_2d: np.ndarray, y_t: np.ndarray, t: np.ndarray
) -> dict[str, np.ndarray]:
    """Diff3DHPE's denoiser: its prediction and what it computes on the way."""
    entries = {key: value.astype(np.float64) for key, value in entries.items()}
    frames, epsilon = config["num_frame"], config["ln_eps"]
    y_t = np.repeat(y_t, frames // y_t.shape[1], axis=1)
    x = linear(entries, "fusion_layer", np.concatenate([pose_2d, y_t], axis=-1))
    taps, step = {}, None
    if config["with_time_emb"]:
        taps["time_sinusoid"] = sinusoid(t, config["embed_dim"])
        taps["time_embed"] = step = embed_step(entries, taps["time_sinusoid"])
    for layer in range(config["depth"]):
        x = x + entries["Spatial_pos_embed"][:, None] if layer == 0 else x
        options = (config["num_heads"], epsilon, config["pde_attention"], step)
        x = norm(entries, "Spatial_norm", block(entries, f"STEblocks.{layer}", x, *options), epsilon)
        taps.setdefault("ste0", x)
        x = x.swapaxes(1, 2)
        x = x + entries["Temporal_pos_embed"][:, None] if layer == 0 else x
        x = norm(entries, "Temporal_norm", block(entries, f"TTEblocks.{layer}", x, *options), epsilon).swapaxes(1, 2)
        taps.setdefault("tte0", x)
    if "weighted_mean.weight" in entries:
        x = mean_frame(entries, x)
    taps["feat"] = norm(entries, "head.0", x, config["head_ln_eps"])
    return taps | {"pred": linear(entries, "head.1", taps["feat"])}


def poseformer(
    entries: Entries, x: np.ndarray, t: np.ndarray | None, depth: int, num_heads: int, pde: bool
) -> np.ndarray:
    """PoseFormer `[B, F, J, C] -> [B, 1, J, 3]`, graph-diffusion attention and a step in every block if asked."""
    entries = {key: value.astype(np.float64) for key, value in entries.items()}
    batch, frames, joints, _ = x.shape
    x = linear(entries, "Spatial_patch_to_embedding", x) + entries["Spatial_pos_embed"][None]
    step = None if t is None else embed_step(entries, sinusoid(t, x.shape[-1]))
    for layer in range(depth):
        x = block(entries, f"Spatial_blocks.{layer}", x, num_heads, 1e-6, pde, step)
    x = norm(entries, "Spatial_norm", x, 1e-6).reshape(batch, 1, frames, -1) + entries["Temporal_pos_embed"][None]
    for layer in range(depth):
        x = block(entries, f"blocks.{layer}", x, num_heads, 1e-6, pde, step)
    x = mean_frame(entries, norm(entries, "Temporal_norm", x, 1e-6)[:, 0])
    return linear(entries, "head.1", norm(entries, "head.0", x, 1e-5)).reshape(batch, 1, joints, 3)


def block(
    entries: Entries, prefix: str, x: np.ndarray, num_heads: int, epsilon: float, pde: bool, step: np.ndarray | None
) -> np.ndarray:
    """A transformer block over the tokens of `[B, G, T, C]`, for the step embedding `[B, S]` if there is one."""
    if step is not None:
        x = x + linear(entries, f"{prefix}.time_mlp.1", step / (1 + np.exp(-step)))[:, None, None]
    x = x + attention(entries, f"{prefix}.attn", norm(entries, f"{prefix}.norm1", x, epsilon), num_heads, pde)
    hidden = linear(entries, f"{prefix}.mlp.fc1", norm(entries, f"{prefix}.norm2", x, epsilon))
    return x + linear(entries, f"{prefix}.mlp.fc2", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)


def attention(entries: Entries, prefix: str, x: np.ndarray, num_heads: int, pde: bool) -> np.ndarray:
    """Multi-head attention, one head at a time."""
    query, key, value = np.split(linear(entries, f"{prefix}.qkv", x), 3, axis=-1)
    heads = []
    for q, k, v in zip(*(np.split(part, num_heads, axis=-1) for part in (query, key, value)), strict=True):
        weights = np.exp(np.einsum("...ic,...jc->...ij", q, k) / np.sqrt(q.shape[-1]))
        weights = weights / weights.sum(-1, keepdims=True) - (np.eye(x.shape[-2]) if pde else 0)
        heads.append(np.einsum("...ij,...jc->...ic", weights, v))
    return linear(entries, f"{prefix}.proj", np.concatenate(heads, axis=-1))


def sinusoid(t: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines, of the step times frequencies from 1 to 1/10000."""
    frequencies = 1e4 ** -(np.arange(width // 2) / (width // 2 - 1))
    return np.concatenate([np.sin(t[:, None] * frequencies), np.cos(t[:, None] * frequencies)], axis=-1)


def embed_step(entries: Entries, embedding: np.ndarray) -> np.ndarray:
    """Linear, GELU, linear."""
    hidden = linear(entries, "time_mlp.1", embedding)
    return linear(entries, "time_mlp.3", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)


def mean_frame(entries: Entries, x: np.ndarray) -> np.ndarray:
    """The weighted sum over the frames of `[B, F, ...]`."""
    return (
        np.einsum("f,bf...->b...", entries["weighted_mean.weight"][0, :, 0], x)[:, None] + entries["weighted_mean.bias"]
    )


def norm(entries: Entries, prefix: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    """Layer normalisation."""
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return normal * entries[f"{prefix}.weight"] + entries[f"{prefix}.bias"]


def linear(entries: Entries, prefix: str, x: np.ndarray) -> np.ndarray:
    """A linear layer with torch's weight `[D, C]`."""
    return x @ entries[f"{prefix}.weight"].T + entries[f"{prefix}.bias"]
