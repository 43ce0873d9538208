"""Random keys per example: noise follows the example, not its batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.keys import example_keys, fold_in, split, standard_normal

KEY = jax.random.key(7)
INDEX = jnp.array([4, 0, 9])


def data(keys: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


def test_a_key_array_is_folded_and_split_key_by_key():
    keys = example_keys(KEY, INDEX)
    for b, index in enumerate(INDEX):
        own = jax.random.fold_in(KEY, index)
        np.testing.assert_array_equal(data(keys[b]), data(own))
        np.testing.assert_array_equal(data(fold_in(keys, 3)[b]), data(fold_in(own, 3)))
        np.testing.assert_array_equal(data(split(keys, 3)[:, b]), data(split(own, 3)))


def test_noise_of_an_example_depends_on_its_own_key_alone():
    keys = example_keys(KEY, INDEX)
    whole = standard_normal(keys, (3, 5, 2))
    np.testing.assert_array_equal(standard_normal(keys[1:], (2, 5, 2)), whole[1:])
    assert standard_normal(KEY, (3, 5, 2)).shape == whole.shape


def test_one_key_per_example_is_checked():
    with pytest.raises(ValueError, match=r"\[6\]"):
        standard_normal(jax.random.split(KEY, 5), (6, 2))
