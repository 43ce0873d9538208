"""CSDI with graph layers: published counts, its parts against loops over joints, dependences, several devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.models.csdi_gcn import CSDIGCN, compute_vectors_first
from diffpose_jax.models.embeddings import tabulate_steps
from diffpose_jax.models.graph import PreAggregatedGraphConv, normalise_rows
from diffpose_jax.models.non_local import POOLING_GROUPS, pair_joints_release
from diffpose_jax.skeleton import H36M_16, H36M_17, HUMANEVA_15

from .networks import count_parameters, draw_variables, evaluate, shape_variables, train

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
SMALL = {"frames": 4, "width": 8, "num_layers": 2, "step_width": 16, "num_steps": 10}
NETWORK = CSDIGCN(H36M_17, **SMALL)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def variables():
    return draw_variables(NETWORK, normal(1, 4, 17, 5), jnp.int32(0))


@pytest.mark.parametrize(
    ("skeleton", "channels", "options", "published"),
    [
        (H36M_17, 5, {}, 3_201_971),
        (H36M_17, 128, {}, 3_209_843),
        (H36M_16, 5, {}, 3_047_571),
        (H36M_17, 5, {"frames": 243}, 34_938_419),
        (H36M_17, 5, {"non_local": False}, 3_065_267),
    ],
)
def test_it_has_the_published_number_of_parameters(skeleton, channels, options, published):
    network = CSDIGCN(skeleton, **options)
    x, k = jnp.zeros((1, network.frames, skeleton.num_joints, channels)), jnp.zeros(1, jnp.int32)
    assert count_parameters(network, x, k) == published


def test_vectors_that_are_computed_first_are_the_same_numbers():
    block = {"norm": {"scale": normal(8), "mean": jnp.asarray([1e-37, 0.1, 3e38])}, "kernel": normal(4, 8)}
    found = jax.jit(compute_vectors_first)(block)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, block))


def test_the_graph_divides_rows_by_their_sum():
    graph = normalise_rows(H36M_17.adjacency())
    np.testing.assert_allclose(graph.sum(axis=1), 1, rtol=1e-6)
    sums = 1 / np.diag(graph)
    np.testing.assert_allclose(sums, [4, 3, 3, 2, 3, 3, 2, 3, 5, 3, 2, 3, 3, 2, 3, 3, 2], rtol=1e-6)


def test_the_convolution_transforms_by_the_source_joint_and_then_gathers():
    x, layer = normal(17, 3, 4), PreAggregatedGraphConv(H36M_17)
    params = {"weight": normal(2, 17, 4, 4), "bias": normal(4)}
    graph, expected = normalise_rows(H36M_17.adjacency()), np.zeros((17, 3, 4)) + np.asarray(params["bias"])
    for target in range(17):
        for source in range(17):
            matrix = params["weight"][int(target != source), source]
            expected[target] += graph[target, source] * np.asarray(x[source] @ matrix, np.float64)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


def test_the_convolution_of_columns_is_that_of_rows():
    x, params = normal(17, 3, 4), {"weight": normal(2, 17, 4, 4), "bias": normal(4)}
    rows = PreAggregatedGraphConv(H36M_17).apply({"params": params}, x)
    columns = PreAggregatedGraphConv(H36M_17, axis=1).apply({"params": params}, x.swapaxes(1, 2))
    np.testing.assert_allclose(columns.swapaxes(1, 2), rows, atol=1e-5)


@pytest.mark.parametrize(("features", "bound"), [(64, 0.01242), (27, 0.02943)])
def test_the_convolution_starts_uniform_within_the_releases_bounds(features: int, bound: float):
    params = PreAggregatedGraphConv(H36M_17).init(KEY, jnp.zeros((17, 1, features)))["params"]
    assert 0.95 * bound < jnp.abs(params["weight"]).max() <= 1.001 * bound
    assert jnp.abs(params["bias"]).max() <= features**-0.5


def test_pooling_pairs_the_joints_as_written_and_leaves_the_last_out():
    pairs = ((2, 3), (5, 6), (1, 4), (0, 7), (8, 9), (10, 15), (16, 12), (13, 11))
    assert pair_joints_release(POOLING_GROUPS["h36m17"]) == pairs
    assert pair_joints_release(POOLING_GROUPS["h36m16"]) == POOLING_GROUPS["h36m16"]


def test_step_frequencies_run_from_one_to_ten_thousand():
    table = tabulate_steps(50, 128)
    assert table.shape == (50, 128)
    np.testing.assert_array_equal(table[0], np.repeat([0, 1], 64).astype(np.float32))
    steps = np.arange(50)
    for column, frequency in ((0, 1.0), (63, 10_000.0)):
        np.testing.assert_allclose(table[:, column], np.sin(frequency * steps), atol=1e-6)
        np.testing.assert_allclose(table[:, 64 + column], np.cos(frequency * steps), atol=1e-6)


def test_untrained_it_predicts_one_value_per_coordinate_everywhere():
    x, k = normal(2, 4, 17, 5), jnp.array([0, 9])
    y, _ = jax.jit(lambda: NETWORK.init_with_output(KEY, x, k, train=False))()
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:1, :1, :1], y.shape))
    assert 0 < jnp.abs(y).max() <= 8**-0.5


def test_one_timestep_for_all_equals_the_same_timestep_for_each(variables):
    x = normal(3, 4, 17, 5)
    alike = evaluate(NETWORK, variables, x, jnp.full(3, 7))
    np.testing.assert_allclose(evaluate(NETWORK, variables, x, jnp.int32(7)), alike, atol=1e-5)
    assert jnp.abs(evaluate(NETWORK, variables, x, jnp.int32(2)) - alike).max() > 1e-3


def test_examples_are_independent_and_frames_are_not(variables):
    x, k = normal(3, 4, 17, 5), jnp.array([1, 2, 3])
    y = evaluate(NETWORK, variables, x, k)
    assert y.shape == (3, 4, 17, 3)
    np.testing.assert_allclose(evaluate(NETWORK, variables, x[::-1], k[::-1]), y[::-1], atol=1e-5)
    changed = evaluate(NETWORK, variables, x.at[0, 3].add(1), k)
    np.testing.assert_allclose(changed[1:], y[1:], atol=1e-5)
    assert jnp.abs(changed[0, 0] - y[0, 0]).max() > 1e-4


def test_the_order_of_the_stacked_blocks_matters(variables):
    x, k = normal(3, 4, 17, 5), jnp.int32(3)
    turned = {
        name: {**part, "blocks": jax.tree.map(lambda leaf: leaf[::-1], part["blocks"])} if "blocks" in part else part
        for name, part in variables.items()
    }
    found = evaluate(NETWORK, turned, x, k)
    assert jnp.abs(found - evaluate(NETWORK, variables, x, k)).max() > 1e-4


def test_a_single_frame_has_no_layer_over_frames():
    network, x, k = CSDIGCN(H36M_17, **{**SMALL, "frames": 1}), normal(2, 1, 17, 5), jnp.int32(1)
    variables = shape_variables(network, x, k)
    assert "time" not in variables["params"]["blocks"]
    assert jax.eval_shape(lambda variables: network.apply(variables, x, k, train=False), variables).shape == (
        2,
        1,
        17,
        3,
    )


def test_another_number_of_frames_or_a_layout_without_groups_is_refused():
    with pytest.raises(UserError, match="sequences of 4 frames, found 5"):
        shape_variables(NETWORK, jnp.zeros((1, 5, 17, 5)), jnp.int32(0))
    with pytest.raises(UserError, match="among h36m17, h36m16, found humaneva15"):
        shape_variables(CSDIGCN(HUMANEVA_15, **SMALL), jnp.zeros((1, 4, 15, 5)), jnp.int32(0))


def test_one_training_pass_on_eight_devices_equals_one_device_and_dropout_follows_the_example():
    options = {**SMALL, "dropout": 0.3}
    one, eight = CSDIGCN(H36M_17, **options), CSDIGCN(H36M_17, axis_name="devices", **options)
    x, k, index = normal(8, 4, 17, 5), jnp.arange(8), jnp.arange(8) + 100
    variables = draw_variables(one, x, k)
    y, updates = train(one, variables, x, k, index=index)
    shares, their_updates = jax.pmap(lambda x, k, index: train(eight, variables, x, k, index=index), "devices")(
        x[:, None], k[:, None], index[:, None]
    )
    np.testing.assert_allclose(shares[:, 0], y, atol=2e-5)
    for theirs, mine in zip(jax.tree.leaves(their_updates), jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(theirs, np.broadcast_to(mine, theirs.shape), atol=1e-5)
    assert jnp.abs(train(one, variables, x, k, index=index + 1)[0] - y).max() > 1e-3


def test_the_gradient_reaches_every_parameter_but_the_biases_that_normalisation_removes(variables):
    x = normal(4, 4, 17, 5)

    @jax.jit
    @jax.grad
    def gradient(params):
        own = {**variables, "params": params}
        y, _ = NETWORK.apply(own, x, jnp.arange(4), train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(y - 1))

    leaves = jax.tree_util.tree_leaves_with_path(gradient(variables["params"]))
    dead = {jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not np.any(leaf)}
    assert dead == {"blocks/time/conv/bias", "blocks/feature/conv/bias", "blocks/non_local/project/bias"}


def test_bfloat16_is_near_float32_and_keeps_float32_parameters(variables):
    x, k = normal(3, 4, 17, 5), jnp.int32(3)
    low = NETWORK.clone(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shape_variables(low, x, k))} == {jnp.dtype("float32")}
    expected, found = evaluate(NETWORK, variables, x, k), evaluate(low, variables, x, k)
    assert found.dtype == jnp.float32
    assert 0 < jnp.abs(found - expected).max() < 0.05 * jnp.abs(expected).max()
