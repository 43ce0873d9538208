"""The work of a call fits the memory it may need, whatever the hypotheses and windows, and results do not change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.evaluation import jobs
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.workload import CPU_BYTES, KEPT_COPIES, Needs, choose_workload, default_budget, live_bytes
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17

NEEDS = Needs(drawing=300_000, kept=204)


@pytest.mark.parametrize("hypotheses", [1, 10, 97, 1000])
@pytest.mark.parametrize("budget", [10**7, 10**8, 10**9])
def test_a_call_fits_its_budget(hypotheses, budget):
    windows, chunk = choose_workload(NEEDS, 256, hypotheses, budget)
    at_once = hypotheses if chunk is None else chunk
    assert 1 <= windows <= 256
    assert 1 <= at_once <= hypotheses
    assert windows * (at_once * NEEDS.drawing + hypotheses * KEPT_COPIES * NEEDS.kept) <= budget


def test_what_fits_whole_is_not_cut():
    assert choose_workload(NEEDS, 16, 10, 10**9) == (16, None)


def test_what_fits_nowhere_goes_one_by_one():
    assert choose_workload(NEEDS, 256, 10, 1) == (1, 1)


def test_the_processor_has_a_budget_of_its_own():
    assert default_budget() == CPU_BYTES


def test_live_bytes_are_those_of_values_that_are_still_needed():
    x = jnp.zeros(250)  # 1000 bytes

    def chain(x: jax.Array) -> jax.Array:
        for _ in range(5):
            x = jnp.tanh(x)
        return x

    def fan(x: jax.Array) -> jax.Array:
        first, second, third = jnp.tanh(x), jnp.sin(x), jnp.cos(x)
        return first * second * third

    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, _: (chain(carry), None), x, None, length=100)[0]

    # A value, and the one made of it.
    assert live_bytes(jax.make_jaxpr(chain)(x).jaxpr) == 2000
    assert live_bytes(jax.make_jaxpr(fan)(x).jaxpr) == 4000
    # The loop's result and the values of one turn, however many there are.
    assert live_bytes(jax.make_jaxpr(loop)(x).jaxpr) == 3000


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    rng = np.random.default_rng(0)
    poses = 0.3 * rng.standard_normal((40, 17, 3)).astype(np.float32)
    return ClipSet.build([Clip(poses[..., :2] / 4, poses - poses[:, :1], None, "S1", "walk")], H36M_17)


def test_results_do_not_depend_on_the_memory(clips, monkeypatch):
    config = config_for("diffupose")
    config.lifter.update(width=32, num_layers=1)
    config.diffusion.steps = 3
    lifter = build_lifter(config)
    variables = jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter))
    chosen = []

    def choose(*given):
        chosen.append(choose_workload(*given))
        return chosen[-1]

    monkeypatch.setattr(jobs, "choose_workload", choose)
    found = []
    for memory in (10.0, 0.0001):
        job = Job(Sampling(6, flip="half"), ("all", "mean"), 8, memory=memory)
        found.append(predict_frames("test", lifter, variables, clips, np.arange(40), job))
    whole, cut = chosen
    assert whole == (8, None)
    assert cut.windows < 8
    assert cut.chunk is not None
    for name in ("all", "mean"):
        np.testing.assert_allclose(found[0][name], found[1][name], atol=2e-6, err_msg=name)
