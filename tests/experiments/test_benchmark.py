"""The benchmark compares like with like, and its quick mode writes what it measured."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import centred_windows, device_clips, gather
from diffpose_jax.errors import UserError
from diffpose_jax.registry import METHODS
from diffpose_jax.skeleton import H36M_17, mirror

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def part():
    """Imports a module of the benchmark by its name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(EXPERIMENTS)  # as it is for a program
        yield importlib.import_module


@pytest.fixture(scope="module")
def benchmark(part):
    return part("benchmark")


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
def test_the_numpy_generator_makes_the_windows_of_the_device(part, clips, frames):
    windows, seed = centred_windows(clips, frames), 5
    order = np.random.default_rng(seed).permutation(64)
    batches = part("benchmark_gather").numpy_batches(
        clips, windows, 16, frames, np.random.default_rng(seed), flip=False
    )
    for first in range(0, 64, 16):
        keypoints, poses = next(batches)
        expected = gather(device_clips(clips), windows, jnp.asarray(order[first : first + 16], jnp.int32), frames)
        np.testing.assert_array_equal(keypoints, expected.keypoints)
        np.testing.assert_array_equal(poses, expected.poses)


def test_its_flips_mirror_about_half_of_the_windows(part, clips):
    windows = centred_windows(clips, 9)
    make = part("benchmark_gather").numpy_batches
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


def test_turns_alternate_and_their_first_calls_do_not_count(part):
    calls = []
    seconds = part("timing").interleaved({name: lambda n=name: calls.append(n) for name in "ab"}, 2, 3)
    assert "".join(calls) == "aaaabbbbaaaabbbb"
    assert seconds["a"].shape == (2, 3, 2)


def test_a_slow_call_is_repeated_at_least_twice(part):
    assert len(part("timing").repeated(lambda: None, 7)) == 7
    assert len(part("timing").repeated(lambda: None, 7, budget=0.0)) == 2


def test_processor_time_is_that_of_work_and_not_of_waiting(part):
    _, waited = part("timing").clocked(lambda: time.sleep(0.2))
    assert waited.cpu < 0.1 < waited.wall


QUICK = [
    ("gather", []),
    ("attention", []),
    pytest.param("mixtures", [], marks=pytest.mark.repeats),
    pytest.param("train,sample", ["--lifters", "diffupose"], marks=pytest.mark.repeats),
]


@pytest.mark.parametrize(("only", "more"), QUICK)
def test_the_quick_mode_measures_and_writes_both_files(benchmark, only, more, tmp_path, capsys):
    assert benchmark.main(["--quick", "--only", only, "--output", str(tmp_path), *more]) == 0
    result = json.loads((tmp_path / "benchmark.json").read_text())
    figures, names = result["figures"], only.split(",")
    assert {figure["section"] for figure in figures} == set(names)
    for figure in figures:
        assert 0 < figure["per_second"]["min"] <= figure["per_second"]["median"] <= figure["per_second"]["max"]
        assert len(figure["cpu_seconds"]) == len(figure["seconds"])
        assert figure["compile_seconds"] is not None or "numpy" in figure["case"] or "scikit" in figure["case"]
        compared = any(word in figure["case"] for word in ("on the device", "here", "gradient"))
        assert len(figure["ratio"] or ()) == (benchmark.QUICK.repeats if compared else 0)
        if figure["section"] in ("train", "sample"):
            assert figure["flops"] > 0
            assert figure["memory"] > 0
            assert figure["of_peak"] > 0
            assert figure["traffic"] > 0
            assert (tmp_path / "roofline.png").exists()
    assert {"processor", "cores", "jax", "backend", "devices"} <= set(result["machine"])
    printed = capsys.readouterr()
    for text in (printed.out, (tmp_path / "benchmark.md").read_text()):
        lines = [line for line in text.splitlines() if line.startswith(tuple(f"| {name} |" for name in names))]
        assert len(lines) == len(figures)
    assert f"{len(figures)}/{len(figures)} figures" in printed.err


def test_every_method_has_a_case_in_both_sizes(part):
    cases = part("benchmark_lifters").find_cases(("small", "paper"), ())
    assert {case.config.lifter.name for case in cases} >= set(METHODS) - {"diffpose_release"}
    widths = {case.name: case.config.lifter.width for case in cases if case.name.startswith("mixste")}
    assert widths == {"mixste, small": 64, "mixste, paper": 512}


def test_keys_of_configs_are_set_where_they_exist(part, benchmark):
    changes = benchmark._read_changes("lifter.frames=3,evaluation.flip=none,lifter.scale=2.5")
    assert changes == {"lifter.frames": 3, "evaluation.flip": "none", "lifter.scale": 2.5}
    find = part("benchmark_lifters").find_cases
    (case,) = find(("small",), ("d3dp",), changes=changes)  # it has no scale
    assert (case.config.lifter.frames, case.config.evaluation.flip) == (3, "none")
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected SECTION.KEY=VALUE, found 'frames=3'"):
        benchmark._read_changes("frames=3")


@pytest.mark.repeats
def test_one_key_is_swept_and_its_scaling_drawn(benchmark, tmp_path):
    assert benchmark._read_sweep("evaluation.hypotheses=1,5") == ("evaluation.hypotheses", [1, 5])
    assert benchmark._read_sweep("batch=4,8") == ("batch", [4, 8])
    wrong_ones = (
        "hypotheses=1,2",
        "evaluation.hypotheses=1",
        "evaluation.hypotheses=a,b",
        "batch=0,1",
        "devices=1,1.5",
    )
    for wrong in wrong_ones:
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected SECTION.KEY, batch or devices=NUMBER,NUMBER"):
            benchmark._read_sweep(wrong)
    options = ["--only", "sample", "--lifters", "residual_mlp,mixture_density", "--sweep", "evaluation.hypotheses=1,2"]
    assert benchmark.main(["--quick", *options, "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())["figures"]
    assert {figure["swept"] for figure in found} == {1, 2}
    assert (tmp_path / "scaling.png").stat().st_size > 1000


@pytest.mark.repeats
def test_devices_are_swept_in_processes_of_their_own_and_batches_in_one(benchmark, tmp_path, capsys):
    options = ["--quick", "--only", "train", "--lifters", "residual_mlp"]
    for key, values in (("batch", [8, 32]), ("devices", [1, 2])):
        sweep = f"{key}={values[0]},{values[1]}"
        assert benchmark.main([*options, "--sweep", sweep, "--output", str(tmp_path / key)]) == 0
        found = json.loads((tmp_path / key / "benchmark.json").read_text())["figures"]
        assert [figure["swept"] for figure in found] == values
        assert len({figure["case"] for figure in found}) == 2
        assert (tmp_path / key / "scaling.png").stat().st_size > 1000
    machines = [json.loads((tmp_path / f"devices/devices_{n}/benchmark.json").read_text())["machine"] for n in (1, 2)]
    assert [machine["devices"].partition(" x ")[0] for machine in machines] == ["1", "2"]
    # Of all devices together it is as much to multiply.
    assert len({figure["flops"] for figure in found}) == 1
    with pytest.raises(SystemExit):
        benchmark.main(["--quick", "--sweep", "devices=1,2"])
    assert "--sweep devices: expected --only train" in capsys.readouterr().err


def reference(part, tmp_path, line: str):
    program = tmp_path / "program.py"
    program.write_text(f"import os\nprint('warming up')\nprint({line})\n")
    return part("benchmark_reference").Reference(f"{sys.executable} {program}")


def test_a_reference_says_how_long_its_calls_took(part, tmp_path):
    line = """'{"calls": 4, "seconds": ' + os.environ["BENCHMARK_WORK"] + ', "cpu_seconds": 6}'"""
    asked = part("benchmark_reference").Asked("train", "any", 8, 2, 1, "{}")
    found = reference(part, tmp_path, line).run(asked)
    assert (found.wall, found.cpu) == (2.0, 1.5)
    assert reference(part, tmp_path, """'{"calls": 0}'""").run(asked) is None
    with pytest.raises(UserError, match=r"expected a last line .* found 'done'"):
        reference(part, tmp_path, "'done'").run(asked)
    with pytest.raises(UserError, match=r"expected exit code 0, found: .*NameError"):
        reference(part, tmp_path, "nothing").run(asked)


def test_calls_and_their_reference_take_turns(part, tmp_path):
    lifters, rows, calls = part("benchmark_lifters"), [], []
    row = part("timing").Row("train", "case", "frames", 8, [])
    beside = reference(part, tmp_path, """'{"calls": 1, "seconds": 5}'""")
    asked = part("benchmark_reference").Asked("train", "case", 8, 2, 1, "{}")
    call = lambda: calls.append(time.sleep(0.01))  # noqa: E731
    lifters._report(row, call, lifters.Amount(2, 1), (beside, asked), rows.append)
    other, ours = rows
    assert other.case == "case, reference"
    assert other.seconds == [5.0, 5.0]
    assert len(ours.ratio) == 2
    assert len(calls) == 1 + 2 * 2


def test_what_lost_more_than_its_share_is_named(part, tmp_path):
    found = part("benchmark_report")
    row = part("timing").Row("gather", "F = 27 (x)", "windows", 1, [1.0], ratio=[4.0, 4.4, 5.0])
    ratios = found.summarise_ratios(found.figures([row]))
    assert ratios == {"gather: F = 27": {"times reference": 4.4}}
    written = tmp_path / "baseline.json"
    for expected, losses in ((4.9, []), (5.3, ["gather: F = 27, times reference: expected about 5.30, found 4.40"])):
        written.write_text(json.dumps({"ratios": {"gather: F = 27": {"times reference": expected}, "gone": {"x": 1}}}))
        assert found.find_losses(ratios, found.read_baseline(written)) == losses
    with pytest.raises(UserError, match="expected ratios of a benchmark"):
        found.read_baseline(tmp_path / "none.json")


def test_its_help_is_printed(benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--help"])
    assert stopped.value.code == 0
    assert "lost more than 15 %" in capsys.readouterr().out


def test_an_unknown_section_is_one_line(benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--only", "train,tpu"])
    assert stopped.value.code == 2
    assert "expected some of sample,gather,train,attention,mixtures,start, found 'train,tpu'" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(part, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        part("benchmark_report").write_results(tmp_path / "file" / "x", {}, [])
