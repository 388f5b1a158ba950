"""The man page, made from the parser."""

from __future__ import annotations

import pkgutil
import shutil
import subprocess
from pathlib import Path

import pytest

import klpbuild.commands
from klpbuild.cli import main, make_parser
from klpbuild.terminal.manual import commands


@pytest.fixture
def page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["manual"]) == 0
    path = tmp_path / "klpbuild.1"
    path.write_text(capsys.readouterr().out)
    return path


def test_every_command_is_in_it() -> None:
    names = [command.name for command in commands(make_parser())]
    for module in pkgutil.iter_modules(klpbuild.commands.__path__):
        assert f"klpbuild {module.name}" in names
    assert "klpbuild kernel fetch" in names


def test_man_shows_it_without_a_warning(page: Path) -> None:
    if not shutil.which("man"):
        pytest.skip("man is not installed")
    shown = subprocess.run(
        ["man", "--warnings", "-l", page],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
        text=True,
        capture_output=True,
        check=True,
    )
    assert shown.stderr == ""
    text = shown.stdout
    assert "klpbuild - build, verify and boot Linux livepatch modules" in text
    assert "--debug-symbols\n" in text
    assert "\\" not in text


def test_mandoc_finds_nothing(page: Path) -> None:
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    done = subprocess.run(
        ["mandoc", "-Tlint", "-W", "warning", page], text=True, capture_output=True, check=False
    )
    # The page has no date, so that the same source gives the same page.
    found = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert found == []


def test_the_reference_in_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manual", "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "### klpbuild kernel fetch\n" in text
    assert "| `--source` | also the source package (about 140 MB) |" in text
