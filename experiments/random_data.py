"""Clips and batches of random numbers, and training steps on them: speed does not depend on what is learned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import read_options
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import centred_windows, device_clips
from diffpose_jax.lifters.base import Batch, Lifter
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.mixtures.packing import pack_mixture
from diffpose_jax.parallel import AXIS, local_device_count, pmap_step, replicate, shard
from diffpose_jax.registry import METHODS, build_lifter, config_for
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.training.state import TrainState, create_state, make_optimizer
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, make_step


def random_clips(count: int, frames: int = 2500, mixtures: bool = False) -> ClipSet:
    """Clips of random numbers, `count` times `frames` frames of 17 joints, with mixtures where asked for."""
    rng = np.random.default_rng(0)

    def clip() -> Clip:
        poses = 0.3 * rng.standard_normal((frames, 17, 3), np.float32)
        keypoints = rng.standard_normal((frames, 17, 2), np.float32)
        packed = pack_mixture(random_mixture((frames, 17)), keypoints) if mixtures else None
        return Clip(keypoints, poses - poses[:, :1], None, "S1", "noise", mixture=packed)

    return ClipSet.build([clip() for _ in range(count)], H36M_17)


def random_mixture(shape: tuple[int, ...]) -> Mixture:
    """Mixtures `shape` of five round Gaussians of equal weight."""
    means = np.random.default_rng(1).standard_normal((*shape, 5, 2), np.float32)
    covariances = np.broadcast_to(0.01 * np.eye(2, dtype=np.float32), (*shape, 5, 2, 2))
    return Mixture(jnp.full((*shape, 5), 0.2), jnp.asarray(means), jnp.asarray(covariances))


def random_batch(lifter: Lifter, windows: int) -> Batch:
    """A batch of random keypoints, with mixtures of five round Gaussians for methods that take them."""
    shape = (windows, lifter.frames, lifter.skeleton.num_joints)
    keypoints = np.random.default_rng(0).standard_normal((*shape, 2), np.float32)
    return example_batch(lifter, windows)._replace(keypoints=jnp.asarray(keypoints), mixture=random_mixture(shape))


class Training(NamedTuple):
    """A training step of a config, ready to be called.

    Attributes:
        step: `(state, data, examples) -> (state, metrics)`, mapped over the devices; the state's memory is donated.
        state: The state at step 0.
        data: The training windows, on the devices.
        examples: The examples of dispatch `number`.
        batch: Windows of a step, over all devices.
        inner: Steps of a dispatch.
    """

    step: Callable
    state: TrainState
    data: TrainData
    examples: Callable[[int], Examples]
    batch: int
    inner: int


def prepare_training(config: ConfigDict, clips: ClipSet, batch: int, inner: int) -> Training:
    """Makes the training step of a config, of at least `batch` windows and with `inner` steps per dispatch."""
    training = read_options(TrainingOptions, config.training, "training")
    lifter, optimizer = build_lifter(config, AXIS), make_optimizer(training)
    data = replicate(TrainData(device_clips(clips), centred_windows(clips, lifter.frames)))
    create = partial(create_state, lifter, optimizer, jax.random.key(0))
    state = replicate(jax.jit(create)(example_batch(lifter)))
    options = read_options(DataOptions, config.data, "data")
    batch = local_device_count() * -(-batch // local_device_count())

    def examples(number: int) -> Examples:
        whole = examples_of_steps(number * inner, inner, batch, len(data.windows.start))
        return Examples(*(np.moveaxis(shard(np.moveaxis(part, 1, 0)), 2, 1) for part in whole))

    return Training(pmap_step(make_step(lifter, optimizer, 0, options, training)), state, data, examples, batch, inner)


def give_context(config: ConfigDict, **sizes: Any) -> ConfigDict:
    """The config with the section of the frozen lifter it needs, as training fills it in; `sizes` change that."""
    needed = getattr(METHODS.get(config.lifter.name), "needs_context", False) or config.lifter.get("context")
    if needed and not config.get("context"):
        context = config_for("mixste" if "frames" in config.lifter else "graformer").lifter
        if "frames" in context:
            context.update(frames=config.lifter.frames, width=64)
        context.update({name: value for name, value in sizes.items() if name in context})
        config.context = context
    return config
