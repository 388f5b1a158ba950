"""Files of klpbuild's own: whole or not there, read back or missing, one writer at a time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import partial
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.files import locks, records
from klpbuild.files.kept import content_key, kept_or_made
from klpbuild.files.locks import locked, working_in
from klpbuild.files.records import (
    from_json,
    read_output,
    read_record,
    sealed,
    to_json,
    write_sealed,
)
from klpbuild.files.whole import remove_unfinished, unfinished, write_file


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    place: Path
    numbers: tuple[int, ...]
    optional: str = "none"


@dataclass(frozen=True)
class Outer:
    colour: Colour
    size: float | None
    inner: tuple[Inner, ...]
    names: dict[str, tuple[str, bool]]


RECORD = Outer(Colour.RED, 1.5, (Inner(Path("a/b"), (1, 2)),), {"x": ("y", True)})


def test_a_record_is_read_back() -> None:
    assert from_json(Outer, to_json(RECORD)) == RECORD
    assert from_json(tuple[Outer, ...], to_json((RECORD, RECORD))) == (RECORD, RECORD)
    assert from_json(dict[str, object], to_json({"x": [1, None]})) == {"x": [1, None]}


@dataclass(frozen=True)
class Mixed:
    """What JSON has no form of."""

    names: frozenset[str]
    data: bytes
    shade: Shade | None


class Shade(Enum):
    """A choice."""

    DARK = "dark"


def test_sets_bytes_and_choices_are_read_back() -> None:
    mixed = Mixed(frozenset({"b", "a"}), b"\0\xff", Shade.DARK)
    assert from_json(Mixed, to_json(mixed)) == mixed


def test_what_is_kept_is_found_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    made: list[int] = []

    def make() -> str:
        made.append(len(made))
        return f"text {len(made)}"

    def get(*parts: str) -> str:
        return kept_or_made(path, content_key(*parts), make, str.encode, bytes.decode)

    assert (get("ab", "c"), get("ab", "c")) == ("text 1", "text 1")
    assert get("a", "bc") == "text 2"
    assert get("ab", "c") == "text 3"  # one is kept


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    key = content_key("x")
    for _ in range(2):
        made = kept_or_made(tmp_path / "file/kept", key, lambda: "y", str.encode, bytes.decode)
        assert made == "y"


def test_a_record_of_another_version_is_read() -> None:
    text = b'{"place": "a", "numbers": [], "more": 1}'
    assert from_json(Inner, text) == Inner(Path("a"), (), "none")


@pytest.mark.parametrize(
    "kind, text",
    [
        (Outer, ""),
        (Outer, "{}"),
        (Outer, "[]"),
        (Outer, "null"),
        (Inner, '{"place": 1, "numbers": []}'),
        (Inner, '{"place": "a", "numbers": [true]}'),
        (Inner, '{"place": "a", "numbers": ["1"]}'),
        (Inner, '{"place": "a"}'),
        (Colour, '"blue"'),
        (tuple[int, str], "[1]"),
        (float | None, '"1"'),
        (dict[str, int], '{"a": 1.5}'),
    ],
)
def test_another_kind_of_record_is_refused(kind: type[object], text: str) -> None:
    with pytest.raises(ValueError):
        from_json(kind, text.encode())


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": "b"}', b"\xff", b"[" * 100_000, b"1" * 5000])
def test_a_damaged_record_is_missing(
    tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "record"
    path.write_bytes(text)
    assert read_record(path, partial(from_json, dict[str, int])) is None
    assert (
        f"klpbuild: note: {path}: is damaged, and counts as missing\n  " in capsys.readouterr().err
    )
    with pytest.raises(KlpError) as caught:
        read_output(path, partial(from_json, dict[str, int]))
    said = str(caught.value).splitlines()
    assert said[0] == f"{path}: is missing or damaged"
    assert said[-1] == "  Remove it, and build again."


def test_a_record_that_is_not_there_is_missing_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("none", "file/below", "x" * 300):
        assert read_record(tmp_path / name, bytes) is None
    assert capsys.readouterr().err == ""
    assert read_record(tmp_path, bytes) is None
    assert capsys.readouterr().err.endswith("is damaged, and counts as missing\n  Is a directory\n")


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    (tmp_path / "directory").mkdir()
    for bad, why in (
        (tmp_path / "directory", "Is a directory"),
        (path / "below", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(KlpError, match=f"cannot be written: {why}"):
            write_file(bad, b"new")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "directory", path]
    assert path.read_bytes() == b"old"


def test_what_killed_processes_left_goes(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = unfinished(tmp_path / "below" / "file")
    left = own.with_name(own.name.replace(str(os.getpid()), str(dead.pid)))
    other = own.with_name(".file.new")
    own.parent.mkdir()
    for path in (own, left, other):
        path.write_text("")
    remove_unfinished(tmp_path, 0)
    assert left.exists()
    remove_unfinished(tmp_path, 1)
    assert sorted(own.parent.iterdir()) == sorted([own, other])


HOLDER = """
import sys
from pathlib import Path
from klpbuild.files.kept import content_key, kept_or_made
from klpbuild.files.locks import working_in
with working_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_who_is_waited_for_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "held\n"
        done: list[int] = []

        def work() -> None:
            with working_in(tmp_path):
                done.append(1)

        waiting = threading.Thread(target=work)
        waiting.start()
        waiting.join(0.3)
        assert done == []
        holder.kill()  # the kernel releases the lock of whoever is gone
        waiting.join(30)
        assert done == [1]
    said = capsys.readouterr().err
    assert re.fullmatch(
        rf"klpbuild: waiting for process {holder.pid} \(-c {tmp_path}\): {tmp_path}\n", said
    )
    with working_in(tmp_path):
        pass
    assert capsys.readouterr().err == ""


def test_a_lock_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KlpError) as caught, locked(tmp_path / "file" / "x", "Choose another."):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/file: cannot be written: Not a directory\n  Choose another."
    )


def test_a_file_system_without_locks_is_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with working_in(tmp_path):
        write_file(tmp_path / "x", b"y")
    assert (tmp_path / "x").read_bytes() == b"y"


class Text:
    """A file's text, and how often one was read."""

    times = 0

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    @records.while_unchanged
    def read(cls, path: Path) -> Text:
        cls.times += 1
        return cls(path.read_text())


def test_a_file_is_read_again_only_when_it_may_have_changed(tmp_path: Path) -> None:
    path = tmp_path / "text"
    with pytest.raises(FileNotFoundError):
        Text.read(path)
    path.write_text("one")
    assert Text.read(path).text == "one"
    path.write_text("two")  # at once: size and times may be the same
    assert Text.read(path).text == "two"

    Text.times = 0
    made = path.stat().st_ctime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records.time, "time_ns", lambda: made + 10 * records.SETTLED_NS)
        assert Text.read(path) is Text.read(path)
        os.utime(path, ns=(made, made - 1))
        assert Text.read(path).text == "two"
    assert Text.times == 2


CHILD_THAT_STAYS = """
import os, sys
from pathlib import Path
from klpbuild.files.kept import content_key, kept_or_made
from klpbuild.files.locks import working_in
from klpbuild.run import run
with working_in(Path(sys.argv[1])):
    print("held", flush=True)
    script = "echo $$ > child; sleep 1; echo written > late"
    run(["sh", "-c", script], os.environ, Path(sys.argv[1]))
"""


def test_a_killed_runs_children_are_waited_for(tmp_path: Path) -> None:
    """What they still write must not get between what the next run writes."""
    command = [sys.executable, "-c", CHILD_THAT_STAYS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        while not (tmp_path / "child").exists():
            time.sleep(0.01)
        holder.kill()
    with working_in(tmp_path):
        assert (tmp_path / "late").read_text() == "written\n"


def test_a_list_tells_whether_it_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kallsyms"
    assert sealed(path) is None
    path.write_text("of an older klpbuild\n")
    assert sealed(path) == path
    write_sealed(path, b"first\nsecond\n")
    assert sealed(path) == path and capsys.readouterr().err == ""
    path.write_bytes(b"first\n")
    assert sealed(path) is None
    assert capsys.readouterr().err == (
        f"klpbuild: note: {path}: is damaged, and counts as missing\n"
        "  its SHA-256 is not the one beside it\n"
    )


def test_a_pipe_in_the_place_of_a_record_is_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for who would write into it, and the record takes its place."""
    os.mkfifo(path := tmp_path / "record")
    assert read_record(path, bytes) is None
    assert capsys.readouterr().err == (
        f"klpbuild: note: {path}: is damaged, and counts as missing\n  is not a file\n"
    )
    write_file(path, b"whole")
    assert read_record(path, bytes) == b"whole"
