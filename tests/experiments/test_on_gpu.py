"""The program for machines with an accelerator runs on any at tiny sizes, and its tables have what was asked for."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def load():
    """Imports a module of the folder of experiments by its name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(EXPERIMENTS)  # as it is for a program

        def by_name(name: str):
            return importlib.import_module(name)

        yield by_name


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax raises floats to integer powers, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize(
    "only", [("parity", "sample"), pytest.param(("train", "profile", "curves"), marks=pytest.mark.repeats)]
)
def test_the_quick_mode_measures_and_writes_both_files(load, tmp_path, only):
    assert load("on_gpu").main(["--quick", "--output", str(tmp_path), "--only", *only]) == 0
    found = json.loads((tmp_path / "on_gpu.json").read_text())
    assert set(only) <= set(found)
    assert not found["left out"]
    text = (tmp_path / "on_gpu.md").read_text()
    if "parity" in only:
        assert f"Parity: {len(found['parity'])} of {len(found['parity'])} vectors" in text
        assert all(0 <= row["share"] <= 1 for row in found["parity"])
    for name in {"train", "sample"} & set(only):
        assert [row["precision"] for row in found[name]] == ["float32", "bfloat16"]
        assert all(row["frames/s"] > 0 and row["FLOP/s"] > 0 for row in found[name])
        assert f"| {name} | precision |" in text
    if "profile" in only:
        assert all(0 < len(row["costs"]) <= 3 for row in found["profile"])
        assert all(0 < share <= 1 for row in found["profile"] for _, share in row["costs"])
    if "curves" in only:
        single, low = (row["losses"] for row in found["curves"])
        assert len(single) == len(low) == 4
        assert single == pytest.approx(low, rel=0.05)


def test_what_time_is_wanting_for_is_named(load, tmp_path):
    load("on_gpu").main(["--quick", "--output", str(tmp_path), "--minutes", "0", "--only", "parity", "train"])
    assert json.loads((tmp_path / "on_gpu.json").read_text())["left out"] == ["parity", "train"]
    assert "Left out for want of time: parity, train." in (tmp_path / "on_gpu.md").read_text()


def test_the_shell_script_takes_a_folder_and_options(tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    run = ["sh", str(EXPERIMENTS / "on_gpu.sh")]
    environment = {**os.environ, "PYTHON": str(fake)}
    for given, expected in (
        ([], "experiments/on_gpu.py --output runs/on_gpu"),
        (["--quick"], "experiments/on_gpu.py --output runs/on_gpu --quick"),
        (["there", "--quick"], "experiments/on_gpu.py --output there --quick"),
    ):
        assert subprocess.check_output([*run, *given], env=environment, text=True).strip() == expected


def test_products_in_loops_count_as_often_as_they_run(load):
    def once(x: jax.Array) -> jax.Array:
        return x @ x

    def often(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, _: (once(carry), None), x, None, length=7)[0]

    count, square = load("flops").count_products, jnp.eye(4)
    # Two operands and a result of 16 numbers of four bytes.
    flops, moved = count(once, square)
    assert (flops, moved) == (2 * 4**3, 3 * 16 * 4)
    assert count(jax.jit(often), square) == (7 * flops, 7 * moved)
    assert count(lambda x: jax.vmap(once)(x), jnp.zeros((3, 4, 4))) == (3 * flops, 3 * moved)
