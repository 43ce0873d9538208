"""Claims: which process works at a unit, as leases in a folder that processes on several machines share.

A claim is a file that only one process can create. Its holder rewrites it every few seconds. Others watch what it says:
one that has not changed for `seconds` by their own clock, or whose process is gone from their own machine, is taken
over; no two clocks are compared. Whoever loses a claim goes on: both find the same numbers, and files are written
whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffpose_jax.errors import UserError
from diffpose_jax.processes import describe_process, is_gone

SUFFIX = ".claim"
_WIDTH = 512  # a claim is rewritten in place, always as long, so that a full disk does not stand in its way


class Claims:
    """The claims of one worker.

    Args:
        folder: The folder that all workers share.
        seconds: How long a claim that does not change is believed.
    """

    def __init__(self, folder: Path, seconds: float = 60.0):
        self._folder, self._seconds = folder, seconds
        self._watched: dict[str, tuple[bytes, float]] = {}  # what a claim said, and since when, by our clock

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Claims a unit while the block runs; yields whether it is ours. Raises UserError where nothing is writable."""
        path = self._folder / (name + SUFFIX)
        opened = self._create(path)
        if opened is None:
            yield False
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._renew, args=(opened, ended), daemon=True)
        thread.start()
        try:
            yield True
        finally:
            ended.set()
            thread.join()
            _release(path, opened)

    def holder(self, name: str) -> str:
        """Who holds a claim, for messages."""
        found = _parse(_read(self._folder / (name + SUFFIX)) or b"")
        return f"{found.get('host', 'unknown host')}, pid {found.get('pid', '?')}"

    def _create(self, path: Path) -> int | None:
        if (said := _read(path)) is not None and not self._take_away(path, said):
            return None
        try:
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error
        self._watched.pop(path.name, None)
        try:
            os.pwrite(opened, _text(secrets.token_hex(8), 0), 0)
        except OSError as error:
            _release(path, opened)
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error
        return opened

    def _renew(self, opened: int, ended: threading.Event) -> None:
        token = _parse(os.pread(opened, _WIDTH, 0)).get("token", "")
        count = 0
        while not ended.wait(self._seconds / 6):
            count += 1
            with contextlib.suppress(OSError):
                # Through the open file: a claim that was taken over has another file, which this does not touch.
                os.pwrite(opened, _text(token, count), 0)

    def _take_away(self, path: Path, said: bytes) -> bool:
        """Removes a claim whose holder is gone; returns whether there is none now."""
        before, since = self._watched.get(path.name, (None, 0.0))
        if before != said:
            since = time.monotonic()
            self._watched[path.name] = said, since
        if not _is_gone(_parse(said)) and time.monotonic() - since < self._seconds:
            return False
        taken = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            os.rename(path, taken)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise UserError(f"{path}: cannot be removed: {error.strerror}") from error
        fresh = _read(taken) != said  # another worker was faster, and this is already its own claim
        if fresh:
            with contextlib.suppress(OSError):
                os.link(taken, path)
        taken.unlink(missing_ok=True)
        return not fresh


def _text(token: str, count: int) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    holder = {**describe_process(), "token": token, "renewed": count, "time": now}
    return json.dumps(holder).ljust(_WIDTH - 1).encode() + b"\n"


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder does not run any more. This process holds no claim that it asks for: an earlier one had its
    number.
    """
    return is_gone(holder) or {name: holder.get(name) for name in describe_process()} == describe_process()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(said: bytes) -> dict[str, Any]:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _release(path: Path, opened: int) -> None:
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == os.fstat(opened).st_ino:
            path.unlink()
    os.close(opened)
