"""No input makes a parser fail with anything but one line, take long or take much memory.

CI tries a few hundred inputs of each parser. `FUZZ=20000 pytest -n0 tests/fuzz` tries that many, of other seeds with
`FUZZ_SEED=1`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from diffpose_jax.errors import UserError

_spec = importlib.util.spec_from_file_location("fuzz_inputs", Path(__file__).with_name("inputs.py"))
assert _spec is not None
inputs = importlib.util.module_from_spec(_spec)
assert _spec.loader is not None
sys.modules["fuzz_inputs"] = inputs
_spec.loader.exec_module(inputs)

COUNT, SEED = int(os.environ.get("FUZZ", "200")), int(os.environ.get("FUZZ_SEED", "0"))
SECONDS = 5.0
TARGETS = inputs.targets()


@pytest.mark.parametrize("name", TARGETS)
def test_a_good_file_is_read(name, tmp_path):
    file, write, read = TARGETS[name]
    write(tmp_path / file)
    if name != "keypoint record":  # a good one has many numbers; its damage is the same
        read(tmp_path / file)


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_one_line(name, tmp_path):
    file, write, read = TARGETS[name]
    write(tmp_path / file)
    content, rng = (tmp_path / file).read_bytes(), np.random.default_rng([SEED, len(name)])
    for number, damaged in enumerate(inputs.mutations(content, rng, COUNT)):
        (tmp_path / file).write_bytes(damaged)
        begin = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(tmp_path / file)
            except UserError:
                continue
            except Exception as error:
                kept = tmp_path / "found"
                kept.write_bytes(damaged)
                raise AssertionError(f"input {number} of {name}, kept in {kept}: {type(error).__name__}") from error
            finally:
                assert time.monotonic() - begin < SECONDS, f"input {number} of {name} takes too long"


_BOMBS = {"bvh": inputs.BVH.replace("0.0333", "100000").encode(), "calibration": b'{"step": 7, "temperature": 1e30}'}


@pytest.mark.parametrize("name", _BOMBS)
def test_a_number_that_would_take_all_memory_is_refused(name, tmp_path):
    file, _, read = TARGETS[name]
    (tmp_path / file).write_bytes(_BOMBS[name])
    with pytest.raises(UserError):
        read(tmp_path / file)


@pytest.mark.parametrize("name", ["archive", "cmu", "keypoints.npz", "npz of pickles"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(name, tmp_path):
    file, _, read = TARGETS[name]
    bomb = {"meta.npy": bytes(300 << 20), "keypoints.npy": b"", "positions.npy": b""}
    (tmp_path / file).write_bytes(inputs._pack(bomb, compress=True))
    tracemalloc.start()
    with pytest.raises(UserError):
        read(tmp_path / file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
