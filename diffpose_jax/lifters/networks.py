"""Applying the network of a method, in training and in sampling."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jax import Array

from diffpose_jax.lifters.base import Variables


def apply_in_training(
    network: nn.Module, variables: Variables, key: Array, index: Array, *inputs: Any
) -> tuple[Array, Any]:
    """A network's output and its new batch statistics, with dropout.

    Args:
        network: Called as `network(*inputs, train=True, index=index)`.
        variables: Its variables; what is frozen is not the network's.
        key: The key of dropout.
        index: The identity of the examples `[B]`, from which each one's dropout derives.
        *inputs: What the network takes.
    """
    # Networks are pure functions: new batch statistics are an output, which the training step keeps.
    own, rngs = network_variables(variables), {"dropout": key}
    output, updates = network.apply(own, *inputs, train=True, index=index, rngs=rngs, mutable=["batch_stats"])
    found: Any = output
    return found, updates.get("batch_stats", {})


def apply_network(network: nn.Module, variables: Variables, *inputs: Any) -> Array:
    """A network's output, without dropout and with its running statistics."""
    output: Any = network.apply(network_variables(variables), *inputs, train=False)
    return output


def network_variables(variables: Variables) -> Variables:
    """The variables of a method's own network: all but those of a frozen context."""
    return {name: part for name, part in variables.items() if name != "frozen"}
