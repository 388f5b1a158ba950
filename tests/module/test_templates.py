"""Templates are compiled once, and what is kept of them may be damaged."""

from __future__ import annotations

import sys
from pathlib import Path

import jinja2
import pytest

from klpbuild.module.templates import environment


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "x.j2").write_text("{% if a %}\n{{ b }}\n{% endif %}\n")
    return tmp_path / "__pycache__"


def test_a_template_is_compiled_once(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment(tmp_path).get_template("x.j2").render(a=1, b="<") == "<\n"
    assert environment(tmp_path, html=True).get_template("x.j2").render(a=1, b="<") == "&lt;\n"
    assert len(list(kept.iterdir())) == 2

    def refuse(*arguments: object) -> object:
        raise AssertionError

    monkeypatch.setattr(jinja2.Environment, "compile", refuse)
    assert environment(tmp_path).get_template("x.j2").render(a=1, b="<") == "<\n"


@pytest.mark.parametrize("damage", [b"", b"nonsense", bytes(100)])
def test_a_damaged_template_is_compiled_again(
    tmp_path: Path, kept: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    environment(tmp_path).get_template("x.j2")
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage)
    assert environment(tmp_path).get_template("x.j2").render(a=1, b="y") == "y\n"
    assert path.read_bytes() == whole
    assert f"{path}: is damaged, and counts as missing" in capsys.readouterr().err


def test_a_changed_template_is_compiled_again(tmp_path: Path, kept: Path) -> None:
    environment(tmp_path).get_template("x.j2")
    (tmp_path / "x.j2").write_text("other\n")
    assert environment(tmp_path).get_template("x.j2").render() == "other\n"
    assert len(list(kept.iterdir())) == 1


def test_nothing_is_kept_where_python_keeps_nothing(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert environment(tmp_path).get_template("x.j2").render(a=1, b="y") == "y\n"
    assert not kept.exists()
