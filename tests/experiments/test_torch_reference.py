"""The PyTorch networks beside which ours are timed do the same work."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import jax
import pytest

from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter

pytest.importorskip("torch")

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
KNOWN = ("mixste", "poseformer", "d3dp", "diff3dhpe_mixste", "diffhpe_2d", "diffhpe_wrapper")


@pytest.fixture(scope="module")
def part():
    """Imports a module of the benchmark by its name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(EXPERIMENTS)
        yield importlib.import_module


def tiny_case(part, name: str):
    (case,) = part("benchmark_lifters").find_cases(("small",), (name,), tiny=True)
    return case.config


@pytest.mark.parametrize("name", KNOWN)
def test_they_have_as_many_weights_as_ours(part, name):
    config = tiny_case(part, name)
    lifter = build_lifter(config)
    ours = jax.eval_shape(lifter.init, jax.random.key(0), example_batch(lifter))["params"]
    theirs = part("torch_reference").make_network(config)
    trained = sum(weights.numel() for weights in theirs.parameters() if weights.requires_grad)
    assert trained == sum(leaf.size for leaf in jax.tree.leaves(ours))


@pytest.mark.parametrize("section", ["train", "sample"])
@pytest.mark.parametrize("name", KNOWN)
def test_the_program_times_a_case(part, name, section, monkeypatch, capsys):
    config = tiny_case(part, name)
    config.diffusion.sampling_steps = 2
    asked = part("benchmark_reference").Asked(section, name, 6, 2, 1, config.to_json())
    for key, value in asked.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    part("torch_reference").main()
    found = json.loads(capsys.readouterr().out)
    assert found["calls"] > 0
    assert found["seconds"] > 0


def test_it_says_which_cases_it_does_not_have(part, monkeypatch, capsys):
    asked = part("benchmark_reference").Asked("train", "x", 6, 2, 1, tiny_case(part, "diffupose").to_json())
    for key, value in asked.environment().items():
        monkeypatch.setenv(key, value)
    part("torch_reference").main()
    assert json.loads(capsys.readouterr().out) == {"calls": 0}
