"""The log of a run: a full disk is one line, and closing the log after it says nothing more."""

from __future__ import annotations

import errno
import os

import pytest
from tensorboardX.event_file_writer import EventsWriter

from diffpose_jax.errors import UserError
from diffpose_jax.training.logging import MetricsLog


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 0.5})

    def fail(self: EventsWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventsWriter, "flush", fail)
    with pytest.raises(UserError, match=f"{tmp_path}: metrics cannot be written: No space left on device"):
        log.write(2, {"loss": 0.4})
    log.close()
