"""Published parameter counts, and what each network may and may not depend on."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.models.modulated_gcn import VARIANTS, ModulatedGCN, StepModulatedGCN
from diffpose_jax.skeleton import H36M_16, H36M_17, HUMANEVA_15, Skeleton

from ..parity.systems.modulated_gcn import RefineHead

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def count(network, *inputs) -> int:
    params = jax.eval_shape(lambda: network.init(KEY, *inputs, train=False))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def denoiser_inputs(skeleton: Skeleton, batch: int, frames: int = 1) -> tuple[jax.Array, jax.Array, jax.Array]:
    joints = skeleton.num_joints
    steps = jnp.asarray(RNG.integers(0, 100, batch), jnp.int32)
    return normal(batch, frames, joints, 3), normal(batch, frames, joints, 2), steps


@pytest.fixture(scope="module")
def denoiser():
    """A small denoiser, initialised and then made generic, so that no block is the identity."""
    network = StepModulatedGCN(H36M_17, width=32, num_layers=1)
    variables = jax.jit(lambda: network.init(KEY, *denoiser_inputs(H36M_17, 2), train=False))()
    variables = jax.tree.map(lambda leaf: leaf + 0.05 * jnp.abs(normal(*leaf.shape)), variables)
    return network, variables, jax.jit(lambda *inputs: network.apply(variables, *inputs, train=False))


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
    assert count(StepModulatedGCN(skeleton, width), *denoiser_inputs(skeleton, 2)) == published


def test_without_the_dead_block_diffupose_has_148_224_parameters_less():
    network = StepModulatedGCN(H36M_16, release_dead_block=False)
    assert count(network, *denoiser_inputs(H36M_16, 2)) == 3_223_061 - 148_224


@pytest.mark.parametrize(
    ("skeleton", "options", "published"),
    [
        (H36M_16, VARIANTS["gt"], 287_923),
        (H36M_16, VARIANTS["gt"] | {"non_local": "pooled"}, 455_283),
        (H36M_17, VARIANTS["benchmark"], 2_731_840),
    ],
)
def test_the_modulated_gcn_has_the_published_number_of_parameters(skeleton, options, published):
    assert count(ModulatedGCN(skeleton, **options), normal(2, skeleton.num_joints, 2)) == published


def test_the_refinement_head_has_the_published_number_of_parameters():
    assert count(RefineHead(), normal(2, 17, 3), normal(2, 17, 3)) == 140_322


def test_the_dead_block_changes_nothing_and_learns_nothing(denoiser):
    network, variables, apply = denoiser
    inputs = denoiser_inputs(H36M_17, 2)
    gradient = jax.jit(
        jax.grad(lambda params: jnp.sum(network.apply(variables | {"params": params}, *inputs, train=False)))
    )
    dead = gradient(variables["params"])["modulation_unused"]["project"]
    assert all(not np.any(leaf) for leaf in dead.values())
    alive = {name: leaf for name, leaf in variables["params"].items() if name != "modulation_unused"}
    lean = StepModulatedGCN(H36M_17, 32, 1, release_dead_block=False)
    result = jax.jit(lambda: lean.apply(variables | {"params": alive}, *inputs, train=False))()
    np.testing.assert_allclose(result, apply(*inputs), atol=1e-5)


def test_one_step_for_all_equals_the_same_step_for_each(denoiser):
    x, cond, _ = denoiser_inputs(H36M_17, 3)
    apply = denoiser[2]
    np.testing.assert_allclose(apply(x, cond, jnp.int32(7)), apply(x, cond, jnp.full(3, 7)), atol=1e-5)
    assert np.abs(apply(x, cond, jnp.int32(7)) - apply(x, cond, jnp.int32(60))).max() > 1e-3


def test_frames_and_examples_are_independent(denoiser):
    x, cond, k = denoiser_inputs(H36M_17, 2, frames=3)
    apply = denoiser[2]
    whole = apply(x, cond, k)
    assert whole.shape == (2, 3, 17, 5)
    moved = apply(x[::-1, ::-1], cond[::-1, ::-1], k[::-1])
    np.testing.assert_allclose(moved, whole[::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(apply(x.at[0].set(9), cond, k)[1], whole[1], atol=1e-5)


def test_the_step_reaches_the_noise_only_after_the_trunk(denoiser):
    network, variables, _ = denoiser
    x, cond, k = denoiser_inputs(H36M_17, 2)

    def trunk(k: jax.Array) -> jax.Array:
        _, captured = network.apply(variables, x, cond, k, train=False, capture_intermediates=True)
        return captured["intermediates"]["trunk"]["__call__"][0]

    np.testing.assert_array_equal(trunk(k), trunk(k + 1))


def test_hypotheses_under_vmap_are_one_large_product_each(denoiser):
    network, variables, apply = denoiser
    x, cond, _ = denoiser_inputs(H36M_17, 4)
    many = jnp.stack([x, 2 * x, -x])

    def sample(x: jax.Array) -> jax.Array:
        return network.apply(variables, x, cond, jnp.int32(3), train=False)

    for hypothesis, result in zip(many, jax.jit(jax.vmap(sample))(many), strict=True):
        np.testing.assert_allclose(result, apply(hypothesis, cond, jnp.int32(3)), atol=1e-5)
    text = jax.jit(jax.vmap(sample)).lower(many).as_text()
    assert "while" not in text
    # Two graph convolutions of the trunk's block: 3 hypotheses x 17 joints x 4 examples of width 32, in one product.
    assert text.count("tensor<3x68x32xf32>, tensor<32x64xf32>") == 2


def test_training_changes_the_statistics_and_dropout_follows_the_example():
    network = ModulatedGCN(H36M_17, 32, 1, dropout=0.5, non_local="embedded_gaussian")
    x, index = normal(6, 1, 17, 2), jnp.array([4, 8, 15, 16, 23, 42])
    variables = jax.jit(lambda: network.init(KEY, x, train=False))()

    @jax.jit
    def train(x: jax.Array, index: jax.Array) -> tuple:
        rngs = {"dropout": jax.random.key(1)}
        return network.apply(variables, x, train=True, index=index, rngs=rngs, mutable=["batch_stats"])

    poses, updates = train(x, index)
    assert poses.shape == (6, 1, 17, 3)
    before, after = (jax.tree.leaves(part["batch_stats"]) for part in (variables, updates))
    assert all(np.any(old != new) for old, new in zip(before[2:], after[2:], strict=True))
    order = jnp.array([5, 2, 0, 1, 4, 3])
    np.testing.assert_allclose(train(x[order], index[order])[0], poses[order], atol=1e-4)
    assert np.abs(train(x, index + 1)[0] - poses).max() > 1e-3


def test_one_training_pass_on_eight_devices_equals_one_device():
    options = {"width": 32, "num_layers": 1, "dropout": 0.2, "non_local": "embedded_gaussian"}
    one, eight = ModulatedGCN(H36M_17, **options), ModulatedGCN(H36M_17, axis_name="devices", **options)
    x, index = normal(8, 1, 17, 2), jnp.arange(8) + 100
    variables = jax.jit(lambda: one.init(KEY, x, train=False))()

    def train(network, x, index):
        rngs = {"dropout": jax.random.key(1)}
        return network.apply(variables, x, train=True, index=index, rngs=rngs, mutable=["batch_stats"])

    poses, updates = jax.jit(lambda *inputs: train(one, *inputs))(x, index)
    shares, their_updates = jax.pmap(lambda *inputs: train(eight, *inputs), "devices")(x[:, None], index[:, None])
    np.testing.assert_allclose(shares[:, 0], poses, atol=1e-5)
    for theirs, mine in zip(jax.tree.leaves(their_updates), jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(theirs, np.broadcast_to(mine, theirs.shape), atol=1e-6)


def test_bfloat16_is_near_float32_and_keeps_float32_parameters(denoiser):
    _, variables, apply = denoiser
    inputs = denoiser_inputs(H36M_17, 4)
    low = StepModulatedGCN(H36M_17, 32, 1, dtype=jnp.bfloat16)
    created = jax.eval_shape(lambda: low.init(KEY, *inputs, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(created)} == {jnp.dtype("float32")}
    expected, found = apply(*inputs), jax.jit(lambda: low.apply(variables, *inputs, train=False))()
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_refinement_mixes_x_and_y_and_keeps_z():
    predicted, moved = normal(3, 2, 17, 3), normal(3, 2, 17, 3)
    head = RefineHead(hidden=8)
    refined = head.apply(head.init(KEY, predicted, moved, train=False), predicted, moved, train=False)
    np.testing.assert_array_equal(refined[..., 2], predicted[..., 2])
    low, high = jnp.minimum(predicted, moved)[..., :2], jnp.maximum(predicted, moved)[..., :2]
    assert np.all((refined[..., :2] >= low - 1e-6) & (refined[..., :2] <= high + 1e-6))


@pytest.mark.parametrize("width", [16, 100])
def test_a_width_without_a_step_embedding_is_refused(width: int):
    with pytest.raises(UserError, match=f"multiple of 16, at least 32, found {width}"):
        StepModulatedGCN(H36M_17, width).init(KEY, *denoiser_inputs(H36M_17, 1), train=False)
