"""The modulated GCN's two released programs and its refinement head, through the project's own modules."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.evaluation.protocols import back_projected
from diffpose_jax.geometry import Camera
from diffpose_jax.interop.modulated_gcn import modulated_gcn_variables, refine_head_variables
from diffpose_jax.models.graph import affinity
from diffpose_jax.models.modulated_gcn import ModulatedGCN, RefineHead

from .base import System


def modulated_gcn(vector: Any) -> dict[str, np.ndarray]:
    """Either program of the release, with or without its non-local blocks, layer by layer."""
    config, skeleton = vector.config, vector.skeleton
    np.testing.assert_array_equal(affinity(skeleton.adjacency()), vector.inputs["adj"])
    groups = config.get("nodes_group")
    non_local = "pooled" if groups else "none" if config["variant"] == "Modulated_GCN_gt" else "embedded_gaussian"
    network = ModulatedGCN(
        skeleton,
        config["hid_dim"],
        config["num_layers"],
        out_channels=config["coords_dim"][1],
        dropout=config.get("p_dropout") or 0.0,
        non_local=non_local,
        groups=tuple(map(tuple, groups or ())),
    )
    variables = modulated_gcn_variables(vector.weights)
    y, taps = apply_and_tap(network, variables, vector.inputs["x"])
    outputs = {"y": y, "y_ncthm": y.transpose(0, 2, 1)[:, :, None, :, None], "conv_input": taps["trunk/input/conv"]}
    # The release's list of layers holds the pooled blocks too.
    names = [f"trunk/block_{layer}" for layer in range(config["num_layers"])]
    layers = [name + part for name in names for part in (("", "_non_local") if groups else ("",))]
    outputs |= {f"after_layer{number}": taps[name] for number, name in enumerate(layers)}
    outputs["after_input"] = taps["trunk/input_non_local" if groups else "trunk/input"]
    outputs["after_layers"] = taps["trunk"]
    if non_local == "embedded_gaussian":
        outputs["after_nonlocal"] = taps["non_local"]
    return outputs


def post_refine(vector: Any) -> dict[str, np.ndarray]:
    """Back-projection with the true depth of the root, and the refinement head in evaluation mode."""
    predicted, keypoints = jnp.asarray(vector.inputs["pred"]), jnp.asarray(vector.inputs["uv"])
    root = jnp.asarray(vector.inputs["gt3d"])[..., 0, :]
    moved = back_projected(predicted, keypoints, root, lens(vector.inputs["cam"]))
    network = RefineHead(vector.config["hidden"], vector.config["dropout"])
    refined = network.apply(refine_head_variables(vector.weights), predicted, moved, train=False)
    # Root-relative points have their root at zero before the release sets it so.
    return {"xyz_raw": np.asarray(moved), "xyz": np.asarray(moved), "refined": np.asarray(refined)}


def lens(vectors: np.ndarray) -> Camera:
    """Cameras at the origin from the releases' nine numbers `[N, 9]`: focal, centre, radial, tangential."""
    leading = vectors.shape[:-1]
    rotation = np.broadcast_to(np.array([1, 0, 0, 0], np.float32), (*leading, 4))
    nowhere = np.zeros((*leading, 3), np.float32)
    return Camera(*np.split(vectors, [2, 4, 7], axis=-1), rotation, nowhere, np.full((*leading, 2), np.nan, np.float32))


def apply_and_tap(network: Any, variables: Any, *inputs: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Apply a network in evaluation mode; return its output and every submodule's, by path, as `[N, J, C]`."""
    apply = functools.partial(network.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    y, captured = jax.jit(apply)(variables, *inputs)
    taps = {}
    for path, value in jax.tree_util.tree_leaves_with_path(captured["intermediates"]):
        names = [str(step.key) for step in path if hasattr(step, "key")]
        taps["/".join(names[:-1])] = np.asarray(value).swapaxes(0, 1) if value.ndim == 3 else np.asarray(value)
    return np.asarray(y), taps


SYSTEMS = {
    "modulated_gcn_gt": System(modulated_gcn),
    "modulated_gcn_gt_nonlocal": System(modulated_gcn),
    "modulated_gcn_benchmark": System(modulated_gcn),
    "modulated_gcn_post_refine": System(post_refine),
}
