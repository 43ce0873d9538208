"""Graph convolution and non-local blocks against loops over joints, and custom gradients against plain formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.models.graph import ModulatedGraphConv, build_affinity, modulated_graph_conv
from diffpose_jax.models.linear import Linear, matmul
from diffpose_jax.models.non_local import POOLING_GROUPS, EmbeddedGaussianNonLocal, PooledNonLocal
from diffpose_jax.skeleton import H36M_16, H36M_17, SKELETONS, Skeleton

RNG = np.random.default_rng(0)
GROUPS = POOLING_GROUPS["h36m16"]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def randomised(variables: dict) -> dict:
    """The same tree with every entry random and positive, so that nothing starts at zero or one."""
    leaves, tree = jax.tree.flatten(variables)
    return jax.tree.unflatten(tree, [0.2 * abs(normal(*leaf.shape)) + 0.1 for leaf in leaves])


def conv_by_loops(x, weight, modulation, mixing) -> np.ndarray:
    joints, count, _ = x.shape
    out = np.zeros((joints, count, modulation.shape[1]))
    for target in range(joints):
        for source in range(joints):
            kernel = weight[0] if source == target else weight[1]
            out[target] += mixing[target, source] * (modulation[source] * (x[source].astype(np.float64) @ kernel))
    return out


def plain_conv(x, weight, modulation, mixing):
    own, neighbour = (jnp.einsum("jnc,cd->jnd", x, kernel) * modulation[:, None] for kernel in weight)
    diagonal = jnp.diag(jnp.diag(mixing))
    return jnp.einsum("ij,jnd->ind", diagonal, own) + jnp.einsum("ij,jnd->ind", mixing - diagonal, neighbour)


def value_and_pullback(function, operands, cotangent):
    def pulled(operands, cotangent):
        value, pull = jax.vjp(function, *operands)
        return value, pull(cotangent)

    return jax.jit(pulled)(operands, cotangent)


@pytest.fixture
def operands():
    return normal(6, 4, 3), normal(2, 3, 5), normal(6, 5), normal(6, 6)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_affinity_rows_sum_to_two_with_a_unit_diagonal(skeleton: Skeleton):
    fixed = build_affinity(skeleton.adjacency())
    np.testing.assert_allclose(fixed.sum(1), 2, rtol=1e-6)
    np.testing.assert_array_equal(np.diag(fixed), 1)
    np.testing.assert_array_equal(fixed > 0, skeleton.adjacency() + np.eye(skeleton.num_joints) > 0)


def test_affinity_divides_by_the_degrees_of_the_release():
    degrees = 1 / build_affinity(H36M_16.adjacency()).min(axis=1, where=H36M_16.adjacency() > 0, initial=1)
    np.testing.assert_allclose(degrees, [3, 2, 2, 1, 2, 2, 1, 2, 4, 1, 2, 2, 1, 2, 2, 1], rtol=1e-6)


def test_graph_convolution_is_the_sum_over_source_joints(operands):
    np.testing.assert_allclose(modulated_graph_conv(*operands), conv_by_loops(*operands), atol=2e-5)


def test_the_custom_gradient_is_that_of_the_plain_formula(operands):
    cotangent = normal(6, 4, 5)
    (value, gradients), (expected, plain_gradients) = (
        value_and_pullback(function, operands, cotangent) for function in (modulated_graph_conv, plain_conv)
    )
    np.testing.assert_allclose(value, expected, atol=2e-5)
    for mine, theirs in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=5e-5)


def test_the_custom_gradient_holds_under_vmap(operands):
    x, *rest = operands
    stacked = np.stack([x, 2 * x])
    gradient = jax.grad(lambda weight, x: (modulated_graph_conv(x, weight, *rest[1:]) ** 2).sum())
    each, both = jax.jit(gradient)(rest[0], x), jax.jit(jax.vmap(gradient, (None, 0)))(rest[0], stacked)
    np.testing.assert_allclose(both, np.stack([each, 4 * each]), rtol=1e-4, atol=1e-3)


def test_the_product_over_the_last_axis_and_its_gradient():
    x, kernel, cotangent = normal(2, 3, 4), normal(4, 5), normal(2, 3, 5)
    value, gradients = value_and_pullback(matmul, (x, kernel), cotangent)
    expected, plain_gradients = value_and_pullback(
        lambda x, kernel: jnp.einsum("abc,cd->abd", x, kernel), (x, kernel), cotangent
    )
    np.testing.assert_allclose(value, expected, atol=1e-5)
    for mine, theirs in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_affinity_is_symmetrised_after_the_learned_part_is_added():
    x, layer = normal(17, 2, 3), ModulatedGraphConv(4, H36M_17)
    params = jax.tree.map(np.asarray, layer.init(jax.random.key(0), x)["params"]) | {"affinity": normal(17, 17)}
    mixing = build_affinity(H36M_17.adjacency()) + params["affinity"]
    expected = conv_by_loops(x, params["weight"], params["modulation"], (mixing + mixing.T) / 2) + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-4)


def test_relabelling_the_joints_relabels_the_result():
    order = np.roll(np.arange(17), 5)
    names, parents = np.array(H36M_17.joints)[order], np.array(H36M_17.parents)[order]
    place = np.argsort(order)
    relabelled = Skeleton("rolled", tuple(names), tuple(-1 if p < 0 else int(place[p]) for p in parents), (), ())
    x, layer = normal(17, 2, 3), ModulatedGraphConv(4, H36M_17)
    params = layer.init(jax.random.key(0), x)["params"] | {"affinity": normal(17, 17)}
    moved = params | {"modulation": params["modulation"][order], "affinity": params["affinity"][order][:, order]}
    result = ModulatedGraphConv(4, relabelled).apply({"params": moved}, x[order])
    np.testing.assert_allclose(result, layer.apply({"params": params}, x)[order], atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "features", "bound"),
    [(2, 128, 0.15307), (128, 128, 0.02685), (128, 3, 0.17539), (5, 384, 0.06681), (384, 5, 0.07884)],
)
def test_weights_start_uniform_within_the_releases_bounds(channels: int, features: int, bound: float):
    params = ModulatedGraphConv(features, H36M_16).init(jax.random.key(0), jnp.zeros((16, 1, channels)))["params"]
    largest = np.abs(params["weight"]).max()
    assert 0.9 * bound < largest <= bound * 1.0001
    modulation_bound = 1.414 * (6 / (16 + features)) ** 0.5
    assert 0.8 * modulation_bound < np.abs(params["modulation"]).max() <= modulation_bound
    assert np.abs(params["bias"]).max() <= features**-0.5
    np.testing.assert_array_equal(params["affinity"], np.float32(1e-6))


def test_modulation_starts_at_one_where_asked():
    params = ModulatedGraphConv(8, H36M_16, "ones").init(jax.random.key(0), jnp.zeros((16, 1, 2)))["params"]
    np.testing.assert_array_equal(params["modulation"], 1)


def test_linear_layers_start_as_torch_does():
    params = Linear(200).init(jax.random.key(0), jnp.zeros((1, 25)))["params"]
    for values in params.values():
        assert 0.19 < np.abs(values).max() <= 0.2


@pytest.mark.parametrize("block", [EmbeddedGaussianNonLocal(), PooledNonLocal(GROUPS)])
def test_non_local_blocks_start_as_the_identity(block):
    x = normal(16, 3, 8)

    @jax.jit
    def start():
        y, variables = block.init_with_output(jax.random.key(0), x, train=False)
        return y, block.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    for y in start():
        np.testing.assert_array_equal(y, x)


def embed(params: dict, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x @ params["embed"]["kernel"] + params["embed"]["bias"], 3, axis=-1)


def finish(variables: dict, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    y = y @ params["project"]["kernel"] + params["project"]["bias"]
    return x + (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]


def test_embedded_gaussian_block_is_unscaled_softmax_attention_over_joints():
    x, block = normal(5, 3, 8), EmbeddedGaussianNonLocal()
    variables = randomised(block.init(jax.random.key(0), x, train=False))
    theta, phi, g = embed(variables["params"], x)
    y = np.zeros_like(theta)
    for n in range(3):
        for i in range(5):
            weights = np.exp([theta[i, n] @ phi[j, n] - theta[i, n] @ phi[0, n] for j in range(5)])
            y[i, n] = sum(weights[j] * g[j, n] for j in range(5)) / weights.sum()
    np.testing.assert_allclose(block.apply(variables, x, train=False), finish(variables, x, y), rtol=1e-4)


def test_pooled_block_scores_concatenated_pairs_and_divides_by_their_count():
    x, block = normal(16, 2, 8), PooledNonLocal(GROUPS)
    variables = randomised(block.init(jax.random.key(0), x, train=False))
    variables["params"]["score"] = normal(8, 1)
    theta, phi, g = embed(variables["params"], x)
    y = np.zeros_like(theta)
    for n in range(2):
        for i in range(16):
            for group in GROUPS:
                pooled_phi, pooled_g = (np.max([part[j, n] for j in group], axis=0) for part in (phi, g))
                score = np.concatenate([theta[i, n], pooled_phi]) @ variables["params"]["score"][:, 0]
                y[i, n] += max(score, 0) / len(GROUPS) * pooled_g
    np.testing.assert_allclose(block.apply(variables, x, train=False), finish(variables, x, y), rtol=1e-4, atol=1e-4)


def test_the_embedded_gaussian_block_does_not_depend_on_the_order_of_the_joints():
    x, block, order = normal(7, 2, 8), EmbeddedGaussianNonLocal(), RNG.permutation(7)
    variables = randomised(block.init(jax.random.key(0), x, train=False))
    shuffled = block.apply(variables, x[order], train=False)
    np.testing.assert_allclose(shuffled, block.apply(variables, x, train=False)[order], rtol=1e-5, atol=1e-5)
