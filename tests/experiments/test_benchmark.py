"""The benchmark compares like with like, and its quick mode writes what it measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.data.windows import centred_windows, device_clips, gather
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17, mirror

_PATH = Path(__file__).parents[2] / "experiments" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_program", _PATH)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(_PATH.parent)  # as it is for a program
        spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax raises floats to integer powers, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    rng = np.random.default_rng(0)

    def clip(length: int) -> Clip:
        poses = rng.standard_normal((length, 17, 3), np.float32)
        return Clip(rng.standard_normal((length, 17, 2), np.float32), poses - poses[:, :1], None, "S1", "noise")

    return ClipSet.build([clip(length) for length in (3, 40, 21)], H36M_17)


@pytest.mark.parametrize("frames", [3, 27])
def test_the_numpy_generator_makes_the_windows_of_the_device(benchmark, clips, frames):
    windows, seed = centred_windows(clips, frames), 5
    order = np.random.default_rng(seed).permutation(64)
    batches = benchmark.numpy_batches(clips, windows, 16, frames, np.random.default_rng(seed), flip=False)
    for first in range(0, 64, 16):
        keypoints, poses = next(batches)
        expected = gather(device_clips(clips), windows, jnp.asarray(order[first : first + 16], jnp.int32), frames)
        np.testing.assert_array_equal(keypoints, expected.keypoints)
        np.testing.assert_array_equal(poses, expected.poses)


def test_its_flips_mirror_about_half_of_the_windows(benchmark, clips):
    windows = centred_windows(clips, 9)
    make = benchmark.numpy_batches
    straight = next(make(clips, windows, 64, 9, np.random.default_rng(0), flip=False))
    flipped = next(make(clips, windows, 64, 9, np.random.default_rng(0), flip=True))
    unchanged = 0
    for row in range(64):
        same = np.array_equal(flipped[0][row], straight[0][row])
        unchanged += same
        for found, expected in zip(flipped, straight, strict=True):
            np.testing.assert_array_equal(found[row], expected[row] if same else mirror(expected[row], H36M_17))
    assert 16 < unchanged < 48


def test_rates_are_work_over_time(benchmark):
    row = benchmark.Row("train", "case", "frames", 10, [1.0, 2.0, 5.0])
    assert row.rates() == (5.0, 2.0, 10.0)


def test_turns_alternate_and_their_first_calls_do_not_count(benchmark):
    calls = []
    seconds = benchmark.interleaved({name: lambda n=name: calls.append(n) for name in "ab"}, 2, 3)
    assert "".join(calls) == "aaaabbbbaaaabbbb"
    assert seconds["a"].shape == (2, 3)


def test_a_slow_call_is_repeated_at_least_twice(benchmark):
    assert len(benchmark.repeated(lambda: None, 7)) == 7
    assert len(benchmark.repeated(lambda: None, 7, budget=0.0)) == 2


@pytest.mark.parametrize(
    "only", ["gather", *(pytest.param(name, marks=pytest.mark.repeats) for name in ("mixtures", "train,sample"))]
)
def test_the_quick_mode_measures_and_writes_both_files(benchmark, only, tmp_path, capsys):
    benchmark.main(["--quick", "--only", only, "--output", str(tmp_path)])
    result = json.loads((tmp_path / "benchmark.json").read_text())
    figures = result["figures"]
    expected = sum(benchmark.COUNTS[name](benchmark.QUICK) for name in only.split(","))
    assert len(figures) == expected
    assert {figure["section"] for figure in figures} == set(only.split(","))
    for figure in figures:
        assert 0 < figure["per_second"]["min"] <= figure["per_second"]["median"] <= figure["per_second"]["max"]
        assert figure["compile_seconds"] is not None or "numpy" in figure["case"] or "scikit" in figure["case"]
        compared = "on the device" in figure["case"] or "here" in figure["case"]
        assert len(figure["ratio"] or ()) == (benchmark.QUICK.repeats if compared else 0)
    assert {"processor", "cores", "jax", "backend", "devices"} <= set(result["machine"])
    printed = capsys.readouterr()
    for text in (printed.out, (tmp_path / "benchmark.md").read_text()):
        assert (
            sum(line.startswith(("| train", "| sample", "| gather", "| mixtures")) for line in text.splitlines())
            == expected
        )
    assert f"{expected}/{expected} figures" in printed.err


def test_an_unknown_section_is_one_line(benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--only", "train,tpu"])
    assert stopped.value.code == 2
    assert "expected some of sample,gather,train,mixtures, found 'train,tpu'" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(benchmark, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        benchmark.write_results(tmp_path / "file" / "x", {}, [])
