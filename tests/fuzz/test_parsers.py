"""No input makes a parser fail with anything but one line, take long or take much memory.

CI tries a few hundred inputs of each parser. `FUZZ=20000 pytest -n0 tests/fuzz` tries that many, of other seeds with
`FUZZ_SEED=1`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import resource
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
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
SECONDS, BYTES = 5.0, 1 << 30  # of one input
TARGETS = inputs.targets()


@pytest.mark.parametrize("name", TARGETS)
def test_a_good_file_is_read(name, tmp_path):
    file, write, read = TARGETS[name]
    write(tmp_path / file)
    if name != "keypoint record":  # a good one has many numbers; its damage is the same
        read(tmp_path / file)


def check_read(read: Callable[[Path], object], path: Path) -> None:
    """Raises AssertionError where a parser fails with anything but one line, or takes long or much memory."""
    error: BaseException | None = None
    tracemalloc.reset_peak()
    before, begin = tracemalloc.get_traced_memory()[0], time.monotonic()
    with warnings.catch_warnings(), limited_memory():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except Exception as raised:
            error = raised
    seconds, taken = time.monotonic() - begin, tracemalloc.get_traced_memory()[1] - before
    assert error is None or isinstance(error, UserError), f"{type(error).__name__}: {error}"
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert taken < BYTES, f"{taken / 1e9:.1f} GB"
    while error is not None:
        # One line, but of a machine that had too little memory: a larger one would have been filled.
        assert not isinstance(error, MemoryError), "as much memory as there is"
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Lets this process have some more address space than it has, so that no input fills the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 4 * BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def traced() -> Iterator[None]:
    """Counts what Python and numpy allocate, touched or not."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_one_line(name, tmp_path, traced):
    file, write, read = TARGETS[name]
    write(tmp_path / file)
    content, rng = (tmp_path / file).read_bytes(), np.random.default_rng([SEED, len(name)])
    for number, damaged in enumerate(inputs.mutations(content, rng, COUNT)):
        (tmp_path / file).write_bytes(damaged)
        try:
            check_read(read, tmp_path / file)
        except AssertionError as error:
            kept = tmp_path / "found"
            kept.write_bytes(damaged)
            raise AssertionError(f"input {number} of {name}, kept in {kept}: {error}") from error


def _refuse_for_memory(path: Path) -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise UserError(f"{path}: expected less, found more") from error


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda path: np.empty(3 << 30, np.uint8), "3.2 GB"),  # untouched
        (lambda path: bytes(2 << 30), "2.1 GB"),
        (_refuse_for_memory, "as much memory as there is"),
        (lambda path: {}["x"], "KeyError"),
        (lambda path: time.sleep(0.02), "0.0 s"),
    ],
)
def test_what_takes_too_much_is_noticed(read, said, tmp_path, traced, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 0.01 if said == "0.0 s" else 10)
    with pytest.raises(AssertionError, match=said):
        check_read(read, tmp_path / "any")


_BOMBS = {"bvh": inputs.BVH.replace("0.0333", "100000").encode(), "calibration": b'{"step": 7, "temperature": 1e30}'}


@pytest.mark.parametrize("name", _BOMBS)
def test_a_number_that_would_take_all_memory_is_refused(name, tmp_path):
    file, _, read = TARGETS[name]
    (tmp_path / file).write_bytes(_BOMBS[name])
    with pytest.raises(UserError):
        read(tmp_path / file)


@pytest.mark.parametrize("name", ["archive", "cmu", "keypoints.npz", "npz of pickles", "lifted people"])
def test_an_array_that_is_said_to_be_larger_than_its_bytes_is_refused_before_it_takes_them(name, tmp_path, traced):
    file, write, read = TARGETS[name]
    write(tmp_path / file)
    members = inputs._members((tmp_path / file).read_bytes())
    for member in members:
        header = io.BytesIO()
        shape = {"descr": "<i2", "fortran_order": False, "shape": (1 << 32, 17, 3)}
        np.lib.format.write_array_header_1_0(header, shape)
        changed = {**members, member: header.getvalue() + bytes(100)}
        (tmp_path / file).write_bytes(inputs._pack(changed, compress=False))
        with pytest.raises(UserError):
            read(tmp_path / file)
        check_read(read, tmp_path / file)


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
