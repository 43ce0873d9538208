"""MixSTE as a lifter and as a denoiser: sizes, parts, and an independent implementation as the reference."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffpose_jax.errors import UserError
from diffpose_jax.interop.mixste import diff3dhpe_backbone_variables, mixste_features_variables, mixste_variables
from diffpose_jax.models.attention import DropPath
from diffpose_jax.models.mixste import MixSTE

from ..parity.transformer_reference import backbone_vector
from ..parity.vectors import Vector
from ..test_parity import compare
from .networks import count_parameters, draw_variables, evaluate, train

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


SMALL = {"frames": 3, "width": 16, "num_layers": 2, "num_heads": 4}


def count(network: nn.Module, channels: int, *, k: bool = False) -> int:
    x = jnp.zeros((1, network.frames, network.num_joints, channels))
    return count_parameters(network, x, jnp.zeros(1, jnp.int32) if k else None)


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


# Half of the combinations hold every pair of choices.
DESCRIBED = [
    pytest.param(pde, step, middle_frame, marks=() if (pde ^ step) == middle_frame else pytest.mark.slow)
    for pde, step, middle_frame in itertools.product([False, True], repeat=3)
]


@pytest.mark.parametrize(("pde", "step", "middle_frame"), DESCRIBED)
def test_the_denoiser_is_the_one_described(pde: bool, step: bool, middle_frame: bool):
    compare(backbone_vector(7, pde=pde, step=step, middle_frame=middle_frame))


def test_other_sizes_and_epsilons_are_those_of_the_config():
    sizes = {"num_frame": 4, "num_joints": 15, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 1.5}
    compare(backbone_vector(8, pde=True, step=True, middle_frame=False, **sizes, ln_eps=1e-3, head_ln_eps=1e-2))


@pytest.fixture(scope="module")
def recorded() -> Vector:
    return backbone_vector(7, pde=True, step=True, middle_frame=False)


@pytest.mark.parametrize("wrong", [{"ln_eps": 1e-5}, {"head_ln_eps": 1e-3}, {"pde_attention": False}, {"num_heads": 2}])
def test_a_wrong_option_fails_the_comparison(recorded: Vector, wrong: dict):
    with pytest.raises(AssertionError):
        compare(replace(recorded, config=recorded.config | wrong))


def test_a_denoiser_without_its_step_or_with_left_over_entries_is_refused(recorded: Vector):
    with pytest.raises(UserError, match="entries not understood"):
        mixste_variables(
            {**recorded.weights, "Spatial_patch_to_embedding.weight": normal(16, 5)}
            | {"Spatial_patch_to_embedding.bias": normal(16)}
        )
    missing = {key: value for key, value in recorded.weights.items() if key != "TTEblocks.1.mlp.fc2.bias"}
    with pytest.raises(UserError, match=r"TTEblocks\.1\.mlp\.fc2\.bias"):
        diff3dhpe_backbone_variables(missing)


def test_hypotheses_are_a_vmap_and_one_timestep_serves_all_examples():
    network = MixSTE(**SMALL, step="blocks")
    x, k = normal(3, 2, 3, 17, 5), jnp.array(400, jnp.int32)
    variables = draw_variables(network, x[0], k)
    poses = jax.jit(jax.vmap(lambda x: network.apply(variables, x, k, train=False)))(x)
    for hypothesis, pose in zip(x, poses, strict=True):
        alone = evaluate(network, variables, hypothesis, jnp.array([400, 400], jnp.int32))
        np.testing.assert_allclose(pose, alone, atol=1e-5)


@pytest.mark.parametrize("step", ["once", "blocks"])
def test_every_example_is_denoised_for_its_own_timestep(step: str):
    network = MixSTE(**SMALL, step=step)
    x, k = normal(2, 3, 17, 5), jnp.array([10, 700], jnp.int32)
    variables = draw_variables(network, x, k)
    together = evaluate(network, variables, x, k)
    for example in range(2):
        alone = evaluate(network, variables, x, jnp.full(2, k[example]))
        np.testing.assert_allclose(together[example], alone[example], atol=1e-5)
    swapped = evaluate(network, variables, x, k[::-1])
    assert np.abs(swapped - together).max() > 1e-3


def test_features_are_the_input_of_the_last_layer():
    entries = backbone_vector(9, pde=False, step=False, middle_frame=False).weights
    named = {key.replace("fusion_layer", "Spatial_patch_to_embedding"): value for key, value in entries.items()}
    network, x = MixSTE(5, width=16, num_layers=2, num_heads=4), normal(2, 5, 17, 5)
    variables = mixste_variables(named)
    features = np.asarray(evaluate(network, variables, x, features=True))
    assert features.shape == (2, 5, 17, 16)
    pose = features @ entries["head.1.weight"].T + entries["head.1.bias"]
    np.testing.assert_allclose(evaluate(network, variables, x), pose, atol=1e-5)

    headless = {key.replace("head.0", "head"): value for key, value in named.items() if not key.startswith("head.1")}
    conditioner = mixste_features_variables(headless)
    np.testing.assert_array_equal(evaluate(network, conditioner, x, features=True), features)


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


def test_stochastic_depth_follows_the_example_and_not_its_batch():
    network = MixSTE(**SMALL, drop_path=0.9)
    x, index, order = normal(4, 3, 17, 2), np.array([11, 5, 2, 90]), np.array([2, 1, 1, 3])
    variables = draw_variables(network, x)
    y, _ = train(network, variables, x, index=index)
    np.testing.assert_allclose(train(network, variables, x[order], index=index[order])[0], y[order], atol=1e-5)
    assert np.abs(train(network, variables, x, index=index + 1)[0] - y).max() > 1e-2


def test_position_tables_start_at_zero_and_linear_layers_as_torch_does():
    network = MixSTE(3, width=16, num_layers=1, num_heads=4)

    @jax.jit
    def initialise():
        params = network.init(jax.random.key(0), jnp.zeros((1, 3, 17, 2)), train=False)["params"]
        return params["spatial_position"], params["temporal_position"], params["spatial_0"]["expand"]["kernel"]

    spatial_position, temporal_position, expand = initialise()
    assert not np.any(spatial_position)
    assert not np.any(temporal_position)
    assert 0.2 < np.abs(expand).max() <= 0.25


def test_half_precision_stays_near_single():
    x = normal(2, 3, 17, 2)
    single, half = (MixSTE(**SMALL, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    variables = draw_variables(single, x)
    y = evaluate(half, variables, x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, evaluate(single, variables, x), atol=0.1)
