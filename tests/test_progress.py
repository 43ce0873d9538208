"""Progress in a log: plain lines now and then, with rate and time left; on a terminal, a bar."""

from __future__ import annotations

import io
import sys
import time

import pytest

from diffpose_jax import progress
from diffpose_jax.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns; 100 s after midnight at first."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

        def strftime(self, form: str) -> str:
            return time.strftime(form, time.gmtime(self.now))

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(clock, capsys):
    with Progress("train", 1000, "steps", line_seconds=20) as bar:
        for second in range(1, 46):
            clock.now = 100 + second
            bar.update(4 * second, "loss 0.5")
    assert lines(capsys) == [
        "00:02:00 train: 80/1000 steps, 4/s, 3:50 left, loss 0.5",
        "00:02:20 train: 160/1000 steps, 4/s, 3:30 left, loss 0.5",
    ]


def test_the_end_always_gets_a_line(clock, capsys):
    with Progress("evaluate", 10, "frames") as bar:
        clock.now += 0.5
        bar.update(10)
    assert lines(capsys) == ["00:01:40 evaluate: 10/10 frames, 20/s, 0:00 left"]


def test_rate_and_time_left_of_a_continued_run_count_what_it_did_itself(clock, capsys):
    with Progress("train", 10_000, "steps", start=9000, line_seconds=10) as bar:
        clock.now += 10
        bar.update(9010)
    assert lines(capsys) == ["00:01:50 train: 9010/10000 steps, 1/s, 16:30 left"]


def test_long_work_shows_hours_and_no_progress_shows_no_guess(clock, capsys):
    with Progress("train", 100_000, "steps", line_seconds=10) as bar:
        clock.now += 10
        bar.update(0)
        clock.now += 10
        bar.update(200)
    assert lines(capsys) == [
        "00:01:50 train: 0/100000 steps, 0/s, ? left",
        "00:02:00 train: 200/100000 steps, 10/s, 2:46:20 left",
    ]


def test_messages_are_whole_lines_behind_the_time_of_day(clock, capsys):
    with Progress("train", 10, "steps") as bar:
        bar.say("step 5: valid MPJPE 51.2 mm [/best]")
    assert lines(capsys) == ["00:01:40 step 5: valid MPJPE 51.2 mm [/best]"]


def test_other_processes_are_silent(clock, capsys):
    with Progress("train", 10, "steps", enabled=False) as bar:
        clock.now += 60
        bar.update(10)
        bar.say("done")
    assert lines(capsys) == []


def test_a_terminal_gets_a_bar_and_brackets_are_text(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("train [a]", 10, "steps") as bar:
        bar.update(4, "loss [/0.5]")
        bar.say("saved [/x]")
        bar.update(10, "loss [/0.5]")
    shown = terminal.getvalue()
    for text in ("train [a]", "10/10", "steps", "loss [/0.5]", "saved [/x]"):
        assert text in shown


def test_an_error_inside_passes_through():
    with pytest.raises(ValueError, match="inside"), Progress("train", 10, "steps"):
        raise ValueError("inside")
