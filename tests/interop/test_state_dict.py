"""Importing a released state_dict: what it accepts, and what it says when an entry is missing, wrong or unknown."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.interop.modulated_gcn import diffupose_variables, modulated_gcn_variables
from diffpose_jax.models.modulated_gcn import StepModulatedGCN
from diffpose_jax.skeleton import H36M_16


def graph_conv(prefix: str, channels: int, features: int, joints: int) -> dict[str, tuple[int, ...]]:
    shapes = {"W": (2, channels, features), "M": (joints, features), "adj2": (joints, joints), "bias": (features,)}
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def batch_norm(prefix: str, features: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{name}": (features,) for name in ("weight", "bias", "running_mean", "running_var")}


def linear(prefix: str, inputs: int, outputs: int, *kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": (outputs, inputs, *kernel), f"{prefix}.bias": (outputs,)}


@pytest.fixture
def entries() -> dict[str, np.ndarray]:
    """DiffuPose's entries as its specification lists them: width 32, one block, 16 joints."""
    shapes = graph_conv("gconv_input.0.gconv", 5, 32, 16) | batch_norm("gconv_input.0.bn", 32)
    for unit in ("gconv1", "gconv2"):
        shapes |= graph_conv(f"gconv_layers.0.{unit}.gconv", 32, 32, 16) | batch_norm(f"gconv_layers.0.{unit}.bn", 32)
    shapes |= graph_conv("gconv_output", 32, 5, 16)
    for name in ("theta", "phi", "g"):
        shapes |= linear(f"non_local.{name}", 32, 16, 1, 1)
    shapes |= linear("non_local.W.0", 16, 32, 1, 1) | batch_norm("non_local.W.1", 32)
    shapes |= linear("time_mlp.1", 4, 16) | linear("time_mlp.3", 16, 16)
    for block in ("block1", "block2", "block3"):
        shapes |= linear(f"{block}.mlp.1", 16, 64)
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def test_the_variables_have_the_names_and_shapes_of_the_network(entries):
    network = StepModulatedGCN(H36M_16, 32, 1)
    inputs = jnp.zeros((1, 1, 16, 3)), jnp.zeros((1, 1, 16, 2)), jnp.int32(0)
    created = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, train=False))
    imported = diffupose_variables(entries)
    assert jax.tree.map(np.shape, imported) == jax.tree.map(np.shape, created)


def test_prefix_and_counters_are_ignored(entries):
    wrapped = {f"module.{key}": value for key, value in entries.items()}
    wrapped["module.gconv_input.0.bn.num_batches_tracked"] = np.array(7)
    plain, unwrapped = diffupose_variables(entries), diffupose_variables(wrapped)
    chex.assert_trees_all_equal(unwrapped, plain)


def test_a_missing_entry_is_named(entries):
    del entries["non_local.g.bias"]
    with pytest.raises(UserError, match=r"entry 'non_local\.g\.bias' is missing"):
        diffupose_variables(entries)


def test_a_wrong_shape_is_named_with_what_was_expected(entries):
    entries["gconv_output.adj2"] = np.zeros((17, 17), np.float32)
    with pytest.raises(UserError, match=r"'gconv_output\.adj2': expected shape \(16, 16\), found \(17, 17\)"):
        diffupose_variables(entries)


def test_entries_of_another_network_are_not_dropped_in_silence(entries):
    with pytest.raises(UserError, match=r"10 entries not understood, the first is 'block1\.mlp\.1\.bias'"):
        modulated_gcn_variables(entries)


def test_an_empty_state_dict_is_refused():
    with pytest.raises(UserError, match="missing"):
        modulated_gcn_variables({})
