"""Objects of generated sources that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.compiler import driver, kept
from klpbuild.compiler.driver import compile_source
from klpbuild.compiler.log import BuildLog
from klpbuild.files.records import SETTLED_NS
from klpbuild.kernel.tree import Kernel

SOURCE = """
#include <linux/module.h>
#include "beside.h"
MODULE_INFO(inputs, "%s");
"""
FIRST, SECOND = "1" * 64, "2" * 64


@pytest.fixture
def kernel(
    fixtures_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kernel]:
    """The miniature kernel with a cache of its own; all files count as written long ago."""
    now = kept.time.time_ns() + 10 * SETTLED_NS
    monkeypatch.setattr(kept.time, "time_ns", lambda: now)
    yield replace(fixtures_kernel, cache=tmp_path / "cache")


def _compile(kernel: Kernel, directory: Path, text: str, source: str = SOURCE) -> bytes:
    directory.mkdir(exist_ok=True)
    (directory / "inputs.c").write_text(source % text)
    done = compile_source(
        kernel,
        directory / "inputs.c",
        directory / "inputs.o",
        module_name="livepatch_fix",
        log=BuildLog(directory / "build.log"),
        generated=True,
        text=text,
    )
    assert directory / "inputs.c" in done.dependencies
    return done.output.read_bytes()


def _runs(directory: Path) -> int:
    lines = (directory / "build.log").read_text().splitlines()
    compiled = [number for number, line in enumerate(lines) if line.endswith("inputs.c")]
    return sum(driver._KEPT not in "".join(lines[n + 1 : n + 2]) for n in compiled)


def test_an_object_is_compiled_once_for_a_kernel(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/beside.h").write_text("")
    first = _compile(kernel, tmp_path / "a", FIRST)
    # Another digest, which a compiler need not see.
    other = _compile(kernel, tmp_path / "a", SECOND)
    assert _runs(tmp_path / "a") == 1
    assert other == first.replace(FIRST.encode(), SECOND.encode()) != first
    fresh = replace(kernel, cache=tmp_path / "fresh")
    assert _compile(fresh, tmp_path / "a", SECOND) == other
    # Another source, and a header that changed.
    _compile(kernel, tmp_path / "a", FIRST, SOURCE + "int x;")
    assert _runs(tmp_path / "a") == 3
    (tmp_path / "a/beside.h").write_text("extern int y;")
    assert _compile(kernel, tmp_path / "a", FIRST) == first
    assert _runs(tmp_path / "a") == 4


def test_a_damaged_object_is_compiled_again(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/beside.h").write_text("")
    first = _compile(kernel, tmp_path / "a", FIRST)
    (path,) = (tmp_path / "cache/objects").glob("*.o")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert _compile(kernel, tmp_path / "a", FIRST) == first
    assert _runs(tmp_path / "a") == 2


def test_the_oldest_objects_go(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_MOST", 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/beside.h").write_text("")
    _compile(kernel, tmp_path / "a", FIRST)
    _compile(kernel, tmp_path / "a", FIRST, SOURCE + "int x;")
    assert len(list((tmp_path / "cache/objects").iterdir())) == 2
    _compile(kernel, tmp_path / "a", FIRST, SOURCE + "int x;")
    assert _runs(tmp_path / "a") == 2
