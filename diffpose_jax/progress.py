"""Progress reports: a bar with rate and time left on a terminal; in a log lines at intervals, with the time of day."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

T = TypeVar("T")


class Progress:
    """Reports how many of `total` units are done; a context manager on which `update` is called.

    Args:
        label: What is done, such as "train".
        total: The number of units.
        unit: Their name, such as "steps".
        start: Units done by an earlier run; rate and time left do not count them.
        line_seconds: Seconds between two lines in a log; the last unit always gets one.
        enabled: False prints nothing, for all processes but the first.
    """

    def __init__(
        self, label: str, total: int, unit: str, *, start: int = 0, line_seconds: float = 20.0, enabled: bool = True
    ):
        self._label, self._total, self._unit, self._first, self._done = label, total, unit, start, start
        self._line_seconds, self._enabled = line_seconds, enabled
        self._bar: RichProgress | None = None
        self._begin = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        self._begin = self._last_line = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            console = Console(stderr=True)
            # In a narrow terminal the bar gives way to what stands beside it.
            bar = BarColumn(bar_width=min(40, max(8, console.width - 80)))
            columns = (
                *(_plain("{task.description}"), bar, MofNCompleteColumn(), _plain(self._unit)),
                *(_plain("{task.fields[rate]}"), TimeRemainingColumn(), _plain("{task.fields[text]}")),
            )
            self._bar = RichProgress(*columns, console=console)
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._first, rate="", text="")
            self._bar.start()
        return self

    def update(self, done: int, text: str = "") -> None:
        """Reports that `done` units are done; text is shown beside the bar or in the line."""
        self._done = done
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._begin, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.3g}/s", text=text)
        elif self._enabled and (now - self._last_line >= self._line_seconds or done >= self._total):
            self._last_line = now
            left = (self._total - done) / rate if rate > 0 else float("inf")
            print(
                f"{_time_of_day()} {self._label}: {done}/{self._total} {self._unit}, {rate:.3g}/s, {_clock(left)} left"
                + (f", {text}" if text else ""),
                file=sys.stderr,
                flush=True,
            )

    def say(self, line: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        elif self._enabled:
            print(f"{_time_of_day()} {line}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def track(label: str | None, items: Sequence[T], unit: str) -> Iterator[T]:
    """Yield the items while `Progress` counts them under a label; without a label only yield them."""
    if label is None:
        yield from items
        return
    with Progress(label, len(items), unit) as progress:
        for done, item in enumerate(items, 1):
            yield item
            progress.update(done)


def timed_printer() -> Callable[[str], None]:
    """A function that prints a line behind the seconds since this call, for programs that work in steps."""
    begin, console = time.monotonic(), Console()

    def say(text: str) -> None:
        line = f"[{time.monotonic() - begin:6.1f} s] {text}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return say


def _plain(text: str) -> TextColumn:
    # Labels and file names may contain brackets, which rich would interpret as markup.
    return TextColumn(text, markup=False)


def _time_of_day() -> str:
    return time.strftime("%H:%M:%S")


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
