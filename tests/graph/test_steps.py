"""The step of a build that says whose symbols a livepatch depends on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline import symbol_steps

from ..objects import symbols_klp
from ..tables import modules
from .inputs import SmallKernel


def test_only_symbols_of_objects_that_count_change_the_file(
    small: SmallKernel, tmp_path: Path
) -> None:
    kernel = cast(Kernel, SimpleNamespace(module_symvers=tmp_path / "Module.symvers", modules=()))
    linked, output = tmp_path / "livepatch_demo.ko", tmp_path / "dependencies"
    linked.write_bytes(bytes(small.link().data))

    def written(**symbols: str) -> str:
        known = {"vmlinux": "_printk saved_command_line cmdline_proc_show",
                 "ext4": "ext4_attr_store state_show ext4_free_blocks state_show",
                 "jbd2": "jbd2_journal_start", "btrfs": "btrfs_ioctl"}  # fmt: skip
        path = symbols_klp(tmp_path, **(known | symbols))
        symbol_steps.write_dependencies(kernel, linked, path, output)
        return output.read_text()

    first = written()
    assert [line.split()[0] for line in first.splitlines()] == ["btrfs", "ext4", "jbd2", "vmlinux"]
    assert written(crc16="crc16") == first, "an object that it does not know"
    assert written(ext4="ext4_attr_store state_show ext4_free_blocks state_show more") != first
    assert written(btrfs="btrfs_ioctl saved_command_line") != first


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
