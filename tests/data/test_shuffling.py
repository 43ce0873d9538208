"""The order of an epoch is a permutation, another one in every epoch, and looks like a random one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.shuffling import permute_index


def order(count: int, epoch: int = 0, seed: int = 0) -> np.ndarray:
    positions = jnp.arange(count, dtype=jnp.int32)
    return np.asarray(_permute(positions, jnp.full(count, epoch, jnp.int32), count, seed))


_permute = jax.jit(permute_index, static_argnums=(2, 3))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 64, 65, 1000, 4097])
def test_an_epoch_visits_every_window_once(count):
    np.testing.assert_array_equal(np.sort(order(count)), np.arange(count))


def test_epochs_and_seeds_differ_and_a_call_repeats():
    first = order(1000)
    np.testing.assert_array_equal(first, order(1000))
    for other in (order(1000, epoch=1), order(1000, seed=1), np.arange(1000)):
        # Two independent permutations agree in one place on average, practically never in ten.
        assert np.sum(first == other) < 10


def test_a_batch_across_two_epochs_takes_each_from_its_own():
    position, epoch = jnp.array([998, 999, 0, 1], jnp.int32), jnp.array([3, 3, 4, 4], jnp.int32)
    found = np.asarray(_permute(position, epoch, 1000, 0))
    np.testing.assert_array_equal(found, [*order(1000, epoch=3)[-2:], *order(1000, epoch=4)[:2]])


def test_the_order_shows_no_trace_of_the_recording():
    count = 20_000
    for epoch in range(3):
        found = order(count, epoch=epoch).astype(float)
        limit = 4 / np.sqrt(count)  # four standard deviations of the correlation of independent numbers
        assert abs(np.corrcoef(found, np.arange(count))[0, 1]) < limit
        assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < limit
        assert abs(np.corrcoef(found, order(count, epoch=epoch + 1))[0, 1]) < limit
        # Batches of 100 spread over the whole recording: their means scatter as those of random draws.
        means = found.reshape(-1, 100).mean(axis=1)
        assert 0.8 < means.std() / (count / np.sqrt(12 * 100)) < 1.2


def test_every_window_comes_first_equally_often():
    epochs = jnp.arange(3000, dtype=jnp.int32)
    firsts = np.asarray(_permute(jnp.zeros(3000, jnp.int32), epochs, 6, 0))
    counts = np.bincount(firsts, minlength=6)
    assert np.sum((counts - 500) ** 2 / 500) < 20.5  # chi squared with 5 degrees of freedom, p = 0.001
