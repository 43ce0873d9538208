"""Small JSON files of the package: written whole, with the version of their format and a digest of what they hold."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpose_jax.errors import UserError
from diffpose_jax.whole_files import write_text

# The newest version of every kind of record. Files without a version are of the first.
VERSIONS = {"calibration": 2, "keypoints": 2, "folds": 2, "release": 2, "results": 2,
            "unit": 2, "failed unit": 2, "job summary": 2}  # fmt: skip
# No file of this package is larger, and a file that is read whole should not fill the memory.
MAX_BYTES = 256 << 20


def digest_json(content: Any) -> str:
    """The SHA-256 of JSON content, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_record(path: Path, kind: str, content: Mapping[str, Any], indent: int | None = 1) -> None:
    """Writes a record, replacing an earlier one.

    Args:
        path: The file.
        kind: One of `VERSIONS`.
        content: What it holds, without the keys 'format' and 'sha256'.
        indent: Of the JSON text; None: one line.

    Raises:
        UserError: The file cannot be written.
    """
    record = {"format": f"diffpose_jax {kind} {VERSIONS[kind]}", **json.loads(json.dumps(content, allow_nan=False))}
    write_text(path, json.dumps({**record, "sha256": digest_json(record)}, indent=indent) + "\n")


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """What a record holds, of this version or an earlier one.

    Raises:
        UserError: The file cannot be read, is damaged, of another kind or of a later version.
    """
    found = read_json_object(path)
    if "format" not in found and "sha256" not in found:
        return found
    stated = re.fullmatch(rf"diffpose_jax {kind} (\d{{1,6}})", str(found.get("format")))
    if not stated:
        raise UserError(f"{path}: expected the format 'diffpose_jax {kind}', found {str(found.get('format'))[:80]!r}")
    if int(stated[1]) > VERSIONS[kind]:
        raise UserError(f"{path}: expected version {VERSIONS[kind]} or earlier, found {stated[1]}, of a later release")
    if int(stated[1]) > 1 and found.pop("sha256", None) != digest_json(found):
        raise UserError(f"{path}: expected what was written, found another digest: it is damaged or was edited")
    del found["format"]
    return found


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError where there is none, or it cannot be read."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: expected at most {MAX_BYTES >> 20} MB of JSON, found {size >> 20} MB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: expected JSON, found lists or objects nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found
