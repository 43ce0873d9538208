"""Files that appear when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from diffpose_jax.errors import UserError
from diffpose_jax.processes import is_name_of_gone, name_process

# The end of a temporary name, with the process in it.
_PART = re.compile(r"\.([0-9a-f]{8}-\d+)-[0-9a-f]{8}\.part(\.\w+)?$")


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to; what is there at the end becomes `path`, after an error it is removed.

    The folder is made, the name keeps the suffix of `path`, and the bytes are on disk before `path` changes. What
    processes of this machine that were killed have left in the folder is removed. Raises UserError where the file
    cannot be written.
    """
    path = Path(path)
    # Programs on several machines may write the same file to a shared disk, and their process ids may be equal.
    part = path.with_name(f".{path.stem[:100]}.{name_process()}-{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        yield part
        _flush(part)
        os.replace(part, path)
        _flush(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes the files under temporary names of processes that are gone."""
    with os.scandir(folder) as entries:
        for entry in entries:
            found = _PART.search(entry.name) if entry.name.startswith(".") else None
            if found and is_name_of_gone(found[1]):
                with contextlib.suppress(OSError):  # another process may remove it too
                    os.unlink(entry.path)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole. Raises UserError where it cannot be written."""
    with write_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on disk."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except OSError:  # some systems do not open folders
        if path.is_file():
            raise
        return
    try:
        os.fsync(opened)
    except OSError as error:
        # Some file systems have no such call for folders, and a full disk may be noticed only here for files.
        if path.is_file():
            raise error
    finally:
        os.close(opened)
