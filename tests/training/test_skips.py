"""A step whose loss or gradient is not finite changes nothing, is counted, and many of them end training."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import device_clips, training_windows
from diffpose_jax.lifters.base import Aux, Lifter
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.parallel import AXIS
from diffpose_jax.sections import DataOptions, TrainingOptions
from diffpose_jax.skeleton import H36M_17, Skeleton
from diffpose_jax.training.skips import BatchOrder, Diverged, SkippedSteps, count_skips, mean_of_finite
from diffpose_jax.training.state import create_state
from diffpose_jax.training.step import TrainData, examples_of_steps, make_step


@dataclasses.dataclass(frozen=True)
class OneWeight(Lifter):
    """Its loss is one weight times the mean first coordinate of joint 1."""

    frames: int = 1
    skeleton: Skeleton = H36M_17

    def init(self, key, batch):
        return {"params": {"w": jnp.float32(0.5)}}

    def loss(self, variables, key, batch):
        value = variables["params"]["w"] * jnp.mean(batch.poses[:, :, 1, 0])
        return value, Aux({"loss": value}, {})


def make_clips(*values: float) -> ClipSet:
    """Clips of one frame, whose joint 1 has these first coordinates."""
    clips = []
    for number, value in enumerate(values):
        poses = np.zeros((1, 17, 3), np.float32)
        poses[0, 1, 0] = value
        clips.append(Clip(poses[..., :2] * 0, poses, None, f"S{number}", "walk"))
    return ClipSet.build(clips, H36M_17)


def run_steps(values, steps):
    """State, metrics and counts after steps of one example each; NaN stands for a pose that overflows."""
    clips, optimizer, lifter = make_clips(*np.nan_to_num(values)), optax.adam(0.1), OneWeight()
    on_device = device_clips(clips)
    poses = np.array(on_device.poses)
    poses[:, 1, 0] = values
    data = TrainData(on_device._replace(poses=jnp.asarray(poses)), training_windows(clips, 1, "centred"))
    step = make_step(lifter, optimizer, 0, DataOptions(flip=False), TrainingOptions(ema_decay=0.9))
    state = create_state(lifter, optimizer, jax.random.key(0), example_batch(lifter))
    examples = examples_of_steps(0, steps, 1, len(values))
    mapped = jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None, devices=jax.devices()[:1])
    return mapped(state, data, jax.tree.map(lambda part: part[None], examples))


def test_a_step_that_is_not_finite_leaves_everything_but_the_count():
    state, metrics, skips = run_steps([np.nan], 2)
    assert int(state.step) == 2
    assert float(state.params["w"]) == float(state.ema["params"]["w"]) == 0.5
    assert float(state.optimizer[0].mu["w"]) == 0
    assert [int(part) for part in skips] == [2, 2, 0]
    assert np.isnan(metrics["loss"])


def test_metrics_are_those_of_the_other_steps():
    state, metrics, skips = run_steps([1.0, np.nan, 1.0, 1.0], 4)
    assert int(skips.total) == 1
    assert np.isfinite(metrics["loss"])
    assert float(state.params["w"]) < 0.3  # three steps of about 0.1


def test_counts_and_means_of_a_dispatch():
    finite = jnp.array([True, False, True, False, False])
    assert [int(part) for part in count_skips(finite)] == [3, 2, 1]
    assert [int(part) for part in count_skips(jnp.array([True, True]))] == [0, 0, 2]
    values = jnp.array([1.0, jnp.nan, 4.0, jnp.inf, jnp.nan])
    assert float(mean_of_finite(values, finite)) == 2.5


def tell(tracker, done, total, last, first):
    """Tells a tracker of one dispatch of two steps, with clips 0 and 1, and reads it at once."""
    examples = np.array([[0], [0]]), np.array([[0], [1]])
    tracker.add(done, tuple(np.int32(part) for part in (total, last, first)), *examples)
    tracker.settle()


def make_tracker(**options) -> SkippedSteps:
    clips = make_clips(1.0, 1e5)
    training = TrainingOptions(inner_steps=2, steps=100, log_every=2, **options)
    return SkippedSteps(training, BatchOrder(clips, training_windows(clips, 1, "centred"), 0))


def test_many_in_a_row_end_training_and_say_from_where():
    tracker = make_tracker(skips_in_a_row=4)
    tell(tracker, 2, 1, 1, 1)
    assert (tracker.total, tracker.in_a_row) == (1, 1)
    tell(tracker, 4, 2, 2, 0)
    assert "3 steps skipped" in tracker.text()
    with pytest.raises(Diverged, match=r"not finite in 5 steps .* smaller --config\.training\.learning_rate") as ended:
        tell(tracker, 6, 2, 2, 0)
    assert ended.value.suspect == 1
    tell(tracker, 8, 1, 0, 0)
    assert tracker.in_a_row == 0


def test_a_run_that_should_stop_names_the_clip():
    with pytest.raises(Diverged, match=r"step 3: .*clip 'S[01] walk' has the largest values of its batch, up to 1e?"):
        tell(make_tracker(non_finite="stop"), 4, 1, 0, 0)
