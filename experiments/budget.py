"""The same processor time for everything: what a training step costs on this machine, and trainings of so many."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from diffpose_jax.command_line import parse
from diffpose_jax.config import read_options
from diffpose_jax.data.windows import device_clips, training_windows
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.parallel import AXIS, pmap_step, replicate
from diffpose_jax.registry import build_lifter, load_dataset
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.train import define_flags
from diffpose_jax.training.cross_fit import cross_fit
from diffpose_jax.training.loop import train
from diffpose_jax.training.state import create_state, make_optimizer
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, make_step
from diffpose_jax.workdir.trained import resolve_context

ROOT = Path(__file__).resolve().parents[1]


def small_config(name: str, data: str, seed: int, changes: Mapping[str, Any]) -> ConfigDict:
    """A config in its small size: `diffpose_frame:heatmaps` is the recipe `heatmaps` of that file.

    Args:
        name: The file in `configs/`, and after a colon the word for a recipe.
        data: The archive to train on, or 'synthetic'.
        seed: The seed of the training.
        changes: Keys of the config and their values, `{"lifter.base": "gaussian"}`.
    """
    file, _, words = name.partition(":")
    values = flags.FlagValues()
    define_flags(values)
    family = "synthetic" if data == "synthetic" else "cmu"
    argument = f"{ROOT}/configs/{file}.py:{family},small{',' if words else ''}{words}"
    parse(["budget", "--config", argument, "--workdir", "unused"], values)
    config = ConfigDict(values.config.to_dict())
    config.seed, config.data.source = seed, data
    config.update_from_flattened_dict(dict(changes))
    return config


def train_for(seconds: float, config: ConfigDict, workdir: Path, cost: Path) -> int:
    """Trains for as many steps as so much processor time buys, or goes on with that, and returns their number.

    Args:
        seconds: Processor time of the training alone.
        config: The config; its number of steps is set.
        workdir: The work directory.
        cost: A file that keeps what a step costs, so that a repeated command takes as many steps.
    """
    if not cost.exists():
        cost.write_text(str(seconds_per_step(config, at_least=min(8.0, seconds))))
    steps = max(2, round(seconds / float(cost.read_text()) / 20)) * 20
    config.training.update(steps=steps, validate_every=steps, checkpoint_every=steps, warmup_steps=steps // 10)
    train_whole(config, workdir)
    return steps


def train_whole(config: ConfigDict, workdir: Path, folds: int = 0) -> None:
    """Trains to the last step, in so many folds by subject where there are any.

    A signal that stops a training ends the program, with status 128 + its number: `train` saves what there is and
    returns, and a model of some steps would be measured as if it had learned.
    """
    summary = cross_fit(config, workdir, folds) if folds else train(config, workdir)
    if summary.stopped:
        print(f"{workdir}: stopped at step {summary.step}; the same command goes on from there", file=sys.stderr)
        sys.exit(128 + summary.signal)


def seconds_per_step(config: ConfigDict, at_least: float = 8.0) -> float:
    """The seconds of processor time of one training step of a config, measured for `at_least` so long once compiled."""
    config, _ = resolve_context(config, "unused")
    training = read_options(TrainingOptions, config.training, "training")
    data_options = read_options(DataOptions, config.data, "data")
    lifter, optimizer = build_lifter(config, AXIS), make_optimizer(training)
    clips = load_dataset(config.data, ["train"])["train"]
    data = replicate(TrainData(device_clips(clips), training_windows(clips, lifter.frames, data_options.windows)))
    state = replicate(jax.jit(lambda: create_state(lifter, optimizer, jax.random.key(0), example_batch(lifter)))())
    step = pmap_step(make_step(lifter, optimizer, 0, data_options, training))
    dispatches, start = -1, 0.0
    while dispatches < 2 or time.process_time() - start < at_least:
        first = (dispatches + 1) * training.inner_steps
        examples = examples_of_steps(first, training.inner_steps, training.batch_size, len(data.windows.start))
        state, metrics, _ = step(state, data, Examples(*(part[None] for part in examples)))
        jax.block_until_ready(metrics)
        dispatches += 1
        start = time.process_time() if dispatches == 0 else start
    return (time.process_time() - start) / dispatches / training.inner_steps
