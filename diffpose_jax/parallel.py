"""Parallelism over the devices of this process and of a cluster's; the only file that uses `jax.pmap`.

State and data are plainly replicated: leaves keep their natural shapes, no copies are stacked. Only example indices
have a leading axis of D devices. With `out_axes=None` jax takes one device's output for all, so that a forgotten
mean over the devices is silent; `assert_replicated` finds it and is called before every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def local_device_count() -> int:
    """The number D of devices of this process."""
    return jax.local_device_count()


def device_count() -> int:
    """The number of devices of all processes of the cluster, which have as many each."""
    return jax.process_count() * local_device_count()


def pmap_step(step: Callable) -> Callable:
    """Maps `step(state, data, examples) -> (state, metrics)` over examples `[D, ...]`; the state's memory is donated.

    The step itself averages over the axis `AXIS` whatever must be equal on all devices.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=(0,))


def average_over_devices(tree: Any, axis: str | None) -> Any:
    """The mean of every leaf over the devices of a mapped axis; None: there is no axis, and every leaf stays."""
    # A sum over one device is a copy on XLA:CPU, in each of PoseFormer's steps of 38 MB of gradients.
    return tree if axis is None or jax.lax.axis_size(axis) == 1 else jax.lax.pmean(tree, axis)


def pmap_each(function: Callable) -> Callable:
    """Maps `function(variables, data, indices [b])` over indices `[D, b]`; outputs are stacked `[D, b, ...]`."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(None, None, 0), out_axes=0)


def jit_whole(function: Callable) -> Callable:
    """Compiles `function(variables, data, indices [b])` for indices `[1, b]`: one program that all devices share.

    For functions that share their work themselves, as sampling does with `Sampling.mesh`; outputs are `[1, b, ...]`.
    """

    def call(variables: Any, data: Any, indices: jax.Array) -> Any:
        return jax.tree.map(lambda array: array[None], function(variables, data, indices[0]))

    return jax.jit(call)


def local_mesh() -> Mesh:
    """The devices of this process on one axis, `AXIS`."""
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Copies every leaf to all local devices: once before the first mapped call, and after restoring a checkpoint."""
    # Arrays that already are where pmap wants them are not copied again on every call.
    return jax.device_put(tree, NamedSharding(local_mesh(), PartitionSpec()))


def shard(array: np.ndarray) -> np.ndarray:
    """Reshapes `[n, ...]` to `[D, n / D, ...]`; n must be a multiple of the device count D."""
    return array.reshape(local_device_count(), -1, *array.shape[1:])


def own_part(array: np.ndarray) -> np.ndarray:
    """What this process's devices have of `[D, ...]`, whose first axis is all devices of the cluster's D."""
    count = local_device_count()
    return array[jax.process_index() * count :][:count]


def gather_from_processes(value: Any) -> np.ndarray:
    """Stacks what the processes of a cluster have, `[...]` each, to `[P, ...]` on all of them; all have to call it."""
    if jax.process_count() == 1:
        return np.asarray(value)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def broadcast_bytes(content: bytes) -> bytes:
    """The bytes that process 0 gives; all processes of a cluster have to call it, with as many."""
    return np.asarray(multihost_utils.broadcast_one_to_all(np.frombuffer(content, np.uint8))).tobytes()


def agree_on_signal(received: int) -> int:
    """A signal that any process of a cluster received, 0 where none did; all processes have to call it."""
    return int(np.max(gather_from_processes(np.int32(received))))


def assert_replicated(tree: Any) -> None:
    """Raises AssertionError, naming the leaf, where the copies on the local devices differ."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(leaf, jax.Array) or len(leaf.addressable_shards) < 2:
            continue
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        first, *rest = (np.asarray(copy.data) for copy in leaf.addressable_shards)
        for device, copy in enumerate(rest, 1):
            if not np.array_equal(first, copy, equal_nan=True):
                name = jax.tree_util.keystr(path)
                raise AssertionError(f"{name} differs between device 0 and device {device}: a mean is missing")
