"""The measurement of limits runs on small inputs and says what it measured."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from diffpose_jax.data.archives import load_archive

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def limits():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(EXPERIMENTS)
        yield importlib.import_module("limits")


def test_archives_have_clips_of_a_thousand_frames(limits, tmp_path):
    clips = load_archive(limits.make_archive(tmp_path / "a.npz", 2100))["test"]
    assert clips.clip_length.tolist() == [1000, 1000, 100]


def test_a_program_is_run_and_its_memory_read(limits):
    found = re.fullmatch(r"(\d+) s of processor time, (\d+) s, ([\d.]+) GB", limits.run("--version"))
    assert found is not None
    assert 0.005 < float(found[3]) < 4


def test_digests_are_timed_beside_the_load_that_they_are_part_of(limits, tmp_path):
    line = limits.time_digests(tmp_path / "checkpoint", {"weight": np.ones((500, 500), np.float32)}, 1)
    assert line.startswith("1 MB: restored and verified in ")
