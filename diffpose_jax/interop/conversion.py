"""Converts a network's tensors to variables and reports which tensor became which variable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.interop.state_dict import Variables
from diffpose_jax.interop.weights import Weights

# Parameters that a release holds and never uses; a network of this project may have none of that name.
_UNUSED = "step_unused"


class Conversion(NamedTuple):
    """The converted variables, and what became of every tensor.

    Tensors have their names in the checkpoint, variables are paths such as 'params/head_norm/scale'.
    """

    variables: Variables
    used: dict[str, list[str]]  # of each used tensor the variables that it became
    unused: dict[str, str]  # of each other tensor of the network the reason
    missing: list[str]  # the variables that no tensor gave


def convert_weights(
    convert: Callable[[Mapping[str, np.ndarray]], Variables], weights: Weights, template: Any
) -> Conversion:
    """Converts the entries of `weights` and compares every shape with those of the lifter.

    `convert` is the system's function of entries to variables, `template` what the lifter's `init` returns. Raises
    UserError naming a tensor that is missing, has no variable, has another shape (with both shapes) or is not finite.
    """
    variables = convert(weights.entries)
    origin = _trace_origins(convert, weights)
    expected = _flatten(template)
    idle = {path for path in origin if f"/{_UNUSED}/" in path and path not in expected}
    found = {path: leaf for path, leaf in _flatten(variables).items() if path not in idle}
    for path in found.keys() | expected.keys():
        _check_shape(path, found.get(path), expected.get(path), origin.get(path, []), weights)
    for path, leaf in found.items():
        if not np.isfinite(leaf).all():
            raise UserError(f"{_describe_tensors(origin[path], weights)}: expected finite numbers, found others")
    used: dict[str, list[str]] = {}
    for path in found:
        for key in origin[path]:
            used.setdefault(weights.full_name(key), []).append(path)
    unused = {weights.full_name(key): "parameters that the release never uses" for path in idle for key in origin[path]}
    return Conversion(
        _drop_unused(variables) if idle else variables, used, unused, sorted(path for path in found if not origin[path])
    )


def _check_shape(path: str, found: Any, expected: Any, keys: list[str], weights: Weights) -> None:
    if expected is None:
        raise UserError(f"{_describe_tensors(keys, weights)}: the lifter has no {path}")
    if found is None:
        raise UserError(f"no tensor for {path}, which the lifter has with shape {expected.shape}")
    if found.shape != expected.shape:
        origin = _describe_tensors(keys, weights)
        raise UserError(f"{origin}: gives {path} the shape {found.shape}, the lifter expects {expected.shape}")


def _describe_tensors(keys: list[str], weights: Weights) -> str:
    return "tensor " + ", ".join(
        f"'{weights.full_name(key)}' of shape {weights.entries[key].shape}" for key in keys[:3]
    )


def _trace_origins(convert: Callable[[Mapping[str, np.ndarray]], Variables], weights: Weights) -> dict[str, list[str]]:
    """The entries that each variable is made of."""
    # Conversion only moves elements, and what no entry gives is zero. So every entry is filled with its own index, from
    # 1, and converted: the indices that a variable then holds are those of its entries.
    keys = list(weights.entries)
    indices = {key: np.broadcast_to(np.float32(index), weights.entries[key].shape) for index, key in enumerate(keys, 1)}
    origins = {}
    for path, leaf in _flatten(convert(indices)).items():
        found = np.flatnonzero(np.bincount(leaf.astype(np.int64).ravel()))
        origins[path] = [keys[index - 1] for index in found if index]
    return origins


def _flatten(tree: Any) -> dict[str, Any]:
    return {"/".join(str(step.key) for step in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _drop_unused(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {name: _drop_unused(branch) for name, branch in tree.items() if name != _UNUSED}
