"""Training steps and sampling of every lifter, small and at the size of its paper's recipe.

Cases are the config files: `NAME:synthetic,small` and `NAME:synthetic`. A case has its rates, the share of the rate at
which this machine multiplies large matrices, the bytes of its compiled program, and the seconds of its compilation.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from benchmark_reference import Asked, Reference
from flops import Products, count_products, measure_bandwidth, measure_peak, program_bytes
from ml_collections import ConfigDict
from random_data import give_context, prepare_training, random_batch, random_clips
from timing import Report, Row, Seconds, both_clocks, clocked, counts_cpu_time, repeated, timed

from diffpose_jax.command_line import shipped_configs
from diffpose_jax.evaluation.workload import choose_workload, default_budget, measure_needs
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.parallel import local_device_count
from diffpose_jax.registry import build_lifter
from diffpose_jax.sections import Flip

# Configs of no method of their own.
_ELSEWHERE = ("quickstart", "method")
TINY = {"frames": 3, "width": 32, "num_layers": 1, "num_heads": 2}


class Amount(NamedTuple):
    """How much is measured.

    Attributes:
        repeats: Calls, or turns beside a reference.
        frames: Frames of a training batch and of a batch of windows to sample, at least one window.
        tiny: Whether networks are as small as they can be, for a test.
    """

    repeats: int
    frames: int
    tiny: bool = False


class Case(NamedTuple):
    """A config, what it is called, and the value of what is swept or the frames of a batch, None where not given."""

    name: str
    config: ConfigDict
    swept: float | None = None
    frames: int | None = None


def find_cases(
    sizes: Sequence[str], only: Sequence[str], tiny: bool = False, changes: Mapping[str, Any] = MappingProxyType({})
) -> list[Case]:
    """The configs in the sizes 'small' and 'paper'.

    Args:
        sizes: The sizes.
        only: Names of configs, all where there are none.
        tiny: Whether networks are as small as they can be.
        changes: Keys of the configs and other values for them, `{"lifter.frames": 27}`; a config without a key keeps
            what it has.
    """
    cases = []
    for name, path in sorted(shipped_configs().items()):
        if name in _ELSEWHERE or (only and name not in only):
            continue
        for size in sizes:
            config = runpy.run_path(str(path))["get_config"]("synthetic,small" if size == "small" else "synthetic")
            if tiny:
                config.lifter.update({key: value for key, value in TINY.items() if key in config.lifter})
                config.diffusion.update(steps=4, sampling_steps=0, num_timesteps=0)
                config.training.inner_steps = 2
            config.update_from_flattened_dict({key: changes[key] for key in changes if _has_key(config, key)})
            cases.append(Case(f"{name}, {size}", give_context(config, **(TINY if tiny else {}))))
    return cases


def sweep_cases(cases: Sequence[Case], key: str, values: Sequence[Any]) -> list[Case]:
    """Each case with each value of a key, `SECTION.NAME`, or of `batch`; cases whose config lacks it are left out."""
    if key == "batch":
        return [Case(f"{case.name}, batch {value}", case.config, frames=value) for case in cases for value in values]
    found = []
    for case in cases:
        for value in values if _has_key(case.config, key) else ():
            config = ConfigDict(case.config.to_dict())
            config.update_from_flattened_dict({key: value})
            found.append(Case(f"{case.name}, {key.partition('.')[2]} {value}", config, value))
    return found


def _has_key(config: ConfigDict, key: str) -> bool:
    section, _, name = key.partition(".")
    return name in config.get(section, {})


def benchmark_training(cases: Sequence[Case], amount: Amount, reference: Reference, report: Report) -> None:
    """Frames/s of the mapped, donated dispatch of a config's steps: gather, flips, gradient, Adam, moving average."""
    for name, config, swept, whole in cases:
        frames = config.lifter.get("frames", 1)
        clips = random_clips(8, 500, mixtures=config.lifter.name.startswith("diffpose"))
        inner = config.training.inner_steps
        made = prepare_training(config, clips, max(1, (whole or amount.frames) // frames), inner)
        states, numbers = [made.state], iter(range(1, 1_000_000))
        arguments = made.state, made.data, made.examples(0)
        # Processor time is that of all devices.
        devices = local_device_count() if counts_cpu_time() else 1
        products = Products(*(devices * one for one in count_products(made.step, *arguments)))
        compiled, compiling = timed(made.step.lower(*arguments).compile)

        def call(step: Callable = compiled, data: Any = made.data, states: list = states) -> Any:
            states[0], metrics, _ = step(states[0], data, made.examples(next(numbers)))  # noqa: B023
            return metrics

        work = made.batch * inner * frames
        row = Row("train", f"{name}, {made.batch} x {frames} frames", "frames", work, [], compiling)
        row = row._replace(swept=made.batch * frames if whole else swept)
        row = row._replace(**_describe_products(products, config), memory=program_bytes(compiled))
        asked = Asked("train", row.case, work, made.batch, inner, config.to_json())
        _report(row, call, amount, (reference, asked), report)


def benchmark_sampling(cases: Sequence[Case], amount: Amount, reference: Reference, report: Report) -> None:
    """Poses/s (hypotheses times frames) of one compiled call, for a batch of windows and for a single one.

    As many hypotheses are drawn at a time, and of as many windows, as `evaluate` and `predict` choose.
    """
    for name, config, swept, whole in cases:
        lifter = build_lifter(config)
        variables = jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter))
        count = min(2, config.evaluation.hypotheses) if amount.tiny else config.evaluation.hypotheses
        # Averages over flips outside of the sampler draw twice as often: nothing else to measure.
        averages = lifter.averages_flips and config.evaluation.flip == "average"
        flip: Flip = "average" if averages else "none"
        single = variables, jax.random.key(1), random_batch(lifter, 1), Sampling(1, flip=flip)
        needs, budget = measure_needs(lifter.sample, *single), int(1e9 * config.evaluation.memory) or default_budget()
        batches = [max(1, whole // lifter.frames)] if whole else _batches(amount.frames // 4, lifter.frames)
        # Of a large lifter a batch may be no more than a single window.
        for windows, chunk in dict.fromkeys(choose_workload(needs, most, count, budget) for most in batches):
            sampling = Sampling(count, flip=flip, chunk=chunk)
            arguments = variables, jax.random.key(1), random_batch(lifter, windows), sampling
            compiled, compiling = timed(jax.jit(lifter.sample).lower(*arguments).compile)
            frames = 1 if lifter.middle_frame else lifter.frames
            case = f"{name}, {windows} x {lifter.frames} frames, H = {count}{', flips averaged' if averages else ''}"
            row = Row("sample", case, "poses", windows * frames * count, [], compiling)
            row = row._replace(swept=windows * lifter.frames if whole else swept)
            products = count_products(lifter.sample, *arguments)
            row = row._replace(**_describe_products(products, config), memory=program_bytes(compiled))
            asked = Asked("sample", case, row.work, windows, 1, config.to_json())
            _report(row, partial(compiled, *arguments), amount, (reference, asked), report)


def _batches(whole: int, frames: int) -> Iterator[int]:
    yield max(2, whole // frames)
    yield 1


def _describe_products(products: Products, config: ConfigDict) -> dict[str, float]:
    """The fields of a row that say what a call multiplies, and how fast the machine multiplies and copies just now."""
    rates = {"peak": measure_peak(config.lifter.compute_dtype), "bandwidth": measure_bandwidth()}
    return {"flops": products.flops, "traffic": products.bytes, **rates}


def _report(row: Row, call: Callable[[], Any], amount: Amount, beside: tuple[Reference, Asked], report: Report) -> None:
    """Times a call, in turns with the reference where there is one, and reports both."""
    reference, asked = beside
    if not reference.command:
        report(row._replace(**both_clocks(repeated(call, amount.repeats))))
        return
    timed(call)
    ours: list[Seconds] = []
    theirs: list[Seconds] = []
    for _ in range(amount.repeats):
        timed(call)
        ours.append(clocked(call)[1])
        found = reference.run(asked)
        if found is None:
            break
        theirs.append(found)
    row = row._replace(**both_clocks(ours))
    if theirs:
        mine, other = ([one.cpu if counts_cpu_time() else one.wall for one in side] for side in (ours, theirs))
        row = row._replace(ratio=(np.array(other) / np.array(mine)).tolist())
        report(Row(row.section, f"{row.case}, reference", row.unit, row.work, **both_clocks(theirs)))
    report(row)
