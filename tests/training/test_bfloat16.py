"""In bfloat16 networks compute, and nothing else: parameters, statistics, softmax, sums and losses are float32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from ml_collections import ConfigDict

from diffpose_jax.config import read_options
from diffpose_jax.data.archives import load_archive
from diffpose_jax.data.windows import centred_windows, device_clips
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.models.linear import Linear
from diffpose_jax.parallel import AXIS, pmap_step, replicate, shard
from diffpose_jax.presets import parse_argument, start
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.training.state import TrainState, create_state, make_optimizer
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, make_step

TRANSFORMER = {"frames": 3, "width": 16, "num_layers": 1, "num_heads": 2, "drop_path": 0.0}
GRAPH = {"width": 32, "num_layers": 1}


def tiny(name: str, sizes: dict[str, float], precision: str) -> ConfigDict:
    config = config_for(name)
    config.lifter.update(**sizes, compute_dtype=precision)
    return config


def train_steps(config: ConfigDict, archive: str, count: int) -> tuple[TrainState, np.ndarray]:
    """The state after so many steps of batch 16, and the loss of each dispatch of 10."""
    lifter = build_lifter(config, AXIS)
    training = TrainingOptions(learning_rate=2e-3, ema_decay=0.0)
    optimizer = make_optimizer(training)
    clips = load_archive(archive)["train"]
    data = replicate(TrainData(device_clips(clips), centred_windows(clips, lifter.frames)))
    create = partial(create_state, lifter, optimizer, jax.random.key(0))
    state = replicate(jax.jit(create)(example_batch(lifter)))
    step = pmap_step(make_step(lifter, optimizer, 0, read_options(DataOptions, config.data, "data"), training))
    losses = []
    for first in range(0, count, 10):
        examples = examples_of_steps(first, 10, 16, clips.num_frames)
        split = Examples(*(np.moveaxis(shard(np.moveaxis(part, 1, 0)), 2, 1) for part in examples))
        state, metrics, _ = step(state, data, split)
        losses.append(float(metrics["loss"]))
    return state, np.array(losses)


@pytest.mark.parametrize(
    ("name", "sizes"), [("diffupose", GRAPH), pytest.param("mixste", TRANSFORMER, marks=pytest.mark.repeats)]
)
def test_training_goes_as_in_float32_and_its_state_stays_float32(archive, name, sizes):
    state, low = train_steps(tiny(name, sizes, "bfloat16"), archive, 80)
    _, single = train_steps(tiny(name, sizes, "float32"), archive, 80)
    assert low[-1] < 0.8 * low[0]
    np.testing.assert_allclose(low, single, rtol=0.03)
    assert not np.array_equal(low, single)
    floats = [leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype(jnp.float32)}


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations of a traced function, those of its inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_scores_and_their_softmax_are_float32():
    lifter = build_lifter(tiny("mixste", TRANSFORMER, "bfloat16"))
    batch = example_batch(lifter, 2)
    variables = jax.eval_shape(lifter.init, jax.random.key(0), batch)
    traced = jax.make_jaxpr(lambda variables: lifter.loss(variables, jax.random.key(0), batch)[0])(variables)
    taking = [one for one in equations(traced.jaxpr) if one.invars]
    found = [(one.primitive.name, one.invars[0].aval, one.outvars[0].aval) for one in taking]
    exponentials = [taken.dtype for name, taken, _ in found if name == "exp"]
    assert exponentials
    assert set(exponentials) == {jnp.dtype(jnp.float32)}
    products = [(taken.dtype, made.shape[-1]) for name, taken, made in found if name == "dot_general"]
    assert {dtype for dtype, channels in products if channels > 1} == {jnp.dtype(jnp.bfloat16)}
    # The means of layer normalisation, which are products on CPU.
    assert {dtype for dtype, channels in products if channels == 1} == {jnp.dtype(jnp.float32)}


def test_gradients_of_biases_are_summed_in_float32():
    layer, rng = Linear(4, dtype=jnp.bfloat16), np.random.default_rng(0)
    x = jnp.zeros((4096, 2))
    variables = layer.init(jax.random.key(0), x)
    upstream = jnp.asarray(rng.standard_normal((4096, 4)) + 0.1, jnp.bfloat16)
    _, pull = jax.vjp(lambda variables: layer.apply(variables, x), variables)
    expected = np.asarray(upstream, np.float64).sum(axis=0)
    np.testing.assert_allclose(jax.jit(pull)(upstream)[0]["params"]["bias"], expected, rtol=1e-4)


def test_the_argument_of_a_config_names_the_precision():
    assert parse_argument("human36m,cpn,243,bfloat16").precision == "bfloat16"
    config, chosen = start("mixste", "mixste", "synthetic,27,bfloat16,small")
    assert (config.lifter.compute_dtype, chosen.frames, chosen.size) == ("bfloat16", 27, "small")
    assert start("mixste", "mixste", "synthetic")[0].lifter.compute_dtype == "float32"


def test_a_method_without_the_option_says_so(monkeypatch):
    config = config_for("mixste").to_dict()
    del config["lifter"]["compute_dtype"]
    monkeypatch.setattr("diffpose_jax.presets.config_for", lambda name: ConfigDict(config))
    with pytest.raises(UserError, match="mine has no option compute_dtype, found bfloat16"):
        start("mine", "mine", "synthetic,bfloat16")
