"""Finds a network's weights in a published checkpoint, whatever they are nested in and called.

Releases save a bare state_dict, a dictionary with one in it, or a list of several; they put 'module.', 'model.' or the
name of an attribute before every key; and they keep averaged copies. Networks are recognised by keys of their own: what
stands before such a key is a prefix, and every prefix of every state_dict is one copy of a network.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError

# A key of each family of networks that no other has.
_ANCHORS = (
    *("diffmodel.input_projection.weight", "fusion_layer.weight", "Spatial_patch_to_embedding.weight"),
    *("gconv_input.0.gconv.W", "gconv_input.weight", "post_refine.0.weight"),
)
# What lucidrains' denoising-diffusion-pytorch and its descendants register beside the network; all follow from the
# schedule.
_SCHEDULE_BUFFERS = frozenset(
    (
        *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
        *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
        *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
        *("p2_loss_weight", "loss_weight", "alphas", "sqrt_alphas", "one_minus_alphas"),
    )
)
# The systems whose release evaluates the moving average of the weights.
_EVALUATED_AVERAGED = ("diffupose",)
_MOST_COPIES = 32

Path = tuple[str | int, ...]


class Weights(NamedTuple):
    """One copy of a network, and where in the checkpoint it was found."""

    entries: dict[str, np.ndarray]  # the tensors by the network's own keys
    buffers: dict[str, np.ndarray]  # those of the diffusion schedule beside them, by name
    path: Path  # the keys and indices that lead to the state_dict
    prefix: str  # what stands before every key there
    averaged: bool  # whether this is an exponential moving average
    systems: tuple[str, ...]  # the published systems that have such a network

    def full_name(self, key: str) -> str:
        """The name in the checkpoint of one of the entries."""
        return "/".join([*map(str, self.path), self.prefix + key])


def find_weights(structure: Any, system: str, averaged: bool | None = None) -> tuple[Weights, dict[str, str]]:
    """Finds the weights of a system in a checkpoint.

    Args:
        structure: What `read_checkpoint` returns.
        system: A name of `systems.SYSTEMS`.
        averaged: True for the moving average of the weights, False for the weights themselves, None for what the
            release evaluates.

    Returns:
        The weights, and for each other tensor of the checkpoint the reason why it is not used, by its full name.

    Raises:
        UserError: The checkpoint is of another system, has no such copy, or has tensors of unknown purpose.
    """
    copies = list(itertools.islice(find_copies(structure), _MOST_COPIES))
    fitting = [copy for copy in copies if system in copy.systems]
    if not fitting:
        raise UserError(f"expected weights of {system}, found {_describe(structure, copies)}")
    if averaged is None:
        fitting.sort(key=lambda copy: copy.averaged != (system in _EVALUATED_AVERAGED))
    else:
        fitting = [copy for copy in fitting if copy.averaged == averaged]
        if not fitting:
            raise UserError(
                f"expected {_describe_kind(averaged)} of {system}, found {_describe_kind(not averaged)} only"
            )
    return _drop_extras(fitting[0], structure, copies)


def find_copies(structure: Any) -> Iterator[Weights]:
    """Every copy of a known network in a checkpoint, outermost and first ones first."""
    for path, entries in _find_state_dicts(structure):
        buffers = {key.rpartition(".")[2]: value for key, value in entries.items() if _is_buffer(key, value)}
        for key in entries:
            anchor = next((one for one in _ANCHORS if key == one or key.endswith("." + one)), None)
            if anchor is not None:
                prefix = key.removesuffix(anchor)
                bare = {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}
                yield Weights(bare, buffers, path, prefix, _is_averaged(path, prefix), _recognise(bare))


def _find_state_dicts(structure: Any) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
    """Every dictionary of named tensors in nested dictionaries and lists, by its path."""
    # Breadth first, each container once: a checkpoint may contain itself.
    pending: deque[tuple[Path, Any]] = deque([((), structure)])
    seen: set[int] = set()
    while pending:
        path, node = pending.popleft()
        if not isinstance(node, dict | list | tuple) or id(node) in seen or len(path) > 4:
            continue
        seen.add(id(node))
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        tensors = {key: value for key, value in items if isinstance(key, str) and isinstance(value, np.ndarray)}
        if tensors:
            yield path, tensors
        pending += [((*path, key), value) for key, value in items if isinstance(value, dict | list | tuple)]


def _recognise(keys: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The published systems whose network has such keys."""
    if "diffmodel.input_projection.weight" in keys:
        return ("diffhpe_wrapper" if any(key.startswith("conditioning.") for key in keys) else "diffhpe_2d",)
    if "fusion_layer.weight" in keys:
        return ("diff3dhpe",)
    if "STEblocks.0.attn.qkv.weight" in keys and "head.1.weight" in keys:
        return ("d3dp" if "time_mlp.1.weight" in keys else "mixste",)
    if "Spatial_blocks.0.attn.qkv.weight" in keys:
        return ("poseformer",)
    if "gconv_input.0.gconv.W" in keys and "time_mlp.1.weight" in keys:
        return ("diffupose",)
    if "gconv_input.0.gconv.W" in keys:
        return ("modulated_gcn_benchmark" if "non_local.theta.weight" in keys else "modulated_gcn_gt",)
    if "atten_layers.0.feed_forward.A_hat" in keys:
        denoiser = "gconv_layers.0.temb_proj.weight" in keys
        return ("diffpose_gcndiff", "diffpose_video") if denoiser else ("diffpose_gcnpose",)
    return ()


def _is_averaged(path: Path, prefix: str) -> bool:
    # DiffPose's releases save a list whose fifth entry is the average. A file of DiffuPose has the average under 'ema',
    # as 'ema_model', beside the weights that it averages, 'online_model'.
    if prefix.startswith("online_model."):
        return False
    return prefix.startswith("ema_model.") or 4 in path[:1] or "ema" in path


def _describe_kind(averaged: bool) -> str:
    return "the moving average (--ema)" if averaged else "the weights themselves (--noema)"


def _describe(structure: Any, copies: list[Weights]) -> str:
    systems = dict.fromkeys(" or ".join(copy.systems) for copy in copies if copy.systems)
    if systems:
        return f"a checkpoint that looks like {', '.join(systems)}"
    if any("post_refine.0.weight" in copy.entries for copy in copies):
        return "the refinement head of Modulated GCN, which is no lifter by itself"
    tensors = [key for _, entries in _find_state_dicts(structure) for key in entries]
    return f"{len(tensors)} tensors of another network" + (f", the first is '{tensors[0][:80]}'" if tensors else "")


def _drop_extras(weights: Weights, structure: Any, copies: list[Weights]) -> tuple[Weights, dict[str, str]]:
    """The weights without counters and buffers, and a reason for every tensor of the checkpoint that is left out."""
    kept, unused = dict(weights.entries), {}
    others = {copy.full_name(key) for copy in copies if copy.systems for key in copy.entries}
    networks = {copy.path for copy in copies}
    for path, entries in _find_state_dicts(structure):
        for key, value in entries.items():
            name = "/".join([*map(str, path), key])
            chosen = path == weights.path and key.startswith(weights.prefix)
            reason = _find_reason(key, value) if path in networks else ""
            if reason and chosen:
                del kept[key.removeprefix(weights.prefix)]
            elif not chosen and not reason and name in others:
                reason = "another copy"
            elif not chosen and not reason:
                reason = _explain_outside(path, weights, name, value)
            if reason:
                unused[name] = reason
    return weights._replace(entries=kept), unused


def _find_reason(key: str, value: np.ndarray) -> str:
    if _is_buffer(key, value):
        return "schedule buffer"
    if key.endswith("num_batches_tracked") or (key in ("initted", "step") and value.size == 1):
        return "counter"
    return ""


def _is_buffer(key: str, value: np.ndarray) -> bool:
    return value.ndim == 1 and key.rpartition(".")[2] in _SCHEDULE_BUFFERS


def _explain_outside(path: Path, weights: Weights, name: str, value: np.ndarray) -> str:
    if path != weights.path:
        return "not of the network (optimiser or another part of training)"
    raise UserError(f"tensor '{name}' of shape {value.shape}: not understood beside '{weights.prefix}...'")
