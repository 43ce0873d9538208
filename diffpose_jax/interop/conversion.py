"""Converting a network's tensors, with an account of what became of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.interop.state_dict import Variables
from diffpose_jax.interop.weights import Weights

# Parameters that a release holds and never uses; our networks may do without them.
_DEAD = "step_unused"


class Conversion(NamedTuple):
    """Converted variables; of each used tensor the variables it became; what was left out and why; what had no tensor.

    Tensors are called as in the checkpoint, variables by their path, such as 'params/head_norm/scale'.
    """

    variables: Variables
    used: dict[str, list[str]]
    unused: dict[str, str]
    missing: list[str]


def convert_weights(
    convert: Callable[[Mapping[str, np.ndarray]], Variables], weights: Weights, template: Any
) -> Conversion:
    """Converts the entries of `weights` and compares every shape with `template`, what the lifter's `init` returns.

    Raises UserError naming a tensor that is missing or of no use, or one whose shape does not fit, with both shapes.
    """
    variables = convert(weights.entries)
    origin = _origins(convert, weights)
    expected = _leaves(template)
    dead = {path for path in origin if f"/{_DEAD}/" in path and path not in expected}
    found = {path: leaf for path, leaf in _leaves(variables).items() if path not in dead}
    for path in found.keys() | expected.keys():
        _check(path, found.get(path), expected.get(path), origin.get(path, []), weights)
    for path, leaf in found.items():
        if not np.isfinite(leaf).all():
            raise UserError(f"{_named(origin[path], weights)}: expected finite numbers, found others")
    used: dict[str, list[str]] = {}
    for path in found:
        for key in origin[path]:
            used.setdefault(weights.name(key), []).append(path)
    unused = {weights.name(key): "parameters that the release never uses" for path in dead for key in origin[path]}
    return Conversion(
        _without(variables) if dead else variables, used, unused, sorted(path for path in found if not origin[path])
    )


def _check(path: str, found: Any, expected: Any, keys: list[str], weights: Weights) -> None:
    if expected is None:
        raise UserError(f"{_named(keys, weights)}: the lifter has no {path}")
    if found is None:
        raise UserError(f"no tensor for {path}, which the lifter has with shape {expected.shape}")
    if found.shape != expected.shape:
        raise UserError(
            f"{_named(keys, weights)}: gives {path} the shape {found.shape}, the lifter expects {expected.shape}"
        )


def _named(keys: list[str], weights: Weights) -> str:
    return "tensor " + ", ".join(f"'{weights.name(key)}' of shape {weights.entries[key].shape}" for key in keys[:3])


def _origins(convert: Callable[[Mapping[str, np.ndarray]], Variables], weights: Weights) -> dict[str, list[str]]:
    """Which entries each variable is made of, found by converting entries that hold their own number.

    Conversion only moves numbers, and those that no entry gives are zero.
    """
    keys = list(weights.entries)
    numbered = {
        key: np.broadcast_to(np.float32(number), weights.entries[key].shape) for number, key in enumerate(keys, 1)
    }
    origins = {}
    for path, leaf in _leaves(convert(numbered)).items():
        numbers = np.flatnonzero(np.bincount(leaf.astype(np.int64).ravel()))
        origins[path] = [keys[number - 1] for number in numbers if number]
    return origins


def _leaves(tree: Any) -> dict[str, Any]:
    return {"/".join(str(step.key) for step in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _without(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {name: _without(branch) for name, branch in tree.items() if name != _DEAD}
