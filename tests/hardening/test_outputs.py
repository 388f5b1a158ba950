"""scons where its outputs are damaged, and where two runs meet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scons.checkout import Checkout

#: Damage to an output, in turns.
DAMAGE: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: b"",
    lambda data: data[: len(data) // 2],
    lambda data: b"\xff\0" + data[2:],
    lambda data: b'[{"a": null}, 1]\n',
)


def outputs(checkout: Checkout) -> dict[Path, bytes]:
    """What was built; pages tell how long it took."""
    top = checkout.directory / "build/fixtures"
    paths = [p for pattern in ("[!.]*", "*/[!.]*", "*/linked/*.ko") for p in top.glob(pattern)]
    kept = (
        "build.log",
        "commands.jsonl",
        "timings.jsonl",
        "inputs.c",
        "inputs.d",
    )
    return {
        path: path.read_bytes()
        for path in paths
        if path.is_file()
        and "kernel" not in path.parts
        and path.name not in kept
        and path.suffix != ".html"
    }


def test_damaged_outputs_are_made_again(shared: Checkout) -> None:
    clean = outputs(shared)
    for number, (path, data) in enumerate(clean.items()):
        path.write_bytes(DAMAGE[number % len(DAMAGE)](data))
    (shared.directory / "build/fixtures/timings.jsonl").write_text('{"step": 1}\n{')
    for path in shared.directory.glob("build/learned/*/*.json"):
        path.write_text('{"key": [')
    said = shared.scons("livepatch=meminfo")
    assert outputs(shared) == clean
    note = "klpbuild: note: build/fixtures/{}: is not what was built, and is made again\n"
    for name in ("livepatch-meminfo.ko", "symbols.klp.index", "livepatch-meminfo/result.json"):
        assert note.format(name) in said
    assert "timings.jsonl: is damaged, and counts as missing\n" in said
    assert shared.scons("livepatch=meminfo") == "scons: `livepatch' is up to date.\n"


def test_a_killed_run_leaves_nothing_that_is_taken_for_good(checkout: Checkout) -> None:
    """SCons notes what it built when it ends; then the sources are as they were."""
    clean = outputs(checkout)
    database = checkout.directory / "build/.sconsign.dblite"
    before = database.read_bytes()
    source = checkout.directory / "kernel-fixtures/livepatches/meminfo/meminfo.c"
    text = source.read_text()
    source.write_text(text.replace("MemFree:", "MemUnused:"))
    checkout.scons("livepatch=meminfo")
    assert outputs(checkout) != clean
    source.write_text(text)
    database.write_bytes(before)
    database.with_name(".unnoted").write_bytes(b"")  # is there as long as a run lasts
    said = checkout.scons("livepatch=meminfo")
    assert "livepatch-meminfo.ko: is not what was built, and is made again\n" in said
    assert outputs(checkout) == clean
    assert not database.with_name(".unnoted").exists()


def test_a_damaged_database_builds_all_again(shared: Checkout) -> None:
    clean = outputs(shared)
    database = shared.directory / "build/.sconsign.dblite"
    for damage in (b"garbage", database.read_bytes()[:-9]):
        database.write_bytes(damage)
        said = shared.scons("livepatch=meminfo")
        assert "build/.sconsign.dblite: is damaged, and counts as missing\n" in said
        assert 'File "' not in said
        assert outputs(shared) == clean


def test_a_directory_in_the_place_of_an_output(shared: Checkout) -> None:
    module = shared.directory / "build/fixtures/livepatch-meminfo.ko"
    data = module.read_bytes()
    module.unlink()
    module.mkdir()
    try:
        assert shared.scons("livepatch=meminfo", status=2) == (
            "scons: error: build/fixtures/livepatch-meminfo.ko: is a directory, and a file is to "
            "be built there\n  Remove it.\n"
        )
    finally:
        module.rmdir()
        module.write_bytes(data)


@pytest.mark.parametrize("name", [".sconsign.dblite", "fixtures/build.log", "fixtures/x/y/z.json"])
def test_a_pipe_among_the_outputs(shared: Checkout, name: str) -> None:
    """Nobody opens it: that would wait for ever."""
    path = shared.directory / "build" / name
    before = path.read_bytes() if path.is_file() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        assert shared.scons("livepatch=meminfo", status=2) == (
            f"scons: error: build/{name}: is not a file\n  Remove it.\n"
        )
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


def test_two_runs_in_one_checkout(checkout: Checkout) -> None:
    source = checkout.directory / "kernel-fixtures/livepatches/meminfo/meminfo.c"
    source.write_text(source.read_text().replace("MemFree:", "MemUnused:"))
    command = [sys.executable, "-m", "SCons", "-Q", "livepatch=meminfo"]
    runs = [
        subprocess.Popen(
            command,
            cwd=checkout.directory,
            env=checkout.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    waited = [errors for _, errors in said if errors]
    assert len(waited) == 2
    pids = [run.pid for run in runs]
    for text in waited:
        first = text.splitlines()[0]
        assert any(
            first == f"klpbuild: waiting for process {pid} (scons -Q livepatch=meminfo): build"
            for pid in pids
        ), text
    assert sum("up to date" in output for output, _ in said) == 2
