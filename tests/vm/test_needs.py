"""What is missing is named, with the command that installs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from tests import needs


def test_what_is_missing_and_cannot_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KlpError) as caught:
        needs.provide()
    text = str(caught.value)
    assert text.startswith("missing on this machine: bc, bison, busybox-static, e2fsprogs, flex, ")
    assert "qemu-system-x86" in text
    assert "  sudo apt-get install --yes --no-install-recommends bc bison busybox-static" in text


def test_nothing_is_done_when_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in needs.PROGRAMS:
        (tmp_path / program).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / "apt-get").write_text("#!/bin/sh\ntouch called\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "_HEADERS", {})
    needs.provide()
    assert not Path("called").exists()
