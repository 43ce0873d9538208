"""Files that appear when they are complete, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from diffpose_jax.errors import UserError


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; what stands there at the end becomes `path`, after an error it goes.

    The folder is made. Raises UserError where the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
