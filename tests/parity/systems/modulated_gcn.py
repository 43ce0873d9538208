"""The modulated GCN's two released programs, through the project's own modules, and its refinement head.

The head needs the true depth of the root at test time, so the library has no use for it: it is written out here.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffpose_jax.evaluation.protocols import back_project
from diffpose_jax.geometry import Camera
from diffpose_jax.interop.layers import linear, split_collections
from diffpose_jax.interop.modulated_gcn import modulated_gcn_variables
from diffpose_jax.interop.state_dict import StateDict
from diffpose_jax.models.graph import build_affinity
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.modulated_gcn import ModulatedGCN
from diffpose_jax.models.normalisation import Dropout, index_rows

from .base import System


def modulated_gcn(vector: Any) -> dict[str, np.ndarray]:
    """Either program of the release, with or without its non-local blocks, layer by layer."""
    config, skeleton = vector.config, vector.skeleton
    np.testing.assert_array_equal(build_affinity(skeleton.adjacency()), vector.inputs["adj"])
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
    outputs |= {f"after_layer{index}": taps[name] for index, name in enumerate(layers)}
    outputs["after_input"] = taps["trunk/input_non_local" if groups else "trunk/input"]
    outputs["after_layers"] = taps["trunk"]
    if non_local == "embedded_gaussian":
        outputs["after_nonlocal"] = taps["non_local"]
    return outputs


def post_refine(vector: Any) -> dict[str, np.ndarray]:
    """Back-projection with the true depth of the root, and the refinement head in evaluation mode."""
    predicted, keypoints = jnp.asarray(vector.inputs["pred"]), jnp.asarray(vector.inputs["uv"])
    root = jnp.asarray(vector.inputs["gt3d"])[..., 0, :]
    moved = back_project(predicted, keypoints, root, lens(vector.inputs["cam"]))
    network, source = RefineHead(vector.config["hidden"], vector.config["dropout"]), StateDict(vector.weights)
    variables = split_collections({"expand": linear(source, "post_refine.0"), "share": linear(source, "post_refine.3")})
    source.finish()
    refined = network.apply(variables, predicted, moved, train=False)
    # Root-relative points have their root at zero before the release sets it so.
    return {"xyz_raw": np.asarray(moved), "xyz": np.asarray(moved), "refined": np.asarray(refined)}


class RefineHead(nn.Module):
    """The benchmark program's second stage: mix the x and y of a prediction with those of its back-projection.

    `predicted` and `back_project [..., J, 3]`, both root-relative metres, give `[..., J, 3]`: z as predicted,
    (x, y) = s * predicted + (1 - s) * back-projected with s from a two-layer network. The release leaves its dropout on
    at test time; here it is off unless `train`.
    """

    hidden: int = 1024
    dropout: float = 0.5

    @nn.compact
    def __call__(self, predicted: jax.Array, back_project: jax.Array, *, train: bool) -> jax.Array:
        leading, joints = predicted.shape[:-2], predicted.shape[-2]
        flat = jnp.concatenate([predicted, back_project], axis=-1).reshape(1, -1, 6 * joints)
        hidden = jax.nn.relu(Linear(self.hidden, name="expand")(flat))
        hidden = Dropout(self.dropout, name="dropout")(hidden, index_rows(None, leading), train=train)
        share = jax.nn.sigmoid(Linear(2 * joints, name="share")(hidden)).reshape(*leading, joints, 2)
        mixed = share * predicted[..., :2] + (1 - share) * back_project[..., :2]
        return jnp.concatenate([mixed, predicted[..., 2:]], axis=-1)


def lens(vectors: np.ndarray) -> Camera:
    """Cameras at the origin from the releases' vectors of nine `[N, 9]`: focal, centre, radial, tangential."""
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
