"""Patches that a description leaves out on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.request.chosen import Chosen, named_livepatches


def chosen(directory: Path, skip: str) -> Chosen:
    fixes = directory / "fixes"
    fixes.mkdir()
    for name in ("a.patch", "b.patch"):
        (fixes / name).write_text("")
    (fixes / "livepatch.toml").write_text(f"skip = {skip}\n")
    (named,) = named_livepatches(directory, "fixes")
    if named.error is not None:
        raise named.error
    assert named.chosen is not None
    return named.chosen


def test_the_others_are_taken(tmp_path: Path) -> None:
    found = chosen(tmp_path, '[{ patch = "a.patch", reason = "needs a reboot" }]')
    assert [path.name for path in found.patches] == ["b.patch"]
    assert {path.name: why for path, why in found.skipped.items()} == {"a.patch": "needs a reboot"}


def test_a_name_that_no_patch_has(tmp_path: Path) -> None:
    with pytest.raises(KlpError) as caught:
        chosen(tmp_path, '["c.patch"]')
    assert str(caught.value) == (
        f"{tmp_path}/fixes/livepatch.toml:1: skip names 'c.patch', which is not one of the"
        " patches\n  Did you mean b.patch?"
    )


def test_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(KlpError, match="skip leaves out all patches"):
        chosen(tmp_path, '["a.patch", "b.patch"]')
