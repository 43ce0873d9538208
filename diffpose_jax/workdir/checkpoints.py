"""Checkpoints of a tree of arrays, each complete or absent, restored from the newest that can be read."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from diffpose_jax.errors import UserError


@functools.cache
def _silence_closed_event_loops() -> None:
    """Silences TensorStore's threads about reads that were under way when another one failed.

    Thousands of them each print a traceback, even after the failure was handled, around the one line that matters.
    """
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = report_others


class Checkpoints:
    """The checkpoints of one directory, saved in the background, each complete or absent.

    Args:
        directory: Where they are, `<step>` below it; made where it does not exist.
        keep: How many of the newest are kept.
    """

    def __init__(self, directory: str | os.PathLike, keep: int):
        self._path = Path(directory).absolute()
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self._path, options=self._options)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, tree: Any, note: dict | None = None) -> None:
        """Saves a tree of arrays and a small JSON note; a step that is already saved stays as it is."""
        if step in self._manager.all_steps():
            return
        if jax.process_count() > 1:
            tree = jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, tree)
        arguments = ocp.args.Composite(tree=ocp.args.StandardSave(tree), note=ocp.args.JsonSave(note or {}))
        if not self._manager.save(step, args=arguments, force=True):
            raise RuntimeError(f"{self._path}: checkpoint {step} was not saved")

    def replace(self, step: int, tree: Any, note: dict | None = None) -> None:
        """Saves a tree in place of those at the same and at later steps, which a continued run reaches again."""
        for later in [one for one in self._manager.all_steps() if one >= step]:
            self._manager.delete(later)
        self.save(step, tree, note)

    def restore_newest(self, template: Any) -> tuple[int, Any, dict] | None:
        """Restores the newest checkpoint that can be read; damaged ones are moved to `damaged/` beside the directory.

        Args:
            template: A tree of arrays or ShapeDtypeStructs, such as `template_of` gives.

        Returns:
            Step, tree and note; None where there is no checkpoint.

        Raises:
            UserError: Every checkpoint is damaged, or none fits the template.
        """
        _silence_closed_event_loops()
        steps, damaged = self.steps(), {}
        arguments = ocp.args.Composite(tree=ocp.args.StandardRestore(template), note=ocp.args.JsonRestore())
        for step in steps:
            try:
                restored = self._manager.restore(step, args=arguments)
            except Exception as error:  # Orbax raises whatever its storage layers raise
                damaged[step] = (str(error).splitlines() or [type(error).__name__])[0][:200]
                continue
            self._set_aside(damaged)
            return step, restored["tree"], restored["note"]
        if steps:
            reason = damaged[steps[0]]
            raise UserError(f"{self._path}: none of the checkpoints {steps} can be read; the newest says: {reason}")
        return None

    def _set_aside(self, damaged: dict[int, str]) -> None:
        # A damaged step left in place would make Orbax refuse later saves of the same or an earlier step.
        if not damaged:
            return
        self._manager.close()
        for step, reason in damaged.items() if jax.process_index() == 0 else ():
            target = self._path.parent / "damaged" / f"{self._path.name}-{step}"
            logging.warning("%s/%d cannot be read (%s); moved to %s", self._path, step, reason, target)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            shutil.move(self._path / str(step), target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager = ocp.CheckpointManager(self._path, options=self._options)

    def wait(self) -> None:
        """Returns when all saves so far are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves and releases the directory."""
        self._manager.wait_until_finished()
        self._manager.close()


def template_of(create: Callable[[], Any]) -> Any:
    """The shapes and dtypes of the tree that `create` would return, on one device, for `restore_newest`."""
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device), jax.eval_shape(create)
    )
