"""What a training step costs on this machine, for studies in which everything gets the same processor time."""

from __future__ import annotations

import time

import jax
from ml_collections import ConfigDict

from diffpose_jax.config import read_options
from diffpose_jax.data.windows import device_clips, training_windows
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.parallel import AXIS, pmap_step, replicate
from diffpose_jax.registry import build_lifter, load_dataset
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.training.state import create_state, make_optimizer
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, make_step
from diffpose_jax.workdir.trained import resolve_context


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
