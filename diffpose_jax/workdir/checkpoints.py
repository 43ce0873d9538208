"""Checkpoints of a tree of arrays, each complete or absent, restored from the newest that is as it was saved.

Inside every checkpoint is a digest of each leaf, its step and the config that it was saved with. Checkpoints of earlier
versions, which have none of them, are read without this check.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging as python_logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from diffpose_jax.errors import UserError
from diffpose_jax.workdir.seals import check_config, open_seal, seal

# A tree, or what gives it for the config that a checkpoint was saved with.
Template = Any | Callable[[Any], Any]
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)


@functools.cache
def _silence_storage() -> None:
    """Silences what the storage says of errors that it raises anyway: thousands of lines around the one that matters.

    That is Orbax's log, and what TensorStore's threads and Orbax's coroutines, which were under way when another one
    failed, print of themselves after the failure was handled.
    """
    python_logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    python_logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        closed = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        if not closed and not (code is not None and "orbax" in code.co_filename):
            report(unraisable)

    sys.unraisablehook = report_others


class Checkpoints:
    """The checkpoints of one directory, saved in the background, each complete or absent.

    Args:
        directory: Where they are, `<step>` below it; made where it does not exist.
        keep: How many of the newest are kept.
        config: The config of the run, which every checkpoint notes, and compares with when it is restored.
        alone: Whether this process of a cluster reads by itself; otherwise all processes have to call the same methods,
            and wait for each other.
    """

    def __init__(
        self, directory: str | os.PathLike, keep: int, config: ConfigDict | None = None, *, alone: bool = False
    ):
        self._path, self._config = Path(directory).absolute(), config
        _silence_storage()
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        if alone and jax.process_count() > 1:
            us = jax.process_index()
            processes = ocp.options.MultiprocessingOptions(us, {us}, f"process_{us}")
            self._options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=processes)
        self._manager = ocp.CheckpointManager(self._path, options=self._options)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, tree: Any, note: dict | None = None) -> None:
        """Saves a tree of arrays and a small JSON note; a step that is already saved stays as it is."""
        if step in self._manager.all_steps():
            return
        sealed = seal(step, tree, note or {}, self._config)
        if jax.process_count() > 1:
            tree = jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, tree)
        arguments = ocp.args.Composite(tree=ocp.args.StandardSave(tree), note=ocp.args.JsonSave(sealed))
        with self._named_errors(f"checkpoint {step}"):
            if not self._manager.save(step, args=arguments, force=True):
                raise RuntimeError(f"{self._path}: checkpoint {step} was not saved")

    def replace(self, step: int, tree: Any, note: dict | None = None) -> None:
        """Saves a tree in place of those at the same and at later steps, which a continued run reaches again."""
        self.drop_from(step)
        self.save(step, tree, note)

    def drop_from(self, step: int) -> None:
        """Deletes the checkpoints of a step and of later ones."""
        with self._named_errors("a checkpoint"):
            self._manager.wait_until_finished()
            for later in [one for one in self._manager.all_steps() if one >= step]:
                self._manager.delete(later)

    def restore_newest(self, template: Template, *, set_aside: bool = True) -> tuple[int, Any, dict] | None:
        """Restores the newest checkpoint that is as it was saved; one line names each that is not.

        Args:
            template: A tree of arrays or ShapeDtypeStructs, such as `template_of` gives, or a function that gives it
                for the config that the checkpoint was saved with, None where it does not say.
            set_aside: Whether damaged ones are moved to `damaged/` beside the directory; readers leave them.

        Returns:
            Step, tree and note; None where there is no checkpoint.

        Raises:
            UserError: Every checkpoint is damaged, none fits the template, or it was saved with another config.
        """
        steps, damaged = self.steps(), {}
        for step in steps:
            try:
                tree, note = self._restore(step, template)
            except UserError:
                raise
            except MemoryError:
                raise
            except Exception as error:  # Orbax raises whatever its storage layers raise
                damaged[step] = (str(error).splitlines() or [type(error).__name__])[0][:200]
                continue
            if set_aside:
                self._set_aside(damaged)
            for other, reason in () if set_aside else damaged.items():
                logging.warning("%s/%d cannot be read (%s); step %d is used instead", self._path, other, reason, step)
            return step, tree, note
        if steps:
            reason = damaged[steps[0]]
            raise UserError(f"{self._path}: none of the checkpoints {steps} can be read; the newest says: {reason}")
        return None

    def _restore(self, step: int, template: Template) -> tuple[Any, dict]:
        found = self._manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore()))["note"]
        sealed = open_seal(step, found)
        check_config(self._config, sealed.config, f"{self._path}/{step}")
        shapes = template(sealed.config) if callable(template) else template
        arguments = ocp.args.Composite(tree=ocp.args.StandardRestore(shapes))
        tree = self._manager.restore(step, args=arguments)["tree"]
        sealed.verify(tree)
        return tree, sealed.note

    @contextlib.contextmanager
    def _named_errors(self, what: str) -> Iterator[None]:
        """Turns what the storage says of a full or vanished disk into one line."""
        try:
            yield
        except Exception as error:  # Orbax raises whatever its storage layers raise
            reason = _storage_reason(error)
            if reason is None:
                raise
            raise UserError(f"{self._path}: {what} cannot be written: {reason}; those before it are kept") from error

    def set_all_aside(self, reason: str) -> None:
        """Moves all checkpoints to `damaged/` beside the directory, with one line for each."""
        self.set_aside_from(0, reason)

    def set_aside_from(self, step: int, reason: str) -> None:
        """Moves the checkpoints of a step and of later ones to `damaged/`, with one line for each."""
        self.wait()
        self._set_aside({one: reason for one in self.steps() if one >= step})

    def _set_aside(self, damaged: dict[int, str]) -> None:
        # A damaged step left in place would make Orbax refuse later saves of the same or an earlier step.
        if not damaged:
            return
        self._manager.close()
        for step, reason in damaged.items() if jax.process_index() == 0 else ():
            target = self._path.parent / "damaged" / f"{self._path.name}-{step}"
            logging.warning("%s/%d cannot be used (%s); moved to %s", self._path, step, reason, target)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            shutil.move(self._path / str(step), target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager = ocp.CheckpointManager(self._path, options=self._options)

    def wait(self) -> None:
        """Returns when all saves so far are on disk."""
        with self._named_errors("the last checkpoint"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves and releases the directory."""
        try:
            self.wait()
        finally:
            with self._named_errors("the last checkpoint"):
                self._manager.close()


def _storage_reason(error: BaseException | None) -> str | None:
    """Why the operating system refused to write, from an error or its causes; None where that is not what it is."""
    while error is not None:
        for number in _REFUSALS:
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def template_of(create: Callable[[], Any]) -> Any:
    """The shapes and dtypes of the tree that `create` would return, on one device, for `restore_newest`."""
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device), jax.eval_shape(create)
    )
