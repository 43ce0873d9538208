"""The modulated GCN and DiffuPose's denoiser: published parameter counts, and what each depends on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.models.modulated_gcn import VARIANTS, ModulatedGCN, StepModulatedGCN
from diffpose_jax.skeleton import H36M_16, H36M_17, HUMANEVA_15, Skeleton

from ..parity.systems.modulated_gcn import RefineHead
from .networks import count_parameters, draw_variables, evaluate, shape_variables, train

RNG = np.random.default_rng(0)
DENOISER = StepModulatedGCN(H36M_17, width=32, num_layers=1)
LIFTER = ModulatedGCN(H36M_17, 32, 1, dropout=0.5, non_local="embedded_gaussian")


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def denoiser_inputs(skeleton: Skeleton = H36M_17) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Poses and keypoints of two examples of three frames, and a timestep for each example."""
    steps = jnp.asarray(RNG.integers(0, 100, 2), jnp.int32)
    return normal(2, 3, skeleton.num_joints, 3), normal(2, 3, skeleton.num_joints, 2), steps


@pytest.fixture(scope="module")
def variables():
    return draw_variables(DENOISER, *denoiser_inputs())


@pytest.mark.parametrize(
    ("width", "skeleton", "published"),
    [
        (128, H36M_16, 377_749),
        (128, H36M_17, 379_236),
        (128, HUMANEVA_15, 376_282),
        (256, H36M_16, 1_451_221),
        (256, H36M_17, 1_453_860),
        (256, HUMANEVA_15, 1_448_602),
        (384, H36M_16, 3_223_061),
        (384, H36M_17, 3_226_852),
        (384, HUMANEVA_15, 3_219_290),
    ],
)
def test_diffupose_has_the_published_number_of_parameters(width: int, skeleton: Skeleton, published: int):
    assert count_parameters(StepModulatedGCN(skeleton, width), *denoiser_inputs(skeleton)) == published


def test_without_the_dead_block_diffupose_has_148_224_parameters_less():
    network = StepModulatedGCN(H36M_16, release_dead_block=False)
    assert count_parameters(network, *denoiser_inputs(H36M_16)) == 3_223_061 - 148_224


@pytest.mark.parametrize(
    ("skeleton", "options", "published"),
    [
        (H36M_16, VARIANTS["gt"], 287_923),
        (H36M_16, VARIANTS["gt"] | {"non_local": "pooled"}, 455_283),
        (H36M_17, VARIANTS["benchmark"], 2_731_840),
    ],
)
def test_the_modulated_gcn_has_the_published_number_of_parameters(skeleton, options, published):
    assert count_parameters(ModulatedGCN(skeleton, **options), normal(2, skeleton.num_joints, 2)) == published


def test_the_refinement_head_has_the_published_number_of_parameters():
    assert count_parameters(RefineHead(), normal(2, 17, 3), normal(2, 17, 3)) == 140_322


def test_the_dead_block_changes_nothing_and_learns_nothing(variables):
    inputs = denoiser_inputs()

    @jax.jit
    @jax.grad
    def gradient(dead: dict) -> jax.Array:
        params = variables["params"] | {"modulation_unused": dead}
        return jnp.sum(DENOISER.apply({**variables, "params": params}, *inputs, train=False))

    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient(variables["params"]["modulation_unused"])))
    alive = {name: leaf for name, leaf in variables["params"].items() if name != "modulation_unused"}
    result = evaluate(DENOISER.clone(release_dead_block=False), {**variables, "params": alive}, *inputs)
    np.testing.assert_allclose(result, evaluate(DENOISER, variables, *inputs), atol=1e-5)


def test_one_timestep_for_all_equals_the_same_timestep_for_each(variables):
    x, cond, _ = denoiser_inputs()
    steps = jnp.full(2, 7), jnp.int32(7), jnp.int32(60)
    each, alike, other = (evaluate(DENOISER, variables, x, cond, k) for k in steps)
    np.testing.assert_allclose(alike, each, atol=1e-5)
    assert np.abs(alike - other).max() > 1e-3


def test_frames_and_examples_are_independent(variables):
    x, cond, k = denoiser_inputs()
    whole = evaluate(DENOISER, variables, x, cond, k)
    assert whole.shape == (2, 3, 17, 5)
    moved = evaluate(DENOISER, variables, x[::-1, ::-1], cond[::-1, ::-1], k[::-1])
    np.testing.assert_allclose(moved, whole[::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(evaluate(DENOISER, variables, x.at[0].set(9), cond, k)[1], whole[1], atol=1e-5)


def test_the_timestep_enters_only_after_the_trunk(variables):
    x, cond, k = denoiser_inputs()

    @jax.jit
    def trunk(k: jax.Array) -> jax.Array:
        _, captured = DENOISER.apply(variables, x, cond, k, train=False, capture_intermediates=True)
        return captured["intermediates"]["trunk"]["__call__"][0]

    np.testing.assert_array_equal(trunk(k), trunk(k + 1))


def test_hypotheses_under_vmap_are_one_large_product_each(variables):
    x, cond, _ = denoiser_inputs()
    many = jnp.stack([x, 2 * x, -x])

    def sample(x: jax.Array) -> jax.Array:
        return DENOISER.apply(variables, x, cond, jnp.int32(3), train=False)

    for hypothesis, result in zip(many, jax.jit(jax.vmap(sample))(many), strict=True):
        np.testing.assert_allclose(result, evaluate(DENOISER, variables, hypothesis, cond, jnp.int32(3)), atol=1e-5)
    text = jax.jit(jax.vmap(sample)).lower(many).as_text()
    assert "while" not in text
    # Two graph convolutions of the trunk's block: 3 hypotheses x 17 joints x 6 frames of width 32, in one product.
    assert text.count("tensor<3x102x32xf32>, tensor<32x64xf32>") == 2


def test_training_changes_the_statistics_and_dropout_follows_the_example():
    x, index = normal(8, 1, 17, 2), jnp.array([4, 8, 15, 16, 23, 42, 1, 0])
    variables = draw_variables(LIFTER, x)
    poses, updates = train(LIFTER, variables, x, index=index)
    assert poses.shape == (8, 1, 17, 3)
    before, after = (jax.tree.leaves(part["batch_stats"]) for part in (variables, updates))
    assert all(np.any(old != new) for old, new in zip(before, after, strict=True))
    order = jnp.array([5, 2, 0, 1, 7, 4, 3, 6])
    np.testing.assert_allclose(train(LIFTER, variables, x[order], index=index[order])[0], poses[order], atol=1e-4)
    assert np.abs(train(LIFTER, variables, x, index=index + 1)[0] - poses).max() > 1e-3


def test_one_training_pass_on_eight_devices_equals_one_device():
    eight, x, index = LIFTER.clone(axis_name="devices"), normal(8, 1, 17, 2), jnp.arange(8) + 100
    variables = draw_variables(LIFTER, x)
    poses, updates = train(LIFTER, variables, x, index=index)
    shares, their_updates = jax.pmap(lambda x, index: train(eight, variables, x, index=index), "devices")(
        x[:, None], index[:, None]
    )
    np.testing.assert_allclose(shares[:, 0], poses, atol=1e-5)
    for theirs, mine in zip(jax.tree.leaves(their_updates), jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(theirs, np.broadcast_to(mine, theirs.shape), atol=1e-6)


def test_bfloat16_is_near_float32_and_keeps_float32_parameters(variables):
    inputs, low = denoiser_inputs(), DENOISER.clone(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shape_variables(low, *inputs))} == {jnp.dtype("float32")}
    expected, found = evaluate(DENOISER, variables, *inputs), evaluate(low, variables, *inputs)
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_refinement_mixes_x_and_y_and_keeps_z():
    predicted, moved = normal(3, 2, 17, 3), normal(3, 2, 17, 3)
    head = RefineHead(hidden=8)
    refined = evaluate(head, draw_variables(head, predicted, moved), predicted, moved)
    np.testing.assert_array_equal(refined[..., 2], predicted[..., 2])
    low, high = jnp.minimum(predicted, moved)[..., :2], jnp.maximum(predicted, moved)[..., :2]
    assert np.all((refined[..., :2] >= low - 1e-6) & (refined[..., :2] <= high + 1e-6))


@pytest.mark.parametrize("width", [16, 100])
def test_a_width_without_a_timestep_embedding_is_refused(width: int):
    with pytest.raises(UserError, match=f"multiple of 16, at least 32, found {width}"):
        shape_variables(StepModulatedGCN(H36M_17, width), *denoiser_inputs())
