"""A random order of the windows for every epoch, computed where it is needed and never stored.

The order is a pure function of (seed, epoch, position), so that a resumed run and any number of devices go on in it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 over the golden ratio: its multiples are spread evenly
_ROUNDS = 4


def permute_index(position: jax.Array, epoch: jax.Array, count: int, seed: int) -> jax.Array:
    """Permute the indices below `count`, each epoch anew: the `position`-th index of the epoch's random order.

    Args:
        position: Place in the epoch `[B]`, int32, 0 to count - 1.
        epoch: Epoch of each place `[B]`, int32.
        count: Number of indices, that is, of windows.
        seed: Seed of all epochs' orders.

    Returns:
        Indices `[B]`, int32.
    """
    # A Feistel network permutes the values of 2 b bits. It splits a value into halves (L, R) and maps them to
    # (R, L ^ f(R)), which is undone by (L', R') -> (R' ^ f(L'), L') whatever f is. With pseudorandom functions f,
    # different in each round, four rounds cannot be told from a random permutation (Luby and Rackoff 1988).
    half_bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    low_mask = jnp.uint32((1 << half_bits) - 1)
    stream = _hash(epoch.astype(jnp.uint32) * _GOLDEN + _hash(jnp.uint32(seed & 0xFFFFFFFF)))
    round_keys = [_hash(stream + jnp.uint32(i) * _GOLDEN) for i in range(_ROUNDS)]

    def encrypt(value: jax.Array) -> jax.Array:
        left, right = value >> half_bits, value & low_mask
        for round_key in round_keys:
            left, right = right, left ^ (_hash(right ^ round_key) & low_mask)
        return (left << half_bits) | right

    # The domain of 4^b values may be up to four times as large as `count`. A value outside is encrypted again until it
    # falls inside ("cycle walking", Black and Rogaway 2002): each index leads to the next one inside on its own cycle
    # of the permutation, so the result is a permutation of the indices, after fewer than four rounds on average.
    index = jax.lax.while_loop(
        lambda value: jnp.any(value >= count),
        lambda value: jnp.where(value >= count, encrypt(value), value),
        encrypt(position.astype(jnp.uint32)),
    )
    return index.astype(jnp.int32)


def _hash(value: jax.Array) -> jax.Array:
    """Hash 32-bit integers: each input bit changes each output bit half of the time (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
