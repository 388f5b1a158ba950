"""Modules linked by the commands that kbuild was seen to run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.kernel.tree import Kernel
from tests.module.livepatches import CMDLINE, CMDLINE_TOML, Built, link_livepatch, write_livepatch


@pytest.fixture
def kernel(fixtures_kernel: Kernel, tmp_path: Path) -> Kernel:
    """The miniature kernel, of which nothing is known yet."""
    return replace(fixtures_kernel, cache=tmp_path / "cache")


def _link(kernel: Kernel, place: Path, name: str = "cmdline") -> Built:
    directory = write_livepatch(place / name, CMDLINE_TOML, cmdline=CMDLINE)
    return link_livepatch(kernel, directory, place / "out")


def _ran_make(built: Built) -> bool:
    return " make --no-print-directory " in built.log.path.read_text()


def test_kbuild_is_asked_once(kernel: Kernel, tmp_path: Path) -> None:
    first, second = _link(kernel, tmp_path / "one"), _link(kernel, tmp_path / "two")
    other = _link(kernel, tmp_path / "three", "other-name")
    assert [_ran_make(built) for built in (first, second, other)] == [True, False, False]
    assert second.path.read_bytes() == first.path.read_bytes()
    assert 'WARNING: modpost: "saved_command_line"' in second.log.path.read_text()
    fresh = _link(replace(kernel, cache=tmp_path / "fresh"), tmp_path / "four", "other-name")
    assert _ran_make(fresh)
    assert fresh.path.read_bytes() == other.path.read_bytes()


def test_other_flags_are_other_commands(kernel: Kernel, tmp_path: Path) -> None:
    _link(kernel, tmp_path / "one")
    flags = replace(kernel, toolchain=replace(kernel.toolchain, kcflags="-O1"))
    assert _ran_make(_link(flags, tmp_path / "two"))


def test_kbuild_links_when_a_command_fails(kernel: Kernel, tmp_path: Path) -> None:
    first = _link(kernel, tmp_path / "one")
    (path,) = (tmp_path / "cache").glob("link-commands-*.json")
    kept = json.loads(path.read_text())
    kept["commands"][-1]["line"] = "exit 1"
    path.write_text(json.dumps(kept))
    second = _link(kernel, tmp_path / "two")
    assert _ran_make(second)
    assert second.path.read_bytes() == first.path.read_bytes()
    assert not _ran_make(_link(kernel, tmp_path / "three"))
