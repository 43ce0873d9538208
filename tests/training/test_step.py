"""The step is pure, and any number of devices follows the same trajectory."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffpose_jax.config import read_options
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import centred_windows, device_clips, training_windows
from diffpose_jax.lifters.base import Aux, Batch, Lifter
from diffpose_jax.lifters.batches import example_batch, flip_batch
from diffpose_jax.parallel import AXIS, assert_replicated, pmap_step, replicate, shard
from diffpose_jax.registry import build_lifter, config_for, load_dataset
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.skeleton import H36M_17, Skeleton
from diffpose_jax.training.state import create_state, learning_rate, make_optimizer
from diffpose_jax.training.step import Examples, TrainData, examples_of_steps, flip_half, make_step


def test_every_window_is_an_example_of_every_epoch_once():
    examples = examples_of_steps(first_step=0, num_steps=7, batch_size=6, count=14)
    flat = np.stack([examples.epoch.ravel(), examples.position.ravel()], axis=1)
    expected = [(number // 14, number % 14) for number in range(42)]
    np.testing.assert_array_equal(flat, expected)


def test_examples_of_a_later_step_do_not_depend_on_where_the_run_began():
    whole = examples_of_steps(0, 10, 4, 9)
    later = examples_of_steps(6, 4, 4, 9)
    for all_steps, last_steps in zip(whole, later, strict=True):
        np.testing.assert_array_equal(all_steps[6:], last_steps)


def test_examples_survive_more_than_two_billion_poses():
    examples = examples_of_steps(10_000_000, 1, 2048, 1_559_752)
    assert examples.epoch[0, 0] == 10_000_000 * 2048 // 1_559_752
    assert (examples.position >= 0).all()


@pytest.mark.parametrize("name", ["diffupose", pytest.param("modulated_gcn", marks=pytest.mark.repeats)])
@pytest.mark.parametrize("rule", ["sgd", pytest.param("adam", marks=pytest.mark.repeats)])
def test_one_step_on_eight_devices_equals_one_device(tiny_config, name, rule):
    tiny_config.lifter = config_for(name).lifter
    tiny_config.lifter.update(width=32, num_layers=1, dropout=0.2)
    lifter = build_lifter(tiny_config, AXIS)
    optimizer = optax.sgd(0.1) if rule == "sgd" else make_optimizer(training_of(tiny_config))
    clips = load_dataset(tiny_config.data, ["train"])["train"]
    data = TrainData(device_clips(clips), centred_windows(clips, 1))
    step = make_step(lifter, optimizer, 0, DataOptions(flip=True), TrainingOptions(ema_decay=0.9))
    examples = examples_of_steps(0, 1, 16, len(data.windows.start))

    def created():
        return create_state(lifter, optimizer, jax.random.key(0), example_batch(lifter))

    one = jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None, devices=jax.devices()[:1])
    alone, metrics_alone, _ = one(created(), data, Examples(*(part[None] for part in examples)))
    shares = Examples(*(shard(part.T).transpose(0, 2, 1) for part in examples))
    together, metrics, _ = pmap_step(step)(replicate(created()), replicate(data), shares)

    assert_replicated(together)
    assert metrics["loss"] == pytest.approx(float(metrics_alone["loss"]), rel=1e-6)
    assert_close(together.batch_stats, alone.batch_stats)
    counts = jax.tree.map(lambda leaf: True, alone.params)
    if rule == "adam":
        # Adam divides a gradient by its size: where an L1 loss cancels to rounding noise, so does the step, up to the
        # whole learning rate. Plain gradient descent, the other case, shows that nothing else hides there.
        counts = jax.tree.map(lambda moment: np.abs(moment) > 1e-7, alone.optimizer[0].mu)
    assert_close(together.params, alone.params, counts)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), alone.params, created().params)
    assert any(jax.tree.leaves(moved))


def training_of(config) -> TrainingOptions:
    return read_options(TrainingOptions, config.training, "training")


def assert_close(tree, other, counts=None) -> None:
    """Leaves agree to 1e-6 wherever `counts` says that they count."""
    counts = jax.tree.map(lambda leaf: True, tree) if counts is None else counts
    for mine, theirs, where in zip(*map(jax.tree.leaves, (tree, other, counts)), strict=True):
        difference = np.where(where, np.asarray(mine) - np.asarray(theirs), 0)
        np.testing.assert_allclose(difference, 0, atol=1e-6)


def test_half_of_the_examples_are_mirrored_and_an_example_decides_for_itself(tiny_config):
    lifter = build_lifter(tiny_config)
    keypoints = jax.random.normal(jax.random.key(1), (64, 1, 17, 2))
    batch = example_batch(lifter, 64)._replace(keypoints=keypoints)
    flipped = flip_half(jax.random.key(2), batch, lifter)
    mirrored = flip_batch(batch, lifter.skeleton)
    is_mirrored = np.asarray(jnp.all(flipped.keypoints == mirrored.keypoints, axis=(1, 2, 3)))
    is_same = np.asarray(jnp.all(flipped.keypoints == batch.keypoints, axis=(1, 2, 3)))
    assert (is_mirrored ^ is_same).all()
    assert 20 <= is_mirrored.sum() <= 44
    part = Batch(*(None if field is None else field[40:48] for field in batch))
    np.testing.assert_array_equal(flip_half(jax.random.key(2), part, lifter).keypoints, flipped.keypoints[40:48])


def test_the_learning_rate_warms_up_and_decays():
    rate = learning_rate(TrainingOptions(steps=100, warmup_steps=10, decay="cosine", learning_rate=1.0, log_every=20))
    assert [float(rate(step)) for step in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-6)
    rate = learning_rate(TrainingOptions(learning_rate=1.0, decay="exponential", decay_rate=0.5, decay_every=20))
    assert [float(rate(step)) for step in (0, 19, 20, 41)] == pytest.approx([1, 1, 0.5, 0.25])


@dataclasses.dataclass(frozen=True)
class LinearLifter(Lifter):
    """Its loss is one weight times the mean first coordinate of joint 1; it reports that of the first frames too."""

    window: int
    skeleton: Skeleton = H36M_17

    @property
    def frames(self):
        return self.window

    def init(self, key, batch):
        return {"params": {"w": jnp.float32(0.5)}}

    def loss(self, variables, key, batch):
        value = variables["params"]["w"] * jnp.mean(batch.poses[:, :, 1, 0])
        return value, Aux({"loss": value, "first": jnp.mean(batch.poses[:, 0, 1, 0])}, {})


def indexed_clip(length: int) -> ClipSet:
    """A clip whose joint 1 is the index of the frame."""
    poses = np.zeros((length, 17, 3), np.float32)
    poses[:, 1, 0] = np.arange(length)
    return ClipSet.build([Clip(poses[..., :2], poses, None, "S1", "walk")], H36M_17)


def compile_step(lifter, clips, kind="centred", plateau=None, devices=8, scale_by_loss=False):
    """A function of examples that gives state and metrics after one dispatch of gradient descent at rate 0.1."""
    optimizer, data = optax.sgd(0.1), TrainData(device_clips(clips), training_windows(clips, lifter.frames, kind))
    training = TrainingOptions(ema_decay=0.9, scale_by_loss=scale_by_loss)
    step = make_step(lifter, optimizer, 0, DataOptions(flip=False, windows=kind), training)
    state = create_state(lifter, optimizer, jax.random.key(0), example_batch(lifter), plateau is not None)
    if plateau is not None:
        state = state._replace(plateau=state.plateau._replace(scale=jnp.float32(plateau)))
    mapped = jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None, devices=jax.devices()[:devices])

    def take_step(examples: Examples):
        return mapped(state, data, Examples(*(np.stack(np.split(part, devices, axis=1)) for part in examples)))

    return take_step


def test_a_gradient_scaled_by_the_loss_is_scaled_by_that_of_the_global_batch():
    lifter, clips, examples = LinearLifter(1), indexed_clip(16), examples_of_steps(0, 1, 16, 16)
    gradient = np.arange(16).mean()
    plain, metrics, _ = compile_step(lifter, clips)(examples)
    squared, metrics_squared, _ = compile_step(lifter, clips, scale_by_loss=True)(examples)
    assert plain.params["w"] == pytest.approx(0.5 - 0.1 * gradient)
    assert squared.params["w"] == pytest.approx(0.5 - 0.1 * gradient * (0.5 * gradient))
    assert metrics_squared["loss"] == metrics["loss"] == pytest.approx(0.5 * gradient)


def test_a_plateau_scales_the_update_and_stays_as_it_was():
    lifter, clips, examples = LinearLifter(1), indexed_clip(16), examples_of_steps(0, 1, 16, 16)
    state, _, _ = compile_step(lifter, clips, plateau=0.25)(examples)
    assert state.params["w"] == pytest.approx(0.5 - 0.25 * 0.1 * np.arange(16).mean())
    assert state.plateau.scale == 0.25


def test_random_windows_start_anew_in_every_epoch_whatever_the_devices_and_the_batch():
    lifter, clips = LinearLifter(4), indexed_clip(33)
    alone, together = (compile_step(lifter, clips, "random", devices=devices) for devices in (1, 8))

    def start(epoch: int, position: int) -> int:
        one = Examples(*(np.full((1, 1), number, np.int32) for number in (epoch, position, 3)))
        return int(alone(one)[1]["first"])

    starts = [[start(epoch, position) for position in range(8)] for epoch in range(2)]
    assert starts[0] != starts[1]
    assert min(map(min, starts)) >= 0
    assert max(map(max, starts)) <= 29
    _, metrics, _ = together(examples_of_steps(1, 1, 8, 8))
    assert metrics["first"] == pytest.approx(np.mean(starts[1]))
