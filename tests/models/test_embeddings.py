"""The timestep's embedding and the modulation by it against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.models.embeddings import StepEmbedding, StepModulation, embed_sinusoidally


def test_sines_come_before_cosines_at_frequencies_from_one_to_a_ten_thousandth():
    k = np.array([0, 1, 99])
    frequencies = 10000.0 ** (-np.arange(4) / 3)
    expected = np.concatenate([np.sin(k[:, None] * frequencies), np.cos(k[:, None] * frequencies)], axis=-1)
    np.testing.assert_allclose(embed_sinusoidally(jnp.asarray(k), 8), expected, atol=1e-5)


def test_one_timestep_for_all_is_embedded_as_each_of_a_batch():
    layer, k = StepEmbedding(8, 16), jnp.array([3, 3, 7], jnp.int32)
    variables = layer.init(jax.random.key(0), k)
    each = layer.apply(variables, k)
    assert each.shape == (3, 16)
    np.testing.assert_allclose(layer.apply(variables, k[1]), each[0], atol=1e-6)
    assert np.abs(each[2] - each[0]).max() > 1e-3


def test_modulation_scales_by_one_plus_the_first_half_shifts_by_the_second_and_has_no_skip():
    rng = np.random.default_rng(0)
    x, step = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 3, 4), (3, 6)))
    layer = StepModulation()
    variables = jax.tree.map(np.asarray, layer.init(jax.random.key(1), x, step))
    linear = variables["params"]["project"]
    scale, shift = np.split(step / (1 + np.exp(-step)) @ linear["kernel"] + linear["bias"], 2, axis=-1)
    h = x * (1 + scale) + shift
    np.testing.assert_allclose(layer.apply(variables, x, step), h / (1 + np.exp(-h)), atol=1e-5)
