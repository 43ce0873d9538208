"""Released models: a trained work directory as a few small files, such as those that come with the package.

A release holds `config.json`, `weights.npz` (the averaged variables in half precision), `release.json` (step, digest of
the weights), and where there are `calibration.json`, `keypoints.json` and `card.md`. Wherever a program takes a work
directory it takes a release, and `pretrained:NAME` means the one of that name in the package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config, save_config
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.records import digest_json, read_json_object, read_record, write_record
from diffpose_jax.whole_files import write_whole
from diffpose_jax.workdir.directory import writable_directory

PREFIX = "pretrained:"
WEIGHTS, RECORD = "weights.npz", "release.json"
# What else of a work directory belongs to its release.
_BESIDE = ("calibration.json", "keypoints.json", "card.md")
_SHIPPED = Path(__file__).resolve().parents[1] / "pretrained"


def shipped_releases() -> dict[str, Path]:
    """The releases that come with the package, `{name: folder}`."""
    return {path.parent.name: path.parent for path in sorted(_SHIPPED.glob(f"*/{WEIGHTS}"))}


def locate(workdir: str | os.PathLike) -> Path:
    """The folder of a work directory or of `pretrained:NAME`. Raises UserError, with all names, for an unknown one.

    A bare name is that of a release too where there is no such folder.
    """
    text, shipped = os.fspath(workdir), shipped_releases()
    name = text.removeprefix(PREFIX)
    if text.startswith(PREFIX) and name not in shipped:
        raise UserError(f"{text}: expected one of {', '.join(shipped) or 'none in this package'}, found {name!r}")
    if text.startswith(PREFIX) or (name in shipped and not Path(text).exists()):
        return shipped[name]
    return Path(workdir)


def is_shipped(workdir: str | os.PathLike) -> bool:
    """Whether this names a release of the package, into whose folder nothing is written. Raises as `locate` does."""
    return locate(workdir) in shipped_releases().values()


def is_release(path: Path) -> bool:
    """Whether a folder holds a release instead of checkpoints."""
    return (path / WEIGHTS).is_file()


def write_release(workdir: Path, directory: Path, config: Any, variables: Mapping[str, Any], step: int) -> Path:
    """Writes the release of a trained work directory; returns its folder.

    Args:
        workdir: The work directory, whose calibration and record of keypoints are copied.
        directory: The folder of the release; files of an earlier one are replaced.
        config: The config.
        variables: The averaged variables.
        step: The step that they are of.
    """
    directory.mkdir(parents=True, exist_ok=True)
    leaves = {
        "/".join(part.key for part in path): np.asarray(leaf).astype(np.float16)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    for name, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise UserError(f"{workdir}: expected weights within half precision, found {name} beyond it")
    with write_whole(directory / WEIGHTS) as part, part.open("wb") as file:
        np.savez_compressed(file, **leaves)  # type: ignore[arg-type]  # numpy's stub takes a keyword for allow_pickle
    save_config(config, directory / "config.json")
    record = {"step": step, "weights": _digest(directory / WEIGHTS), "config": _config_digest(directory)}
    write_record(directory / RECORD, "release", record)
    for name in _BESIDE if workdir.resolve() != directory.resolve() else ():
        (directory / name).unlink(missing_ok=True)
        if (workdir / name).is_file():
            shutil.copyfile(workdir / name, directory / name)
    return directory


def drop_folds(config: ConfigDict, variables: Mapping[str, Any]) -> tuple[ConfigDict, Mapping[str, Any]]:
    """The config and variables of a lifter whose cross-fitted context has no versions but the one of all subjects.

    The others lift training subjects alone, and five sixths of a release would be theirs.
    """
    if not config.context.get("folds"):
        return config, variables
    changed = copy_config(config)
    del changed.context["folds"]
    frozen = dict(variables["frozen"])
    return changed, {**variables, "frozen": {**frozen, "context": frozen["context"]["full"]}}


def copy_release(workdir: str | os.PathLike, directory: str | os.PathLike) -> Path:
    """Copies a release to a directory of the user's, where it can be calibrated anew; returns it.

    Raises UserError where something else lies there that the copy would replace.
    """
    source, target = locate(workdir), writable_directory(directory)
    if (target / "config.json").exists() and not is_release(target):
        raise UserError(f"{target}: expected a directory for a copy of {workdir}, found a work directory")
    for file in source.iterdir():
        if file.is_file() and file.resolve() != (target / file.name).resolve():
            shutil.copyfile(file, target / file.name)
    return target


def read_release(path: Path, template: Any) -> tuple[int, Any]:
    """The step and the float32 variables of a release.

    Args:
        path: Its folder.
        template: A tree of arrays or ShapeDtypeStructs with the shapes of the lifter's variables.

    Raises:
        UserError: A file is missing, damaged or of another network.
    """
    try:
        record = read_record(path / RECORD, "release")
        step, digest = int(record["step"]), str(record["weights"] if "weights" in record else record["sha256"])
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / RECORD}: expected the record of a release; {error}") from error
    if record.get("config", _config_digest(path)) != _config_digest(path):
        raise UserError(f"{path / 'config.json'}: expected the config of the release, found another; it is damaged")
    if _digest(path / WEIGHTS) != digest:
        raise UserError(
            f"{path / WEIGHTS}: expected the weights with digest {digest[:12]}..., found others; it is damaged"
        )
    arrays = read_npz(path / WEIGHTS)

    def load(place: tuple[Any, ...], leaf: Any) -> jax.Array:
        name = "/".join(part.key for part in place)
        found = arrays.get(name)
        if found is None or found.shape != leaf.shape:
            shape = "none" if found is None else found.shape
            raise UserError(f"{path / WEIGHTS}: expected {name} of shape {leaf.shape}, found {shape}")
        return jnp.asarray(found, leaf.dtype)

    return step, jax.tree_util.tree_map_with_path(load, template)


def _config_digest(directory: Path) -> str:
    content = read_json_object(directory / "config.json")
    content.pop("format", None)
    return digest_json(content)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
