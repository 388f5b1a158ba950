"""The runner of the benchmarks: what is measured, and what it says of goals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .benchmarks.__main__ import KEYS
from .benchmarks.measure import Comparison, Figure, Quantity, Result, Spent, measure

ROOT = Path(__file__).parent.parent


def nothing() -> None:
    """What takes no time."""


def test_both_ways_are_taken_in_turns() -> None:
    calls = []
    comparison = Comparison("c", lambda: calls.append("a"), "other", lambda: calls.append("b"))
    result = measure("group", comparison, rounds=3)
    assert calls == ["a", "b"] * 3
    assert min(result.ours.wall, result.theirs.wall) > 0
    assert result.goals == ()


def result(comparison: Comparison, ours: float, theirs: float) -> Result:
    return Result("g", comparison, Spent(ours, ours / 2), Spent(theirs, theirs))


def test_what_stands_at_the_top() -> None:
    for quantity, expected in zip(Quantity, (1.5, 3.0, 1.0), strict=True):
        comparison = Comparison("c", nothing, "other", nothing, key="k", quantity=quantity)
        assert result(comparison, 3.0, 2.0).value == expected
    assert result(Comparison("c", nothing, "other", nothing), 3.0, 2.0).cpu_ratio == 0.75
    assert Figure("k", "memory", 401, "MB", 400).goals == (("<= 400 MB", False),)


def test_goals() -> None:
    comparison = Comparison(
        "c", nothing, "other", nothing, ratio_max=1, seconds_max=0.2, excess_max=1
    )
    assert result(comparison, 0.3, 0.4).goals == (
        ("ratio <= 1", True),
        ("<= 0.2 s", False),
        ("excess <= 1 s", True),
    )
    assert [met for _, met in result(comparison, 2, 0.5).goals] == [False] * 3


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_runner_writes_what_it_measured(tmp_path: Path) -> None:
    done = run(tmp_path, "elf")
    assert (done.returncode, done.stderr) == (0, "")
    assert "rewrite 100,000 relocations" in done.stdout
    written = json.loads((tmp_path / "build" / "benchmark.json").read_text())
    assert written["not_run"] == {}
    assert len(written["results"]) == 3
    assert set(KEYS) <= written.keys()
    for row in written["results"]:
        assert row["ratio"] == row["seconds"] / row["compared_seconds"]


@pytest.mark.kernel
def test_the_small_form_gives_right_answers(tmp_path: Path) -> None:
    """Each benchmark compares what it is about to measure with another way to find it."""
    done = run(tmp_path, "--small")
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / "build" / "benchmark.json").read_text())
    assert written["not_run"] == {}
    fetched = [key for key in KEYS if key.startswith(("patch_", "fixes_", "check_"))]
    assert [key for key in KEYS if written[key] is None] == fetched
    assert {row["benchmark"] for row in written["results"]} == {
        "cli",
        "conversion",
        "elf",
        "scons",
        "symbols",
        "tree",
    }


def test_a_kernel_that_is_not_fetched(tmp_path: Path) -> None:
    done = run(tmp_path, "patch", "--kernel", "9.9.9-none")
    said = "9.9.9-none is not fetched with source and debug symbols"
    assert (done.returncode, done.stderr) == (0, "")
    assert f"not run: patch: {said}" in done.stdout
    written = json.loads((tmp_path / "build" / "benchmark.json").read_text())
    assert written["not_run"] == {"patch": said}
    assert written["patch_small_over_gcc"] is None


def test_an_unknown_benchmark(tmp_path: Path) -> None:
    done = run(tmp_path, "speed")
    assert done.returncode == 2
    assert "unknown: speed; known: " in done.stderr
    assert not (tmp_path / "build").exists()
