"""Training that starts from another run's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffpose_jax.errors import UserError
from diffpose_jax.training.state import TrainState
from diffpose_jax.workdir.trained import load_trained


def start_from(state: TrainState, workdir: str) -> TrainState:
    """A state at step 0 with the best averaged weights of a work directory in place of its own.

    The optimiser's state stays as it is, and so does a frozen context.

    Args:
        state: The state at step 0.
        workdir: A trained work directory of the same network.

    Raises:
        UserError: Nothing was trained there, or its weights differ in name or shape, of which the first is named.
    """
    theirs = load_trained(workdir).variables
    ours = {"params": state.params, "batch_stats": state.batch_stats}
    found = {name: theirs.get(name, {}) for name in ours}
    _check_shapes(ours, found, workdir)
    # Two copies: the step donates the state, and a buffer may be donated only once.
    weights, average = (jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), found) for _ in range(2))
    return state._replace(**weights, ema=average)


def _check_shapes(ours: Mapping[str, Any], theirs: Mapping[str, Any], workdir: str) -> None:
    expected, found = ({_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
                       for tree in (ours, theirs))  # fmt: skip
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(f"config.training.init_from: {workdir}: expected {name} of shape "
                            f"{expected.get(name, 'none')}, found {found.get(name, 'none')}")  # fmt: skip


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(part.key for part in path)
