"""Tests run on eight virtual CPU devices and refuse implicit broadcasting and dtype promotion."""

from __future__ import annotations

import ctypes
import os
import tempfile

# Both must be set before jax is imported. NPROC sizes XLA's thread pool: with fewer threads than twice the devices a
# collective can wait for a participant that never gets a thread.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiling is most of the time here: what one test or run has compiled, the next one reuses, subprocesses too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "diffpose_jax_tests_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Programs of these sizes run in no time: without most optimisations they compile in two thirds of it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# Where tests compile networks or whole programs, seconds each: all of them are marked slow.
SLOW = (
    *("models", "lifters", "docs", "experiments", "data/detector", "diffusion/test_hypotheses.py"),
    *("mixtures/test_fitting.py", "training/test_loop.py", "training/test_step.py", "training/test_bfloat16.py"),
    "test_calibrate.py",
    *("test_convert.py", "test_evaluate.py", "test_parity.py", "test_prepare_mixtures.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what lies in the places of `SLOW`."""
    places = [Path(__file__).parent / place for place in SLOW]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def release_compiled() -> Iterator[None]:
    """Lets go of what a module compiled: each executable holds several of the memory maps a process may have."""
    yield
    _release()


@pytest.fixture
def release_after_each() -> Iterator[None]:
    """The same after every test, for modules whose tests compile much and share nothing."""
    yield
    _release()


def _release() -> None:
    jax.clear_caches()
    # Compiling frees gigabytes that glibc keeps for itself; elsewhere there is no such function.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.fixture(scope="session")
def untrained() -> Callable[[Path, ConfigDict], Path]:
    """Makes a work directory as training leaves it, with random variables of step 7; returns its path."""
    from diffpose_jax.config import save_config
    from diffpose_jax.lifters.batches import example_batch
    from diffpose_jax.registry import build_lifter
    from diffpose_jax.workdir.checkpoints import Checkpoints

    def make(path: Path, config: ConfigDict) -> Path:
        lifter = build_lifter(config)
        path.mkdir()
        save_config(config, path / "config.json")
        best = Checkpoints(path / "best", 1)
        best.save(7, jax.jit(lifter.init)(jax.random.key(0), example_batch(lifter)))
        best.close()
        return path

    return make


@pytest.fixture(scope="session")
def diffupose_workdir(tmp_path_factory, untrained) -> Path:
    """The work directory of a tiny DiffuPose with random variables and three reverse steps."""
    from diffpose_jax.registry import config_for

    config = config_for("diffupose")
    config.lifter.update({"width": 32, "num_layers": 1})
    config.diffusion.steps = 3
    config.evaluation.update({"batch_size": 4, "flip": "none"})
    return untrained(tmp_path_factory.mktemp("runs") / "diffupose", config)


@pytest.fixture
def run_program(capfd) -> Callable[..., tuple[int, str, str]]:
    """Runs a program, given as its module, and returns exit code, standard output and standard error."""
    from diffpose_jax import cli

    def run(program: ModuleType, *arguments: object) -> tuple[int, str, str]:
        values = flags.FlagValues()
        program.define_flags(values)
        name = program.__name__.rpartition(".")[2]
        with pytest.raises(SystemExit) as exit_:
            cli.run(lambda argv: program.main(argv, values), [name, *map(str, arguments)], values)
        return exit_.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def prepare_program(run_program) -> Callable[..., tuple[int, str, str]]:
    """Runs `prepare` and returns exit code, standard output and standard error."""
    from diffpose_jax import prepare

    return partial(run_program, prepare)
