"""A tiny dataset and a tiny config: seconds of training, every moving part."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.registry import config_for
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.training.loop import Summary, train


def _clips(rng: np.random.Generator, count: int, frames: int) -> ClipSet:
    clips = []
    for number in range(count):
        poses = 0.3 * rng.standard_normal((frames, 17, 3)).astype(np.float32)
        poses -= poses[:, :1]
        clips.append(Clip(poses[..., :2] / 4, poses, np.full((frames, 3), 4, np.float32), f"S{number}", "walk"))
    return ClipSet.build(clips, H36M_17)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of an archive with 90 train frames and 20 frames each of valid and test."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    save_archive(path, {"train": _clips(rng, 3, 30), "valid": _clips(rng, 1, 20), "test": _clips(rng, 2, 10)})
    return str(path)


def _tiny_config(archive: str) -> ConfigDict:
    config = config_for("diffupose")
    config.data.source = archive
    config.lifter.update(width=32, num_layers=1)
    config.diffusion.steps = 8
    config.training.update(steps=40, batch_size=16, inner_steps=5, learning_rate=1e-3, log_every=10)
    config.training.update(validate_every=20, checkpoint_every=20, valid_frames=16)
    config.evaluation.update(hypotheses=2, batch_size=8)
    return config


@pytest.fixture
def tiny_config(archive: str) -> ConfigDict:
    """DiffuPose of width 32 with one block and eight diffusion steps; 40 training steps."""
    return _tiny_config(archive)


class Trained(NamedTuple):
    """A run of the tiny config to its end, shared: a test that changes the work directory takes a copy."""

    summary: Summary
    workdir: Path

    def copy_to(self, path: Path) -> Path:
        return Path(shutil.copytree(self.workdir, path))


@pytest.fixture(scope="session")
def trained(archive: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    with jax.numpy_dtype_promotion("standard"):
        return Trained(train(_tiny_config(archive), workdir), workdir)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax raises floats to integer powers, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield
