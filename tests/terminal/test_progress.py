"""Progress of many parts, on a terminal and where nobody watches one."""

from __future__ import annotations

import sys
import time

import pytest

from klpbuild.terminal.progress import Progress, elapsed


def run(progress: Progress, total: int, step: int = 1) -> None:
    for done in range(step, total + 1, step):
        progress(done, total)


def test_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    run(Progress("objects compiled", least=10), 40)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0] == "          4 of 40 objects compiled"
    assert lines[-1] == "          40 of 40 objects compiled"


def test_parts_that_are_done_together(capsys: pytest.CaptureFixture[str]) -> None:
    run(Progress("objects read"), 30_000, step=10_000)
    assert capsys.readouterr().out.splitlines() == [
        f"          {done} of 30,000 objects read" for done in ("10,000", "20,000", "30,000")
    ]


def test_few_parts_need_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    run(Progress("objects compiled", least=10), 3)
    assert capsys.readouterr().out == ""


class Clock:
    """Seconds that go on when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_done_soon_needs_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    run(Progress("objects read", patience=1.0, clock=clock), 100)
    assert capsys.readouterr().out == ""
    progress = Progress("objects read", patience=1.0, clock=clock)
    progress(60, 100)
    clock.now = 1.5
    run(progress, 100, step=85)
    progress(100, 100)
    assert capsys.readouterr().out.splitlines() == [
        "          85 of 100 objects read",
        "          100 of 100 objects read",
    ]


def test_a_terminal_has_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    clock = Clock()
    progress = Progress("objects read", clock=clock)
    progress(1, 3)
    progress(2, 3)  # too soon to be written again
    clock.now = 0.01
    progress(3, 3)
    line = "\r          {} of 3 objects read"
    assert capsys.readouterr().out == line.format(1) + line.format(3) + "\n"


def test_a_silent_job_shows_its_seconds_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("klpbuild.terminal.progress._SILENCE", 0.0)
    with elapsed():
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with elapsed():
        time.sleep(0.05)
    assert capsys.readouterr().err == "          0 s\r\x1b[K"
