"""A unit has one worker at a time, and a worker that is gone does not keep it."""

from __future__ import annotations

import json
import os
import time

import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.grid.claims import Claims


def of_another(pid: int = 1, renewed: int = 0, host: str = "another") -> str:
    return json.dumps({"host": host, "pid": pid, "token": "x", "renewed": renewed})


def test_a_claim_ends_with_its_block(tmp_path):
    claims = Claims(tmp_path)
    with claims.claim("unit") as ours:
        assert ours
        said = json.loads((tmp_path / "unit.claim").read_text())
        assert said["pid"] == os.getpid()
        assert str(os.getpid()) in claims.holder("unit")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), claims.claim("unit"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_renewed_while_its_block_runs(tmp_path):
    with Claims(tmp_path, seconds=0.3).claim("unit"):
        before = (tmp_path / "unit.claim").read_text()
        time.sleep(0.2)
        assert (tmp_path / "unit.claim").read_text() != before


def test_a_claim_of_another_machine_holds_until_it_has_not_changed_for_so_long(tmp_path):
    claims, path = Claims(tmp_path, seconds=0.2), tmp_path / "unit.claim"
    path.write_text(of_another())
    # The age of the file says nothing: clocks of machines differ.
    os.utime(path, (0, 0))
    with claims.claim("unit") as ours:
        assert not ours
    time.sleep(0.25)
    path.write_text(of_another(renewed=1))
    with claims.claim("unit") as ours:
        assert not ours
    time.sleep(0.25)
    with claims.claim("unit") as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_gone_from_this_machine_holds_nothing(tmp_path):
    claims, path = Claims(tmp_path), tmp_path / "unit.claim"
    with claims.claim("unit"):
        mine = json.loads(path.read_text())
    for pid, taken in ((os.getppid(), False), (2**22 + 1, True), (os.getpid(), True)):
        path.write_text(json.dumps(mine | {"pid": pid}))
        with claims.claim("unit") as ours:
            assert ours is taken, pid
    # In a container of the same name the number means another process.
    path.write_text(json.dumps(mine | {"pid": 2**22 + 1, "space": "another"}))
    with claims.claim("unit") as ours:
        assert not ours


@pytest.mark.parametrize("text", ["", "half a cl", "[]", '{"pid": "x"}'])
def test_a_claim_that_says_nothing_holds_for_its_time(tmp_path, text):
    (tmp_path / "unit.claim").write_text(text)
    claims = Claims(tmp_path, seconds=0.1)
    with claims.claim("unit") as ours:
        assert not ours
    time.sleep(0.15)
    with claims.claim("unit") as ours:
        assert ours


def test_the_claim_of_a_faster_worker_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "unit.claim"
    path.write_text(of_another())
    claims, rename = Claims(tmp_path, seconds=0.0), os.rename

    def be_slower(source, target):
        path.write_text(of_another(pid=2))  # in between, another worker took the unit over
        rename(source, target)

    monkeypatch.setattr(os, "rename", be_slower)
    with claims.claim("unit") as ours:
        assert not ours
    assert json.loads(path.read_text())["pid"] == 2


def test_who_was_taken_for_dead_does_not_remove_the_claim_of_its_successor(tmp_path):
    path = tmp_path / "unit.claim"
    with Claims(tmp_path).claim("unit"):
        path.rename(tmp_path / "taken")
        path.write_text(of_another())
    assert json.loads(path.read_text())["host"] == "another"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match=r"nowhere/unit\.claim: cannot be written"),
        Claims(tmp_path / "nowhere").claim("unit"),
    ):
        pass
