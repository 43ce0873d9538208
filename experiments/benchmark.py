"""Measures speed: `python experiments/benchmark.py [--output DIR] [--quick] [--only sample,gather,train,mixtures]`.

* train: frames/s of the whole training step (gather, flips, gradient, Adam, moving average), data resident;
* sample: poses/s (hypotheses times frames) of DiffuPose for 1, 10 and 50 hypotheses, and the latency of one frame;
* gather: windows/s of the on-device window gather over 1.5 million frames, beside a plain numpy generator;
* mixtures: fits/s of five Gaussians to 200 points, at equal steps and at equal likelihood, beside scikit-learn.

Every figure is a median over repeats with its range, after warm-up; compile times stand apart. Things that are compared
run in turns. Weights and data are random: speed does not depend on them. Writes `benchmark.json` and `benchmark.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from benchmark_mixtures import benchmark_mixtures
from ml_collections import ConfigDict
from timing import Report, Row, interleaved, repeated, timed

from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.data.shuffling import permute_index
from diffpose_jax.data.windows import Windows, centred_windows, device_clips, gather
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.base import Batch, Lifter, Sampling
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.parallel import AXIS, local_device_count, pmap_step, replicate, shard
from diffpose_jax.progress import Progress
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.training.state import create_state, make_optimizer
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, flip_half, make_step


class Size(NamedTuple):
    """How much to measure; a test takes seconds, a GPU wants larger batches."""

    repeats: int
    train_batch: int
    train_steps: int  # per dispatch
    sample_batch: int
    hypotheses: tuple[int, ...]
    widths: dict[int, int]  # width of the network -> reverse steps of its config
    clips: int  # of 2500 frames each
    windows: dict[int, int]  # window length -> windows per batch
    num_layers: int = 4
    mixtures: int = 4096  # fits per call


QUICK = Size(2, 16, 2, 1, (2,), {32: 4}, 4, {27: 32}, num_layers=1, mixtures=64)
CPU = Size(7, 256, 4, 4, (1, 10, 50), {384: 100, 128: 20}, 600, {27: 1024, 81: 512, 243: 256})
ACCELERATOR = Size(
    15, 4096, 20, 256, (1, 10, 50), {384: 100, 128: 20}, 600, {27: 4096, 81: 2048, 243: 1024}, mixtures=65536
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the sections asked for, reports each figure as it comes, and writes the files."""
    options = _arguments(argv)
    size = QUICK if options.quick else CPU if jax.default_backend() == "cpu" else ACCELERATOR
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows: list[Row] = []
    total = sum(COUNTS[name](size) for name in options.only)
    with Progress("benchmark", total, "figures", line_seconds=0) as progress:

        def report(row: Row) -> None:
            rows.append(row)
            progress.update(len(rows), f"{row.section}: {row.case}: {row.rates()[0]:,.0f} {row.unit}/s")

        for name in options.only:
            SECTIONS[name](size, report)
    write_results(options.output, machine, rows)
    print(table(rows))
    print(f"written: {options.output / 'benchmark.json'}, {options.output / 'benchmark.md'}")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def sections(text: str) -> list[str]:
        names = text.split(",")
        if set(names) - set(SECTIONS):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(SECTIONS)}, found {text!r}")
        return names

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="where the results go")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: tiny sizes, no meaning")
    parser.add_argument("--only", type=sections, default=list(SECTIONS), help="e.g. sample,gather,train,mixtures")
    return parser.parse_args(argv)


def random_clips(count: int, frames: int = 2500) -> ClipSet:
    """Clips of random numbers, `count` times `frames` frames of Human3.6M's 17 joints."""
    rng = np.random.default_rng(0)

    def clip() -> Clip:
        poses = 0.3 * rng.standard_normal((frames, 17, 3), np.float32)
        return Clip(rng.standard_normal((frames, 17, 2), np.float32), poses - poses[:, :1], None, "S1", "noise")

    return ClipSet.build([clip() for _ in range(count)], H36M_17)


def _cases(size: Size) -> list[tuple[str, ConfigDict]]:
    cases = []
    for name, widths in (("diffupose", list(size.widths)), ("modulated_gcn", list(size.widths)[-1:])):
        for width in widths:
            config = config_for(name)
            config.lifter.update(width=width)
            config.lifter.num_layers = size.num_layers
            config.diffusion.sampling_steps = size.widths[width]
            cases.append((f"{name}, width {width}", config))
    return cases


def benchmark_training(size: Size, report: Report) -> None:
    """Frames/s of the mapped, donated step of several inner steps."""
    clips = random_clips(8)
    for case, config in _cases(size):
        training = TrainingOptions()
        lifter, optimizer = build_lifter(config, AXIS), make_optimizer(training)
        data = replicate(TrainData(device_clips(clips), centred_windows(clips, lifter.frames)))
        create = partial(create_state, lifter, optimizer, jax.random.key(0))
        state = replicate(jax.jit(create)(example_batch(lifter)))
        batch = local_device_count() * -(-size.train_batch // local_device_count())
        step = pmap_step(make_step(lifter, optimizer, 0, DataOptions(), training))
        seconds = []
        for call in range(size.repeats + 2):
            examples = examples_of_steps(call * size.train_steps, size.train_steps, batch, clips.num_frames)
            (state, _), passed = timed(partial(step, state, data, _split(examples)))
            seconds.append(passed)
        # The first call compiles and runs, the second may still settle.
        compiling = max(0.0, seconds[0] - float(np.median(seconds[2:])))
        work = batch * size.train_steps
        report(Row("train", f"{case}, batch {batch}", "frames", work, seconds[2:], compiling))


def _split(examples: Examples) -> Examples:
    return Examples(*(np.moveaxis(shard(np.moveaxis(part, 1, 0)), 2, 1) for part in examples))


def benchmark_sampling(size: Size, report: Report) -> None:
    """Poses/s of one compiled call, for a small batch and for a single frame."""
    for case, config in _cases(size)[: len(size.widths)]:
        lifter = build_lifter(config)
        variables = jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter))
        for frames in sorted({size.sample_batch, 1}, reverse=True):
            batch = _random_batch(lifter, frames)
            for hypotheses in size.hypotheses:
                arguments = variables, jax.random.key(1), batch, Sampling(hypotheses)
                compiled, compiling = timed(jax.jit(lifter.sample).lower(*arguments).compile)
                seconds = repeated(partial(compiled, *arguments), size.repeats)
                steps, plural = config.diffusion.sampling_steps, "s" * (frames > 1)
                what = f"{case}, {steps} steps, {frames} frame{plural}, H = {hypotheses}"
                report(Row("sample", what, "poses", frames * hypotheses, seconds, compiling))


def _random_batch(lifter: Lifter, frames: int) -> Batch:
    keypoints = np.random.default_rng(0).standard_normal((frames, 1, lifter.skeleton.num_joints, 2), np.float32)
    return example_batch(lifter, frames)._replace(keypoints=jnp.asarray(keypoints))


def benchmark_gather(size: Size, report: Report) -> None:
    """Windows/s on the device (shuffled order, edge padding, flips) beside the numpy generator, in turns."""
    config = config_for("modulated_gcn")
    config.lifter.update(width=32)
    lifter = build_lifter(config)
    clips = random_clips(size.clips)
    resident = device_clips(clips)
    for frames, batch in size.windows.items():
        windows = centred_windows(clips, frames)
        for flip in (True, False):
            compiled, compiling, device = _device_batches(resident, windows, batch, frames, lifter if flip else None)
            host = numpy_batches(clips, windows, batch, frames, np.random.default_rng(0), flip)
            # Many calls a turn: one takes about a millisecond.
            calls = {"numpy": partial(next, host), "device": lambda c=compiled, d=device: c(*next(d))}
            seconds = interleaved(calls, size.repeats, 20 if size.repeats > 2 else 2)
            ratio = np.median(seconds["numpy"], axis=1) / np.median(seconds["device"], axis=1)
            what = f"{clips.num_frames:,} frames, F = {frames}, batch {batch}, {'half flipped' if flip else 'no flips'}"
            report(Row("gather", f"{what}, numpy", "windows", batch, seconds["numpy"].ravel().tolist()))
            times = seconds["device"].ravel().tolist()
            report(Row("gather", f"{what}, on the device", "windows", batch, times, compiling, ratio.tolist()))


def _device_batches(
    clips: Any, windows: Windows, batch: int, frames: int, flipping: Lifter | None
) -> tuple[Callable, float, Iterator[tuple]]:
    """What the training step does to get a batch, compiled; its compile time; and its arguments, call by call."""
    count = len(windows.start)

    @jax.jit
    def make(clips: Any, windows: Windows, examples: Examples) -> tuple[jax.Array, jax.Array]:
        ids = permute_index(examples.position, examples.epoch, count, 0)
        found = gather(clips, windows, ids, frames)._replace(index=examples.index)
        found = flip_half(jax.random.key(1), found, flipping) if flipping else found
        return found.keypoints, found.poses

    def arguments() -> Iterator[tuple]:
        call = 0
        while True:
            examples = examples_of_steps(call, 1, batch, count)
            yield clips, windows, Examples(*(part[0] for part in examples))
            call += 1

    compiled, compiling = timed(make.lower(*next(arguments())).compile)
    return compiled, compiling, arguments()


def numpy_batches(
    clips: ClipSet, windows: Windows, batch: int, frames: int, rng: np.random.Generator, flip: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless batches of windows as VideoPose3D's generator makes them: keypoints `[B, F, J, 2]`, poses `[B, F, J, 3]`.

    Buffers are allocated once; each window is sliced from its clip, padded with its edges where it leaves it, and
    mirrored in place if its coin says so; a batch is handed out as a float32 copy.
    """
    start, low, high = (np.asarray(part) for part in windows)
    left, right = list(clips.skeleton.left), list(clips.skeleton.right)
    buffers = [np.empty((batch, frames, *array.shape[1:]), np.float32) for array in (clips.keypoints, clips.poses)]
    while True:
        order = rng.permutation(len(start))
        for first in range(0, len(order) - batch + 1, batch):
            mirrored = flip & (rng.random(batch) < 0.5)
            for row, window in enumerate(order[first : first + batch]):
                begin, end = max(start[window], low[window]), min(start[window] + frames, high[window] + 1)
                before, after = begin - start[window], start[window] + frames - end
                for buffer, array in zip(buffers, (clips.keypoints, clips.poses), strict=True):
                    chunk = array[begin:end]
                    if before or after:
                        chunk = np.pad(chunk, ((before, after), (0, 0), (0, 0)), "edge")
                    buffer[row] = chunk
                    if mirrored[row]:
                        buffer[row, :, :, 0] *= -1
                        buffer[row, :, left + right] = buffer[row, :, right + left]
            yield buffers[0].copy(), buffers[1].copy()


SECTIONS: dict[str, Callable[[Size, Report], None]] = {
    "sample": benchmark_sampling,
    "gather": benchmark_gather,
    "train": benchmark_training,
    "mixtures": lambda size, report: benchmark_mixtures(size.mixtures, size.repeats, report),
}
COUNTS: dict[str, Callable[[Size], int]] = {
    "train": lambda size: len(size.widths) + 1,
    "sample": lambda size: len(size.widths) * len({size.sample_batch, 1}) * len(size.hypotheses),
    "gather": lambda size: len(size.windows) * 4,
    "mixtures": lambda size: 4,
}


def describe_machine() -> dict[str, Any]:
    """What the figures depend on: processor, versions, devices, and the environment that changes speed."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (jax, jaxlib, flax, np)},
        "backend": jax.default_backend(),
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "XLA_", "GLIBC_", "OMP_"))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(rows: Sequence[Row]) -> str:
    """The figures as one Markdown table."""
    lines = ["| section | case | median [min..max] per s | ms per call | compile s | times reference |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        middle, lowest, highest = row.rates()
        compiling = "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}"
        ratio = ""
        if row.ratio is not None:
            ratio = f"{np.median(row.ratio):.1f} [{min(row.ratio):.1f}..{max(row.ratio):.1f}]"
        rate = f"{middle:,.0f} [{lowest:,.0f}..{highest:,.0f}] {row.unit}"
        lines.append(
            f"| {row.section} | {row.case} | {rate} | {1e3 * np.median(row.seconds):,.2f} | {compiling} | {ratio} |"
        )
    return "\n".join(lines)


def write_results(output: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Writes `benchmark.json` (every repeat) and `benchmark.md`. Raises UserError where that is not possible."""
    figures = []
    for row in rows:
        middle, lowest, highest = row.rates()
        figures.append({**row._asdict(), "per_second": {"median": middle, "min": lowest, "max": highest}})
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "benchmark.json").write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")
        facts = "\n".join(f"* {name}: {value}" for name, value in machine.items())
        (output / "benchmark.md").write_text(f"# Benchmark\n\n{facts}\n\n{table(rows)}\n")
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    main()
