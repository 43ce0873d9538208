"""MixSTE as a lifter and as a denoiser: sizes, parts, and an independent implementation as the reference."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffpose_jax.errors import UserError
from diffpose_jax.interop.mixste import (
    diff3dhpe_backbone_variables,
    mixste_features_variables,
    mixste_variables,
)
from diffpose_jax.models.attention import DropPath
from diffpose_jax.models.mixste import MixSTE

from ..parity.transformer_reference import backbone_vector
from ..parity.vectors import Vector
from ..test_parity import compare

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def drawn(network: nn.Module, *inputs: jax.Array) -> dict:
    """Variables of a network with nothing at zero, drawn without running it."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, train=False))
    return jax.tree.map(lambda leaf: 0.3 * normal(*leaf.shape), shapes)


def apply(network: nn.Module, variables: dict, *inputs: jax.Array, **options) -> np.ndarray:
    return np.asarray(jax.jit(functools.partial(network.apply, train=False, **options))(variables, *inputs))


def count(network: nn.Module, channels: int, *, k: bool = False) -> int:
    x = jnp.zeros((1, network.frames, network.num_joints, channels))
    step = jnp.zeros(1, jnp.int32) if k else None
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), x, step, train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (MixSTE(243), 33_783_811),
        (MixSTE(81), 33_700_867),
        (MixSTE(27), 33_673_219),
        (MixSTE(27, width=64), 539_139),
        (MixSTE(9, width=32, num_layers=4), 69_571),
    ],
    ids=lambda value: None if isinstance(value, int) else f"{value.frames}-{value.width}",
)
def test_the_lifter_has_as_many_parameters_as_the_release(network, expected):
    assert count(network, 2) == expected


@pytest.mark.parametrize(
    ("frames", "options", "expected"),
    [
        (243, {"step": "once"}, 34_835_459),
        (81, {"step": "once"}, 34_752_515),
        (27, {"step": "once"}, 34_724_867),
        (243, {"step": "blocks", "pde": True}, 43_757_059),
        (81, {"step": "blocks", "pde": True}, 43_674_115),
        (243, {"step": "blocks", "pde": True, "middle_frame": True}, 43_757_303),
        (243, {"pde": True}, 33_785_347),
        (27, {"pde": True}, 33_674_755),
    ],
)
def test_the_denoisers_have_as_many_parameters_as_the_releases(frames, options, expected):
    assert count(MixSTE(frames, **options), 5, k="step" in options) == expected


@pytest.mark.parametrize("middle_frame", [False, True])
@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize("pde", [False, True])
def test_the_denoiser_is_the_one_described(pde: bool, step: bool, middle_frame: bool):
    compare(backbone_vector(7, pde=pde, step=step, middle_frame=middle_frame))


def test_other_sizes_and_epsilons_are_those_of_the_config():
    sizes = {"num_frame": 4, "num_joints": 15, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 1.5}
    compare(backbone_vector(8, pde=True, step=True, middle_frame=False, **sizes, ln_eps=1e-3, head_ln_eps=1e-2))


@pytest.fixture(scope="module")
def recorded() -> Vector:
    return backbone_vector(7, pde=True, step=True, middle_frame=False)


@pytest.mark.parametrize("slip", [{"ln_eps": 1e-5}, {"head_ln_eps": 1e-3}, {"pde_attention": False}, {"num_heads": 2}])
def test_a_slip_is_noticed(recorded: Vector, slip: dict):
    with pytest.raises(AssertionError):
        compare(replace(recorded, config=recorded.config | slip))


def test_a_denoiser_without_its_step_or_with_left_over_entries_is_refused(recorded: Vector):
    with pytest.raises(UserError, match="entries not understood"):
        mixste_variables(
            {**recorded.weights, "Spatial_patch_to_embedding.weight": normal(16, 5)}
            | {"Spatial_patch_to_embedding.bias": normal(16)}
        )
    missing = {key: value for key, value in recorded.weights.items() if key != "TTEblocks.1.mlp.fc2.bias"}
    with pytest.raises(UserError, match=r"TTEblocks\.1\.mlp\.fc2\.bias"):
        diff3dhpe_backbone_variables(missing)


def test_hypotheses_are_a_vmap_and_one_step_serves_all_examples():
    network = MixSTE(5, width=16, num_layers=2, num_heads=4, step="blocks", pde=True)
    x, k = normal(3, 2, 5, 17, 5), jnp.array(400, jnp.int32)
    variables = drawn(network, x[0], k)
    poses = jax.jit(jax.vmap(lambda x: network.apply(variables, x, k, train=False)))(x)
    for hypothesis, pose in zip(x, poses, strict=True):
        alone = apply(network, variables, hypothesis, jnp.array([400, 400], jnp.int32))
        np.testing.assert_allclose(pose, alone, atol=1e-5)


@pytest.mark.parametrize("step", ["once", "blocks"])
def test_every_example_is_denoised_for_its_own_step(step: str):
    network = MixSTE(3, width=16, num_layers=2, num_heads=4, step=step)
    x, k = normal(2, 3, 17, 5), jnp.array([10, 700], jnp.int32)
    variables = drawn(network, x, k)
    together = apply(network, variables, x, k)
    for example in range(2):
        alone = apply(network, variables, x[example : example + 1], k[example])
        np.testing.assert_allclose(together[example : example + 1], alone, atol=1e-5)
    swapped = apply(network, variables, x, k[::-1])
    assert np.abs(swapped - together).max() > 1e-3


def test_features_are_what_the_last_layer_sees():
    entries = backbone_vector(9, pde=False, step=False, middle_frame=False).weights
    named = {key.replace("fusion_layer", "Spatial_patch_to_embedding"): value for key, value in entries.items()}
    network, x = MixSTE(5, width=16, num_layers=3, num_heads=4), normal(2, 5, 17, 5)
    variables = mixste_variables(named)
    features = apply(network, variables, x, features=True)
    assert features.shape == (2, 5, 17, 16)
    pose = features @ entries["head.1.weight"].T + entries["head.1.bias"]
    np.testing.assert_allclose(apply(network, variables, x), pose, atol=1e-5)

    headless = {key.replace("head.0", "head"): value for key, value in named.items() if not key.startswith("head.1")}
    conditioner = mixste_features_variables(headless)
    np.testing.assert_array_equal(apply(network, conditioner, x, features=True), features)


def dropped_branches(network: nn.Module, x: np.ndarray) -> dict[str, tuple[float, tuple[int, ...]]]:
    """The rate of every stochastic branch of a network, and the shape it acts on, by path."""
    found = {}

    def look(call, args, kwargs, context):
        if isinstance(context.module, DropPath):
            found["/".join(context.module.path)] = (context.module.rate, args[0].shape)
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        jax.eval_shape(lambda: network.init(jax.random.key(0), x, train=False))
    return found


def test_frames_are_dropped_in_spatial_and_joints_in_temporal_blocks_more_often_with_depth():
    found = dropped_branches(
        MixSTE(5, width=16, num_layers=3, num_heads=4, drop_path=0.1), np.zeros((2, 5, 17, 2), "f")
    )
    assert len(found) == 12
    for path, (rate, shape) in found.items():
        stage, layer = path.split("/")[0].split("_")
        assert shape == {"spatial": (2, 5, 17, 16), "temporal": (2, 17, 5, 16)}[stage]
        assert rate == pytest.approx([0, 0.05, 0.1][int(layer)])


def test_training_draws_belong_to_examples():
    network = MixSTE(5, width=16, num_layers=3, num_heads=4, drop_path=0.9)
    x, index = normal(4, 5, 17, 2), np.array([11, 5, 2, 90])
    variables = drawn(network, x)

    @jax.jit
    def train(x, index):
        return network.apply(variables, x, train=True, index=index, rngs={"dropout": jax.random.key(1)})

    np.testing.assert_allclose(train(x[1:3], index[1:3]), train(x, index)[1:3], atol=1e-5)
    assert np.abs(train(x, index + 1) - train(x, index)).max() > 1e-2


def test_position_tables_start_at_zero_and_linear_layers_as_torch_does():
    network = MixSTE(5, width=16, num_layers=1, num_heads=4)
    init = jax.jit(network.init, static_argnames="train")
    params = init(jax.random.key(0), jnp.zeros((1, 5, 17, 2)), train=False)["params"]
    assert not np.any(params["spatial_position"])
    assert not np.any(params["temporal_position"])
    expand = params["spatial_0"]["expand"]["kernel"]
    assert 0.2 < np.abs(expand).max() <= 0.25


def test_half_precision_stays_near_single():
    x = normal(2, 5, 17, 2)
    single, half = (MixSTE(5, width=16, num_layers=2, num_heads=4, dtype=t) for t in (jnp.float32, jnp.bfloat16))
    variables = drawn(single, x)
    y = apply(half, variables, x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, apply(single, variables, x), atol=0.1)
