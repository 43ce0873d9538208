"""The seal of a checkpoint: its step, the config it was saved with, and a digest of every leaf and of its note."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import flat_items
from diffpose_jax.errors import UserError
from diffpose_jax.records import digest_json

_FORMAT = "diffpose_jax checkpoint 2"
# What decides how variables are used. Options that only one of two configs has are not compared: a later version may
# have new ones.
_MEANING = ("lifter.", "diffusion.", "context.", "data.layout", "data.view")


class Seal(NamedTuple):
    """What a checkpoint says of itself.

    Attributes:
        note: The note that was saved with it.
        config: The config that it was saved with, None in checkpoints of earlier versions.
        digests: The digest of every leaf by its path in the tree, None likewise.
    """

    note: dict[str, Any]
    config: dict[str, Any] | None
    digests: Mapping[str, str] | None

    def verify(self, tree: Any) -> None:
        """Raises ValueError, with the name of a leaf, where a tree is not the one that was saved."""
        if self.digests is None:
            return
        found = digest_leaves(tree)
        if found.keys() != self.digests.keys():
            raise ValueError(f"leaves {sorted(found.keys() ^ self.digests.keys())[0]} do not match")
        for name, digest in found.items():
            if digest != self.digests[name]:
                raise ValueError(f"{name} is not what was saved")


def seal(step: int, tree: Any, note: Mapping[str, Any], config: ConfigDict | None) -> dict[str, Any]:
    """The note of a checkpoint with its seal.

    Args:
        step: The step.
        tree: The tree of arrays.
        note: The note, JSON.
        config: The config of the run.
    """
    record = {
        "format": _FORMAT,
        "step": step,
        "config": None if config is None else config.to_dict(),
        "digests": digest_leaves(tree),
        "note": dict(note),
    }
    return {**record, "sha256": digest_json(record)}


def open_seal(step: int, found: Any) -> Seal:
    """The seal of what was saved as a step's note. Raises ValueError where it is damaged or of another step."""
    if not isinstance(found, dict):
        raise ValueError("its note is no JSON object")
    if "format" not in found and "sha256" not in found:
        return Seal(found, None, None)
    found = dict(found)
    if found.pop("sha256", None) != digest_json(found):
        raise ValueError("its note is not what was saved")
    if found["format"] != _FORMAT:
        raise ValueError(f"its format is {found['format']!r}, of a later version")
    if found["step"] != step:
        raise ValueError(f"it is that of step {found['step']}")
    return Seal(found["note"], found["config"], found["digests"])


def digest_leaves(tree: Any) -> dict[str, str]:
    """The SHA-256 of every leaf's type, shape and bytes, by its path; leaves are hashed in parallel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(_digest, [leaf for _, leaf in leaves])
    return {jax.tree_util.keystr(path): digest for (path, _), digest in zip(leaves, digests, strict=True)}


def _digest(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf)
    found = hashlib.sha256(f"{array.dtype.name} {np.shape(leaf)}".encode())
    found.update(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # an array is a buffer
    return found.hexdigest()


def check_config(config: ConfigDict | None, saved: Mapping[str, Any] | None, where: str) -> None:
    """Raises UserError, with the key, where variables would be used otherwise than they were trained."""
    if config is None or saved is None:
        return
    ours, theirs = dict(flat_items(config)), dict(flat_items(saved))
    for name in (name for name in ours.keys() & theirs.keys() if name.startswith(_MEANING)):
        mine, other = (list(value) if isinstance(value, tuple) else value for value in (ours[name], theirs[name]))
        if mine != other:
            raise UserError(f"{where}: was saved with {name}={other!r}, the config now says {mine!r}")
