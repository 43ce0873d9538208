"""A worker: it claims units of a job one after the other until all are done, by itself or by others."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from diffpose_jax.cluster import is_lost_process
from diffpose_jax.errors import UserError
from diffpose_jax.grid import sharing
from diffpose_jax.grid.checks import Planned
from diffpose_jax.grid.claims import Claims
from diffpose_jax.grid.measuring import measure_unit
from diffpose_jax.grid.store import OutputError, Store, Unreadable

Say = Callable[[str], None]

_POLL = 2.0  # seconds between two looks at what others work at


class Outcome(NamedTuple):
    """What became of a job's units.

    Attributes:
        done: The results, by the unit's name.
        failed: Why units failed, by name.
        open: Names of units that other workers have claimed and did not finish yet.
    """

    done: dict[str, dict[str, Any]]
    failed: dict[str, str]
    open: list[str]


class Worker:
    """Works at a job's units together with any number of others that share the folder.

    Args:
        planned: The units.
        store: The output folder.
        say: Called with lines for the user.
        wait: Whether to stay until units of other workers are done, and to finish those of workers that died.
        lease_seconds: After how long without a sign a worker counts as dead.
    """

    def __init__(
        self, planned: Sequence[Planned], store: Store, say: Say, wait: bool = True, lease_seconds: float = 60.0
    ):
        self._planned = {one.unit.name: one for one in planned}
        self._store, self._say, self._wait, self._lease_seconds = store, say, wait, lease_seconds
        self._claims = Claims(store.units, lease_seconds)
        self._done: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, str] = {}
        self._named: set[str] = set()

    def run(self) -> Outcome:
        """Works until nothing is left to do. Raises OutputError where the folder cannot be written."""
        for name in self._planned:
            self._look(name)
        if self._done:
            self._say(f"{len(self._done)} of {len(self._planned)} units are done already")
        while left := self._left():
            if sum(self._try(name) for name in left):  # all of them are tried
                continue
            left = self._left()
            if not left or not self._wait:
                break
            if "waiting" not in self._named:
                self._named.add("waiting")
                self._say(f"waiting for {len(left)} units of other workers, such as {self._claims.holder(left[0])}")
            sharing.stay_idle()
            time.sleep(min(_POLL, self._lease_seconds / 6))
        return Outcome(self._done, self._failed, self._left())

    def _left(self) -> list[str]:
        return [name for name in self._planned if name not in self._done and name not in self._failed]

    def _look(self, name: str) -> bool:
        """Whether a unit is done, or failed with another worker since this one began."""
        planned = self._planned[name]
        found = self._store.read(name, planned.configuration, planned.grid.predictions)
        if isinstance(found, Unreadable):
            if name not in self._named:
                self._named.add(name)
                self._say(f"{self._store.units / name}.json {found.reason}; measured again: {planned.unit.title}")
        elif found is not None:
            self._done[name] = found
        elif (message := self._store.read_failure(name)) is not None:
            self._failed[name] = message
        return name in self._done or name in self._failed

    def _try(self, name: str) -> bool:
        """Works at a unit if nobody else does; returns whether there is one less."""
        if self._look(name):
            return True
        with self._claims.claim(name) as ours:
            if not ours:
                return False
            # Another worker may have ended it between the look and the claim.
            if not self._look(name):
                self._measure(self._planned[name])
        return True

    def _measure(self, planned: Planned) -> None:
        name, title = planned.unit.name, planned.unit.title
        try:
            record = measure_unit(planned, self._store, self._say)
        except OutputError:
            raise
        except UserError as error:
            self._fail(name, str(error))
        except Exception as error:  # whatever stops one unit must not stop the others
            if is_lost_process(error):
                raise
            self._fail(name, _describe(error), traceback.format_exc())
        else:
            self._done[name] = record
            value = record["rows"][0]["frame_average"]["mpjpe"]
            self._say(f"[{len(self._done)}/{len(self._planned)}] {title}: MPJPE {value:.1f} mm, "
                      f"{record['seconds']:.1f} s")  # fmt: skip

    def _fail(self, name: str, message: str, trace: str = "") -> None:
        self._failed[name] = message
        self._store.write_failure(name, message, trace)
        self._say(f"failed: {self._planned[name].unit.title}: {message}")


def _describe(error: Exception) -> str:
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "out of memory; try a smaller batch_size in the job, or fewer hypotheses"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
