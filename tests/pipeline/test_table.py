"""The table of steps, run in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.pipeline.table import Said, Step, run_steps, steps_to


def step(directory: Path, output: str, *inputs: str, fails: bool = False) -> Step:
    """A step that writes what it read; ``shared`` files belong to others."""
    files = tuple(directory / name for name in inputs)

    def run(said: Said) -> None:
        said.results.append(f"{len(files)} files")
        if fails:
            raise KlpError("is wrong", where=output)
        text = "".join(path.read_text() for path in files)
        (directory / output).write_text(f"{output}({text})")

    return Step("MAKE", (directory / output,), run, files)


def test_steps_run_in_order_and_say_what_they_did(tmp_path: Path) -> None:
    steps = [step(tmp_path, "a"), step(tmp_path, "b", "a"), step(tmp_path, "c", "a", "b")]
    told: list[tuple[str, list[str]]] = []
    run_steps(steps, tmp_path, lambda each, said: told.append((each.outputs[0].name, said.results)))
    assert (tmp_path / "c").read_text() == "c(a()b(a()))"
    assert told == [("a", ["0 files"]), ("b", ["1 files"]), ("c", ["2 files"])]


def test_only_what_a_file_is_made_from_is_made(tmp_path: Path) -> None:
    a, b, c, d = (
        step(tmp_path, "a"),
        step(tmp_path, "b", "a"),
        step(tmp_path, "c"),
        step(tmp_path, "d", "c", "b"),
    )
    assert steps_to([a, b, c, d], tmp_path / "b") == (a, b)
    assert steps_to([a, b, c, d], tmp_path / "d") == (a, b, c, d)


def test_a_failure_leaves_nothing_of_an_earlier_build(tmp_path: Path) -> None:
    good = [step(tmp_path, "a"), step(tmp_path, "b", "a"), step(tmp_path, "c", "b")]
    shared = step(tmp_path, "symbols")
    run_steps(good, tmp_path, first=shared)
    bad = [good[0], step(tmp_path, "b", "a", fails=True), good[2]]
    told: list[str] = []
    with pytest.raises(KlpError, match="b: is wrong"):
        run_steps(bad, tmp_path, lambda _, said: told.extend(said.results), first=shared)
    assert told == ["0 files", "0 files", "1 files"]  # what failed is told, too
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl"}
    assert left == {"a", "symbols"}


def test_details_are_for_who_asks() -> None:
    said = Said(results=["changed f"], details=["g: exported"])
    assert said.lines() == ["          changed f"]
    assert said.lines("x:", verbose=True)[1:] == ["          changed f", "          g: exported"]
