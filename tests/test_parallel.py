"""Data parallelism over eight virtual devices: replicated state, sharded examples, a forgotten mean is found."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.parallel import (
    AXIS,
    assert_replicated,
    average_over_devices,
    local_device_count,
    pmap_each,
    pmap_step,
    replicate,
    shard,
)

EXAMPLES = np.arange(32, dtype=np.float32)


def state() -> dict:
    return replicate({"weight": jnp.float32(2), "note": {"key": jax.random.key(0)}})


def step(averaged: bool):
    def one(state, data, examples):
        gradient = jnp.mean(state["weight"] * data[examples.astype(jnp.int32)])
        gradient = average_over_devices(gradient, AXIS) if averaged else gradient
        return {**state, "weight": state["weight"] - 0.1 * gradient}, {"gradient": gradient}

    return one


def test_there_are_eight_devices_here():
    assert local_device_count() == 8


def test_a_mapped_step_equals_the_step_on_the_whole_batch():
    data = jnp.square(jnp.arange(32.0))
    mapped, metrics = pmap_step(step(averaged=True))(state(), replicate(data), shard(EXAMPLES))
    expected = np.mean(2 * np.square(EXAMPLES))
    assert mapped["weight"].shape == ()
    np.testing.assert_allclose(mapped["weight"], 2 - 0.1 * expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient"], expected, rtol=1e-6)
    assert_replicated(mapped)


def test_of_one_device_nothing_is_averaged():
    made = jax.make_jaxpr(lambda values: average_over_devices(values, AXIS), axis_env=[(AXIS, 1)])(jnp.ones(3))
    assert not made.eqns
    assert average_over_devices("as it is", None) == "as it is"


def test_the_state_is_donated():
    before = state()
    pmap_step(step(averaged=True))(before, replicate(jnp.ones(32)), shard(EXAMPLES))
    assert before["weight"].is_deleted()


def test_a_forgotten_mean_is_caught_and_the_leaf_named():
    mapped, _ = pmap_step(step(averaged=False))(state(), replicate(jnp.arange(32.0)), shard(EXAMPLES))
    with pytest.raises(AssertionError, match=r"weight.*device 0 and device 1: a mean is missing"):
        assert_replicated({"params": mapped})


def test_a_device_that_alone_has_nan_is_caught_and_one_nan_for_all_is_not():
    def diverge(state, data, examples):
        return jnp.where((jax.lax.axis_index(AXIS) == 5) | data, jnp.nan, state), ()

    for everywhere in (False, True):
        mapped, _ = pmap_step(diverge)(replicate(jnp.float32(1)), replicate(jnp.bool_(everywhere)), shard(EXAMPLES))
        if everywhere:
            assert_replicated(mapped)
        else:
            with pytest.raises(AssertionError, match="device 5"):
                assert_replicated(mapped)


def test_keys_and_host_numbers_are_replicated_too():
    tree = replicate({"array": np.arange(3), "key": jax.random.key(1)})
    assert len(tree["array"].addressable_shards) == 8
    assert_replicated({**tree, "step": 3, "one device": jnp.ones(2)})


def test_a_mapped_function_stacks_the_outputs_of_the_devices():
    ids = shard(np.arange(16, dtype=np.int32))
    found = pmap_each(lambda variables, data, ids: variables * data[ids])(
        replicate(jnp.float32(3)), replicate(jnp.arange(16.0)), ids
    )
    assert found.shape == (8, 2)
    np.testing.assert_array_equal(np.asarray(found).reshape(-1), 3 * np.arange(16))
