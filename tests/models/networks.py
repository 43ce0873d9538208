"""What the tests of networks share: random variables without running a network, one compiled program each, counts."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def shape_variables(network: nn.Module, *inputs: Any) -> Any:
    """Shapes of a network's variables for inputs of these shapes, without computing anything."""
    return jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), *inputs)


def count_parameters(network: nn.Module, *inputs: Any) -> int:
    """The number of a network's parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shape_variables(network, *inputs)["params"]))


def draw_variables(network: nn.Module, *inputs: Any, seed: int = 0) -> Any:
    """Random variables of a network, none of them at its start: no block is the identity, no weight is zero."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values, name = rng.standard_normal(leaf.shape), path[-1].key
        if name in ("scale", "var"):
            values = 1 + 0.1 * np.abs(values)
        elif name == "graph":  # near the identity: a learned graph's columns must have positive sums
            values = np.eye(len(values)) + 0.05 * values
        elif values.ndim > 1:
            values /= math.sqrt(values.shape[-2] * (len(values) if values.ndim == 3 else 1))
        else:
            values *= 0.1
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shape_variables(network, *inputs))


@functools.partial(jax.jit, static_argnums=0, static_argnames="features")
def evaluate(network: nn.Module, variables: Any, *inputs: Any, **options: Any) -> jax.Array:
    """Apply a network in evaluation mode; equal networks share what is compiled for a shape."""
    return network.apply(variables, *inputs, train=False, **options)


@functools.partial(jax.jit, static_argnums=0)
def train(network: nn.Module, variables: Any, *inputs: Any, index: Any) -> tuple[jax.Array, Any]:
    """Apply a network in training mode with a fixed dropout key; return its output and the updated statistics."""
    rngs = {"dropout": jax.random.key(1)}
    return network.apply(variables, *inputs, train=True, index=index, rngs=rngs, mutable=["batch_stats"])
