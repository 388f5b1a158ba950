"""What modules need to be loaded, as their .modinfo says."""

from __future__ import annotations

from pathlib import Path

from klpbuild.kernel.dependencies import Dependencies
from tests.tables import modules


def test_what_modules_need(tmp_path: Path) -> None:
    files = modules(
        tmp_path, base="", middle="base", top="middle,snd-pcm", ring="round", round="ring"
    )
    found = Dependencies(files)
    assert found.all_of("top") == ("base", "middle", "snd_pcm")
    assert found.needs("top", "base") is True
    assert found.needs("top", "snd_pcm") is True
    assert found.needs("middle", "top") is False
    assert found.needs("base", "base") is True
    assert found.needs("base", "vmlinux") is True
    assert found.needs("vmlinux", "base") is False
    assert found.needs("ring", "round") is True
    assert found.needs("ring", "base") is False


def test_modules_that_are_not_at_hand(tmp_path: Path) -> None:
    found = Dependencies(modules(tmp_path, top="middle", base=""))
    assert found.needs("top", "middle") is True
    assert found.needs("top", "base") is None, "nobody knows what the one between needs"
    assert found.needs("elsewhere", "base") is None
    assert found.needs("elsewhere", "elsewhere") is True


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    files = modules(tmp_path, top="base", base="", other="")
    files[2].write_bytes(b"broken")
    assert Dependencies(files).needs("top", "other") is False
