"""Finding a network's weights in a published checkpoint, whatever they are nested in and called.

Releases save a bare state_dict, a dictionary with one in it, or a list of several; they put 'module.', 'model.' or the
name of an attribute before every key; and they keep averaged copies. All of that is recognised by the networks' own
keys: what stands before them is a prefix, and every prefix of every state_dict is one copy of a network.
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
# What Gaussian diffusion in the style of lucidrains registers beside its network; rebuilt here from the schedule.
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


class Weights(NamedTuple):
    """One copy of a network: its tensors by the network's own keys, and where they stood.

    buffers are those of the diffusion schedule beside them, by name; place is the path to their state_dict, prefix what
    stood before every key there; averaged says whether this is an exponential moving average; systems are the published
    systems that have such a network.
    """

    entries: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    place: tuple[str | int, ...]
    prefix: str
    averaged: bool
    systems: tuple[str, ...]

    def name(self, key: str) -> str:
        """The full name in the checkpoint of one of the entries."""
        return "/".join([*map(str, self.place), self.prefix + key])


def weights_of(structure: Any, system: str, averaged: bool | None = None) -> tuple[Weights, dict[str, str]]:
    """The weights of a system in a checkpoint that `read_checkpoint` read, and why each other tensor is not used.

    The second part is `{full name: reason}`. averaged asks for the moving average or against it; None takes what the
    release evaluates. Raises UserError with one line that says what the checkpoint holds where it is another system,
    has no such copy, or has tensors of unknown purpose.
    """
    copies = list(itertools.islice(copies_in(structure), _MOST_COPIES))
    fitting = [copy for copy in copies if system in copy.systems]
    if not fitting:
        raise UserError(f"expected weights of {system}, found {_described(structure, copies)}")
    if averaged is None:
        fitting.sort(key=lambda copy: copy.averaged != (system in _EVALUATED_AVERAGED))
    chosen = [copy for copy in fitting if averaged in (None, copy.averaged)]
    if not chosen:
        raise UserError(f"expected {_kind(averaged)} of {system}, found {_kind(not averaged)} only")
    weights = chosen[0]
    return _without_extras(weights, structure, copies)


def copies_in(structure: Any) -> Iterator[Weights]:
    """Every copy of a known network in a checkpoint, outermost and first ones first."""
    for place, entries in state_dicts_in(structure):
        buffers = {key.rpartition(".")[2]: value for key, value in entries.items() if _is_buffer(key, value)}
        for key in entries:
            anchor = next((one for one in _ANCHORS if key == one or key.endswith("." + one)), None)
            if anchor is not None:
                prefix = key.removesuffix(anchor)
                bare = {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}
                yield Weights(bare, buffers, place, prefix, _averaged(place, prefix), _systems(bare))


def state_dicts_in(structure: Any) -> Iterator[tuple[tuple[str | int, ...], dict[str, np.ndarray]]]:
    """Every dictionary of named tensors in nested dictionaries and lists, by its path."""
    pending: deque[tuple[tuple[str | int, ...], Any]] = deque([((), structure)])
    seen: set[int] = set()
    while pending:
        place, node = pending.popleft()
        if not isinstance(node, dict | list | tuple) or id(node) in seen or len(place) > 4:
            continue
        seen.add(id(node))
        items = node.items() if isinstance(node, dict) else enumerate(node)
        tensors = {key: value for key, value in items if isinstance(key, str) and isinstance(value, np.ndarray)}
        if tensors:
            yield place, tensors
        items = node.items() if isinstance(node, dict) else enumerate(node)
        pending += [((*place, key), value) for key, value in items if isinstance(value, dict | list | tuple)]


def _systems(keys: Mapping[str, np.ndarray]) -> tuple[str, ...]:
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


def _averaged(place: tuple[str | int, ...], prefix: str) -> bool:
    # DiffPose's releases save a list whose fifth entry is the average; a file of DiffuPose has one under 'ema', with
    # the weights that are averaged beside it.
    if prefix.startswith("online_model."):
        return False
    return prefix.startswith("ema_model.") or 4 in place[:1] or "ema" in place


def _kind(averaged: bool) -> str:
    return "the moving average (--ema)" if averaged else "the weights themselves (--noema)"


def _described(structure: Any, copies: list[Weights]) -> str:
    systems = dict.fromkeys(" or ".join(copy.systems) for copy in copies if copy.systems)
    if systems:
        return f"a checkpoint that looks like {', '.join(systems)}"
    if any("post_refine.0.weight" in copy.entries for copy in copies):
        return "the refinement head of Modulated GCN, which is no lifter by itself"
    tensors = [key for _, entries in state_dicts_in(structure) for key in entries]
    return f"{len(tensors)} tensors of another network" + (f", the first is '{tensors[0][:80]}'" if tensors else "")


def _without_extras(weights: Weights, structure: Any, copies: list[Weights]) -> tuple[Weights, dict[str, str]]:
    """The weights without counters and buffers, and a reason for every tensor of the checkpoint that is left out."""
    kept, unused = dict(weights.entries), {}
    others = {copy.name(key) for copy in copies if copy.systems for key in copy.entries}
    networks = {copy.place for copy in copies}
    for place, entries in state_dicts_in(structure):
        for key, value in entries.items():
            name = "/".join([*map(str, place), key])
            bare = key.removeprefix(weights.prefix)
            ours = place == weights.place and key.startswith(weights.prefix)
            reason = _reason(key, value) if place in networks else ""
            if reason and ours:
                del kept[bare]
            elif not ours and not reason and name in others:
                reason = "another copy"
            elif not ours and not reason:
                reason = _outside(place, weights, name, value)
            if reason:
                unused[name] = reason
    return weights._replace(entries=kept), unused


def _reason(key: str, value: np.ndarray) -> str:
    if _is_buffer(key, value):
        return "schedule buffer"
    if key.endswith("num_batches_tracked") or (key in ("initted", "step") and value.size == 1):
        return "counter"
    return ""


def _is_buffer(key: str, value: np.ndarray) -> bool:
    return value.ndim == 1 and key.rpartition(".")[2] in _SCHEDULE_BUFFERS


def _outside(place: tuple[str | int, ...], weights: Weights, name: str, value: np.ndarray) -> str:
    if place != weights.place:
        return "not of the network (optimiser or another part of training)"
    raise UserError(f"tensor '{name}' of shape {value.shape}: not understood beside '{weights.prefix}...'")
