"""Sets of many lengths have few sizes, and padding changes no figure."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import diffpose_jax as dp
from diffpose_jax.evaluation.padding import LARGEST, pad_batch, pad_count


def test_counts_are_padded_to_few_sizes_and_large_sets_not_at_all():
    counts = np.arange(1, 5000)
    padded = np.array([pad_count(count) for count in counts])
    assert (padded >= counts).all()
    assert len(np.unique(padded)) == 5
    assert pad_count(LARGEST + 1) == LARGEST + 1


@pytest.mark.parametrize("most", [1, 7, 256])
def test_a_batch_is_at_most_what_was_asked_for_and_never_twice_what_is_needed(most):
    for count in range(17, 600):
        size = pad_batch(count, most)
        assert size == most or count <= size < 2 * count
    assert pad_batch(1, most) == 1


def test_clips_of_other_lengths_are_lifted_by_the_programs_of_the_first(diffupose_workdir):
    model = dp.load(diffupose_workdir)
    keypoints = np.random.default_rng(0).uniform(300, 700, (120, 17, 2))
    settings = {"layout": "h36m17", "image_size": (1000, 1000), "hypotheses": 2, "noise": "frame"}
    longest = model.lift(keypoints, **settings)
    model.lift(keypoints[:100], **settings)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    for length in (97, 71):
        shorter = model.lift(keypoints[:length], **settings)
        np.testing.assert_array_equal(shorter.hypotheses, longest.hypotheses[:length])
    assert sum("backend_compile" in event for event in compiled) <= 4
