"""What was compiled is kept on disk for the next start, in bounded space, and can be switched off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from diffpose_jax.compile_cache import VARIABLE, keep_compiled_programs, remove_oldest

COMPILES = """
import jax
from diffpose_jax.compile_cache import keep_compiled_programs
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
keep_compiled_programs()
jax.jit(lambda x: x * 3 + 1)(1.0).block_until_ready()
print(sum("cache_hits" in event for event in hits))
"""


def count_hits(folder: Path) -> int:
    """How many programs a new process found in the cache."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment = variables | {VARIABLE: str(folder), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", COMPILES], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
    assert count_hits(tmp_path) == 0
    assert count_hits(tmp_path) > 0


def test_the_cache_can_be_switched_off_and_that_of_the_user_goes_before(tmp_path, monkeypatch):
    assert jax.config.jax_compilation_cache_dir is not None  # that of these tests
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert keep_compiled_programs() is None
    assert not any(tmp_path.iterdir())
    monkeypatch.setenv(VARIABLE, "off")
    assert keep_compiled_programs() is None


def test_the_files_not_used_for_longest_go_first(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / name
        path.write_bytes(bytes(100))
        os.utime(path, (10_000 - age, 10_000 - age))
    remove_oldest(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}
    remove_oldest(tmp_path, 250)
    assert len(list(tmp_path.iterdir())) == 2
