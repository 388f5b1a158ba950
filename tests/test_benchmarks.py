"""The runner of the benchmarks: what is measured, and what it says of goals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .benchmarks.measure import Comparison, Result, measure

ROOT = Path(__file__).parent.parent


def nothing() -> None:
    """What takes no time."""


def test_both_ways_are_taken_in_turns() -> None:
    calls = []
    comparison = Comparison("c", lambda: calls.append("a"), "other", lambda: calls.append("b"))
    result = measure("group", comparison, rounds=3)
    assert calls == ["a", "b"] * 3
    assert min(result.ours, result.theirs) > 0
    assert result.goals == ()


def test_goals() -> None:
    comparison = Comparison(
        "c", nothing, "other", nothing, ratio_max=1, seconds_max=0.2, excess_max=1
    )
    assert Result("g", comparison, ours=0.3, theirs=0.4).goals == (
        ("ratio <= 1", True),
        ("<= 0.2 s", False),
        ("excess <= 1 s", True),
    )
    assert [met for _, met in Result("g", comparison, ours=2, theirs=0.5).goals] == [False] * 3


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
    for row in written["results"]:
        assert row["ratio"] == row["seconds"] / row["compared_seconds"]


def test_an_unknown_benchmark(tmp_path: Path) -> None:
    done = run(tmp_path, "speed")
    assert done.returncode == 2
    assert "unknown: speed; known: " in done.stderr
    assert not (tmp_path / "build").exists()
