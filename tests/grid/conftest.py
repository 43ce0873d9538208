"""The job of these tests, measured once for all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffpose_jax.grid.running import run_job

from .jobs import job_text, make_lifters


@pytest.fixture(scope="session")
def lifters(tmp_path_factory, untrained) -> dict[str, Path]:
    return make_lifters(tmp_path_factory.mktemp("lifters"), untrained)


@pytest.fixture(scope="session")
def job(lifters) -> Path:
    path = lifters["archive"].parent / "job.yaml"
    path.write_text(job_text(lifters))
    return path


@pytest.fixture(scope="session")
def done(tmp_path_factory, job) -> Path:
    """The output folder of the job after one undisturbed run; tests read it, and copy it to change it."""
    folder = tmp_path_factory.mktemp("done")
    assert run_job(job, folder, say=lambda line: None) == 0
    return folder


@pytest.fixture
def copied(done, tmp_path) -> Path:
    """A copy of the finished job that a test may damage."""
    return shutil.copytree(done, tmp_path / "out")
