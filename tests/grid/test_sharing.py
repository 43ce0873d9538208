"""What the processes of a cluster say to each other, here without one; two real ones are in `test_processes.py`."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from diffpose_jax import parallel
from diffpose_jax.errors import UserError
from diffpose_jax.grid import sharing

UNIT = SimpleNamespace(unit=SimpleNamespace(name="frame-0123"))


def hear(monkeypatch, *messages: dict) -> None:
    heard = iter(messages)
    monkeypatch.setattr(sharing, "_receive", lambda: next(heard))


def test_a_process_lifts_what_the_first_one_names_until_the_job_ends(monkeypatch):
    hear(monkeypatch, {"unit": "frame-0123", "chunk": 2}, {}, {"unit": "frame-0123", "chunk": 0}, {"end": 1})
    lifted: list[int] = []
    assert sharing.follow([UNIT], lambda planned, chunk: lambda: lifted.append(chunk)) == 1
    assert lifted == [2, 0]


def test_a_process_that_cannot_lift_a_chunk_says_so_and_goes_on(monkeypatch, capsys):
    hear(monkeypatch, {"unit": "frame-0123", "chunk": 0}, {"unit": "frame-0123", "chunk": 1}, {"end": 0})
    lifted: list[int] = []

    def prepare(planned, chunk):
        if chunk == 0:
            raise UserError("cmu.npz: cannot be read")
        return lambda: lifted.append(chunk)

    assert sharing.follow([UNIT], prepare) == 0
    assert lifted == [1]
    assert capsys.readouterr().out == "process 0: UserError: cmu.npz: cannot be read\n"


def test_the_first_process_hears_of_others_that_cannot(monkeypatch):
    sent: list[bytes] = []
    monkeypatch.setattr(sharing.jax, "process_count", lambda: 3)
    monkeypatch.setattr(parallel, "broadcast_bytes", lambda content: sent.append(content) or content)
    monkeypatch.setattr(parallel, "gather_from_processes", lambda value: np.array([value, True, False]))
    with pytest.raises(UserError, match="process 2 of the cluster cannot lift it"):
        sharing.name_chunk("frame-0123", 4)
    sharing.stay_idle()
    sharing.end_job(0)
    assert len({len(message) for message in sent}) == 1


def test_alone_nobody_is_told_anything(monkeypatch):
    monkeypatch.setattr(parallel, "broadcast_bytes", lambda content: 1 / 0)
    sharing.name_chunk("frame-0123", 4)
    sharing.stay_idle()
    sharing.end_job(0)
