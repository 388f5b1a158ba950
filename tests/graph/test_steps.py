"""The step of a build that asks the graph what a livepatch depends on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from klpbuild.graph.build import build_graph
from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline import symbol_steps

from ..objects import symbols_klp
from ..tables import modules
from .inputs import SmallKernel


def test_the_graph_is_asked_when_its_answer_may_differ(
    small: SmallKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = cast(Kernel, SimpleNamespace(module_symvers=tmp_path / "Module.symvers", modules=()))
    linked, output = tmp_path / "livepatch_demo.ko", tmp_path / "work" / "dependencies"
    linked.write_bytes(bytes(small.link().data))
    asked: list[object] = []

    def build(*words: Any, **named: Any) -> Any:
        asked.append(words)
        return build_graph(*words, **named)

    monkeypatch.setattr(symbol_steps, "build_graph", build)

    def needed(**symbols: str) -> list[str]:
        known = {"vmlinux": "_printk saved_command_line cmdline_proc_show",
                 "ext4": "ext4_attr_store state_show ext4_free_blocks state_show",
                 "jbd2": "jbd2_journal_start", "btrfs": "btrfs_ioctl"}  # fmt: skip
        path = symbols_klp(tmp_path, **(known | symbols))
        symbol_steps.write_dependencies(kernel, linked, path, output)
        return [line.split()[0] for line in output.read_text().splitlines()]

    assert needed() == ["btrfs", "ext4", "jbd2", "vmlinux"]
    first = output.read_text()
    assert needed(crc16="crc16") == ["btrfs", "ext4", "jbd2", "vmlinux"]
    assert (len(asked), output.read_text()) == (1, first), "an object that it does not know"
    needed(ext4="ext4_attr_store state_show ext4_free_blocks state_show more")
    assert len(asked) == 1, "its answer is the same, and one of the objects is not"
    assert output.read_text() != first
    needed(btrfs="btrfs_ioctl saved_command_line")
    assert len(asked) == 2, "a name that the livepatch uses means something else"
    output.with_suffix(".json").write_text("{")
    needed(btrfs="btrfs_ioctl saved_command_line")
    assert len(asked) == 3, "what was kept is damaged"
    more = "extern int kmalloc(int); int other(void) { return kmalloc(1); }"
    linked.write_bytes(bytes(small.link(more=more).data))
    needed(btrfs="btrfs_ioctl saved_command_line")
    assert len(asked) == 4, "another livepatch"


def test_what_a_module_needs_counts(small: SmallKernel, tmp_path: Path) -> None:
    linked, output = tmp_path / "livepatch_demo.ko", tmp_path / "dependencies"
    linked.write_bytes(bytes(small.link().data))
    symbols = symbols_klp(tmp_path, vmlinux="_printk", ext4="ext4_attr_store", jbd2="x", btrfs="y")

    def lines(**depends: str) -> list[str]:
        files = modules(tmp_path, **depends)
        kernel = cast(
            Kernel, SimpleNamespace(module_symvers=tmp_path / "Module.symvers", modules=files)
        )
        symbol_steps.write_dependencies(kernel, linked, symbols, output)
        return output.read_text().splitlines()

    first = lines(ext4="jbd2", jbd2="", btrfs="", other="btrfs")
    assert [line.split()[::2] for line in first] == [
        ["btrfs"],
        ["ext4", "jbd2"],
        ["jbd2"],
        ["vmlinux"],
    ]
    assert lines(ext4="jbd2", jbd2="", btrfs="", other="") == first, "one that it does not use"
    assert lines(ext4="", jbd2="", btrfs="", other="") != first
    assert lines(ext4="jbd2", jbd2="other", btrfs="", other="") != first, "through another one"
