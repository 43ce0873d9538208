"""Files appear when they are complete, and records are read as they were written or not at all."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.records import read_record, write_record
from diffpose_jax.whole_files import write_text, write_whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "poses.bvh"
    write_text(path, "before")

    def fail_halfway():
        with write_whole(path) as part:
            assert part.suffix == path.suffix
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


_WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
from diffpose_jax.errors import UserError
from diffpose_jax.whole_files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
try:
    with write_whole(Path(sys.argv[1])) as part, part.open("wb") as file:
        np.savez(file, poses=np.zeros(100000))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit of file sizes here")
def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez(path, poses=np.ones(3))
    command = [sys.executable, "-c", _WRITE, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"{path}: cannot be written: File too large\n"
    assert run.stderr == ""
    assert np.load(path)["poses"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]


_HOLD = """
import sys, time
from pathlib import Path
from diffpose_jax.whole_files import write_whole
with write_whole(Path(sys.argv[1])) as part:
    part.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_what_a_living_one_writes_is_not(tmp_path):
    paths = [tmp_path / "a.npz", tmp_path / "b.json"]
    killed, living = (
        subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True) for path in paths
    )
    try:
        for process in (killed, living):
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
        killed.kill()
        killed.wait()
        (mine,), (theirs,) = tmp_path.glob(".a.*.part.npz"), tmp_path.glob(".b.*.part.json")
        foreign = f".a.{'0' * 8}-{killed.pid}-{'0' * 8}.part.npz"  # of another machine
        others = [tmp_path / foreign, tmp_path / mine.name.removeprefix(".")]
        for other in others:
            other.write_text("of somebody else")
        write_text(tmp_path / "c.md", "whole")
        assert not mine.exists()
        assert theirs.exists()
        assert all(other.exists() for other in others)
    finally:
        living.kill()
        living.wait()
        assert living.stdout is not None
        assert killed.stdout is not None
        living.stdout.close()
        killed.stdout.close()
    write_text(tmp_path / "c.md", "whole")
    assert not theirs.exists()
    assert (tmp_path / "c.md").read_text() == "whole"


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path):
    path = tmp_path / f"{'x' * 240}.json"
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_a_record_comes_back_and_a_changed_one_is_refused(tmp_path):
    path = tmp_path / "folds.json"
    write_record(path, "folds", {"folds": [["S1"], ["S2"]], "rate": 0.1})
    assert read_record(path, "folds") == {"folds": [["S1"], ["S2"]], "rate": 0.1}
    path.write_text(path.read_text().replace("S2", "S3"))
    with pytest.raises(UserError, match="it is damaged or was edited"):
        read_record(path, "folds")


def test_records_without_a_version_are_read_and_those_of_a_later_one_named(tmp_path):
    path = tmp_path / "folds.json"
    path.write_text(json.dumps({"folds": []}))
    assert read_record(path, "folds") == {"folds": []}
    path.write_text(json.dumps({"format": "diffpose_jax folds 9"}))
    with pytest.raises(UserError, match="found 9, of a later release"):
        read_record(path, "folds")
    path.write_text(json.dumps({"format": "diffpose_jax calibration 1"}))
    with pytest.raises(UserError, match="expected the format 'diffpose_jax folds'"):
        read_record(path, "folds")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"null", b"", b"{"])
def test_what_is_no_json_object_is_one_line(tmp_path, content):
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"calibration\.json: expected"):
        read_record(path, "calibration")
