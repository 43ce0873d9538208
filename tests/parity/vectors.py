"""Parity vectors: recorded inputs and outputs of the published PyTorch code, with weights that follow a rule."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.skeleton import Skeleton


@dataclass(frozen=True)
class Vector:
    """One recorded problem: every size is in `config`; `weights` is the reference's state_dict."""

    system: str
    config: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]

    @property
    def skeleton(self) -> Skeleton:
        """The joint tree of the config, `parents` and where given `left` and `right`."""
        parents = tuple(self.config["parents"])
        left, right = (tuple(self.config.get(side, ())) for side in ("left", "right"))
        return Skeleton("recorded", tuple(f"joint_{j}" for j in range(len(parents))), parents, left, right)


def vector_paths() -> list[Path]:
    """The recorded files: those of the folder DIFFPOSE_PARITY_DIR when it is set, else the project's own copies."""
    folder = Path(os.environ.get("DIFFPOSE_PARITY_DIR") or Path(__file__).parent / "data")
    return sorted(folder.glob("*.npz"))


def read_vector(path: Path) -> Vector:
    """Read a recorded file and regenerate its weights; nothing in it is unpickled."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    meta = json.loads(str(arrays.pop("meta")))
    assert meta.get("weight_rule", "v1") == "v1", f"{path.name}: unknown weight rule {meta['weight_rule']!r}"

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}

    weights = generate_weights(meta.get("keys") or [], meta["seed"]) | part("kept_")
    return Vector(meta["system"], meta["config"], part("in_"), part("out_"), weights)


def generate_weights(keys: list[tuple[str, list[int]]], seed: int) -> dict[str, np.ndarray]:
    """Draw the entries of a state_dict in sorted order from one generator, by the rule of the vectors."""
    rng = np.random.default_rng(seed)
    return {key: _entry(key, rng.standard_normal(tuple(shape))) for key, shape in sorted(map(tuple, keys))}


def _entry(key: str, x: np.ndarray) -> np.ndarray:
    if key.endswith("running_var"):
        x = 1 + 0.1 * abs(x)
    elif key.endswith("running_mean"):
        x = 0.1 * x
    elif x.ndim == 1 and key.endswith("weight"):
        x = 1 + 0.1 * x
    elif x.ndim <= 1:
        x = 0.1 * x
    else:
        x = x / np.sqrt(np.prod(x.shape[1:]))
    return np.asarray(x, np.float32)
