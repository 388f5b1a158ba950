"""Errors on a terminal, in a pipe and in GitHub's actions."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from klpbuild.cli import main
from klpbuild.errors import Problem
from klpbuild.terminal.shown import annotation, has_colour, place_of, shown, use_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS"):
        # Set before it is deleted, so that what a test leaves is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm")


def test_only_a_terminal_is_coloured() -> None:
    assert has_colour(Terminal()) and not has_colour(io.StringIO())


@pytest.mark.parametrize(
    "name, value, terminal, pipe",
    [
        ("NO_COLOR", "1", False, False),
        ("NO_COLOR", "", True, False),
        ("FORCE_COLOR", "1", True, True),
        ("TERM", "dumb", False, False),
    ],
)
def test_variables(
    name: str, value: str, terminal: bool, pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert (has_colour(Terminal()), has_colour(io.StringIO())) == (terminal, pipe)


def test_the_option_is_stronger_than_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    use_colour("always")
    assert has_colour(io.StringIO())
    use_colour("never")
    assert not has_colour(Terminal())


@pytest.mark.parametrize("words", [["--color=always", "check"], ["check", "--color", "always"]])
def test_the_option_stands_anywhere(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "nowhere.ko"]) == 2
    assert capsys.readouterr().err.startswith("klpbuild: \x1b[1;31merror:\x1b[0m ")


def test_another_colour_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", "--color=blue", "x.ko"])
    assert ended.value.code == 2
    assert "invalid choice: 'blue'" in capsys.readouterr().err


def test_a_file_is_a_link(tmp_path: Path) -> None:
    file = tmp_path / "a fix.patch"
    file.write_text("x\n")
    problem = Problem("is wrong", f"{file}:3", "the rule", "do this")
    link = f"file://{tmp_path}/a%20fix.patch"
    assert shown(problem, Terminal()) == (
        f"\x1b[1;31merror:\x1b[0m \x1b[1m\x1b]8;;{link}\x1b\\{file}:3\x1b]8;;\x1b\\\x1b[0m: "
        "is wrong\n  the rule\n  do this"
    )
    assert shown(problem, io.StringIO()) == f"error: {file}:3: is wrong\n  the rule\n  do this"


def test_names_are_not_obeyed() -> None:
    said = shown(Problem("is wrong", "x\x1b]8;;evil\x1b\\.patch:1"), Terminal())
    assert "x\\x1b]8;;evil" in said


def test_places(tmp_path: Path) -> None:
    file = tmp_path / "x.ko"
    file.write_text("")
    for where, line in ((f"{file}", 0), (f"{file}:7", 7), (f"{file}:.text+0x5:f", 0)):
        place = place_of(where)
        assert place is not None and (place.file, place.line) == (file, line)
    for where in ("", "nowhere.patch:3", "a\0b:1", "x" * 5000):
        assert place_of(where) is None


def test_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a,b.patch").write_text("")
    problem = Problem("100% wrong", "a,b.patch:3", "the rule")
    assert annotation(problem) == ""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert annotation(problem) == (
        "::error title=klpbuild,file=a%2Cb.patch,line=3::a,b.patch:3: 100%25 wrong%0A  the rule"
    )
    assert annotation(Problem("fine"), "note") == "::notice title=klpbuild::fine"
