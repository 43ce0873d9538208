"""PoseFormer as a lifter and as a denoiser of the middle frame."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffpose_jax.interop.layers import linear
from diffpose_jax.interop.poseformer import poseformer_variables
from diffpose_jax.interop.state_dict import StateDict
from diffpose_jax.models.attention import DropPath
from diffpose_jax.models.poseformer import PoseFormer

from ..parity.transformer_reference import affine, block_keys, poseformer
from ..parity.vectors import generate_weights
from .networks import count_parameters, draw_variables, evaluate

RNG = np.random.default_rng(0)
SMALL = {"frames": 5, "joint_width": 8, "num_layers": 2, "num_heads": 4}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("frames", "channels", "expected"), [(9, 2, 9_563_645), (27, 2, 9_573_455), (81, 2, 9_602_885), (81, 5, 9_602_981)]
)
def test_it_has_as_many_parameters_as_the_release(frames: int, channels: int, expected: int):
    assert count_parameters(PoseFormer(frames), jnp.zeros((1, frames, 17, channels))) == expected


def entries(channels: int, step: bool) -> dict[str, np.ndarray]:
    """A state_dict of the small network, by the rule of the recorded vectors."""
    frame = 17 * 8
    keys = [("Spatial_pos_embed", [1, 17, 8]), ("Temporal_pos_embed", [1, 5, frame])]
    keys += affine("Spatial_patch_to_embedding", channels, 8) + affine("Spatial_norm", 8)
    keys += affine("Temporal_norm", frame) + affine("head.0", frame) + affine("head.1", frame, 51)
    keys += [("weighted_mean.weight", [1, 5, 1]), ("weighted_mean.bias", [1])]
    for layer in range(2):
        keys += block_keys(f"Spatial_blocks.{layer}", 8, 16, 16 if step else 0)
        keys += block_keys(f"blocks.{layer}", frame, 2 * frame, 16 if step else 0)
    if step:
        keys += affine("time_mlp.1", 8, 16) + affine("time_mlp.3", 16, 16)
    return generate_weights(keys, 3)


@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize("pde", [False, True])
def test_the_denoiser_is_the_one_described(pde: bool, step: bool):
    weights, x, t = entries(5, step), normal(2, 5, 17, 5), np.array([999, 17]) if step else None
    network = PoseFormer(**SMALL, pde=pde, step="blocks" if step else "none")
    embedding = {key: value for key, value in weights.items() if key.startswith("time_mlp")}
    variables = poseformer_variables({key: value for key, value in weights.items() if key not in embedding})
    k = None if t is None else jnp.asarray(t, jnp.int32)
    if step:  # no such weights were released, so the converter does not read them
        source = StateDict(embedding)
        layers = {"expand": linear(source, "time_mlp.1"), "project": linear(source, "time_mlp.3")}
        variables["params"]["step"] = layers
    expected = poseformer(weights, x, t, depth=2, num_heads=4, pde=pde)
    np.testing.assert_allclose(evaluate(network, variables, x, k), expected, atol=1e-5)


def test_the_epsilon_of_the_head_is_torchs_default():
    weights = entries(2, False)
    weights["weighted_mean.weight"] *= 0.003  # pooled frames so small that a wrong epsilon shows
    x = normal(2, 5, 17, 2)
    expected = poseformer(weights, x, None, depth=2, num_heads=4, pde=False)
    found = evaluate(PoseFormer(**SMALL), poseformer_variables(weights), x, None)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_features_are_the_input_of_the_last_layer_joint_by_joint():
    weights, x, network = entries(2, False), normal(2, 5, 17, 2), PoseFormer(**SMALL)
    variables = poseformer_variables(weights)
    features = np.asarray(evaluate(network, variables, x, features=True))
    assert features.shape == (2, 1, 17, 8)
    pose = features.reshape(2, 136) @ weights["head.1.weight"].T + weights["head.1.bias"]
    np.testing.assert_allclose(evaluate(network, variables, x, None), pose.reshape(2, 1, 17, 3), atol=1e-5)


def test_frames_are_dropped_in_the_spatial_stage_and_examples_in_the_temporal_one():
    shapes = {}

    def look(call, args, kwargs, context):
        if isinstance(context.module, DropPath):
            shapes["/".join(context.module.path)] = (context.module.rate, args[0].shape)
        return call(*args, **kwargs)

    network = PoseFormer(**SMALL, drop_path=0.1)
    with nn.intercept_methods(look):
        jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((3, 5, 17, 2)), train=False))
    assert len(shapes) == 8
    for path, (rate, shape) in shapes.items():
        stage, layer = path.split("/")[0].split("_")
        assert shape == {"spatial": (3, 5, 17, 8), "temporal": (3, 1, 5, 136)}[stage]
        assert rate == pytest.approx([0, 0.1][int(layer)])


def test_hypotheses_are_a_vmap():
    network, x, k = PoseFormer(**SMALL, step="blocks", pde=True), normal(3, 2, 5, 17, 5), jnp.array([3, 3], jnp.int32)
    variables = draw_variables(network, x[0], k)
    poses = jax.jit(jax.vmap(lambda x: network.apply(variables, x, k, train=False)))(x)
    np.testing.assert_allclose(poses[1], evaluate(network, variables, x[1], k), atol=1e-5)
