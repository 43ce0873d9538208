"""Samples of a split that are lifted again and again: every frame has the same chance, and everybody is there."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.evaluation.timed_lifting import sample_windows
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17


def people(**frames: int) -> ClipSet:
    poses = np.zeros((max(frames.values()), 17, 3), np.float32)
    return ClipSet.build(
        [Clip(poses[:count, :, :2], poses[:count], None, name, "walk") for name, count in frames.items()], H36M_17
    )


@pytest.mark.parametrize("beginning", [1.0, 0.5])
def test_who_moves_longer_is_in_the_sample_more_often(beginning):
    clips = people(short=500, long=1500)
    windows = sample_windows(build_lifter(config_for("residual_mlp")), clips, 200)
    assert len(windows.start) == 200
    first = windows.start[: int(200 * beginning)]
    assert np.mean(np.asarray(first) < 500) == pytest.approx(0.25, abs=0.02)


def test_of_everybody_there_are_enough_to_be_told_apart():
    clips = people(hardly=15, long=3000)
    windows = sample_windows(build_lifter(config_for("residual_mlp")), clips, 200)
    assert np.sum(np.asarray(windows.start) < 15) == 12
    half = windows.start[: len(windows.start) // 2 + 5]
    assert np.sum(np.asarray(half) < 15) == 9
