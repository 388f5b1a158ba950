"""Every module of a real kernel is read and written."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.elf.writer import ElfObject
from klpbuild.kernel.tree import Kernel

from .test_reader import same_as_pyelftools
from .test_writer import meaning, readelf_complaints

pytestmark = pytest.mark.kernel


def test_every_module_is_written_as_it_was(debian_kernel: Kernel) -> None:
    assert len(debian_kernel.modules) > 100
    for path in debian_kernel.modules:
        first = ElfFile.read(path)
        for section in first.relocation_sections:
            first.relocations(section)
        second = ElfFile(ElfObject.from_elf(first).to_bytes(), path.name)
        assert meaning(second) == meaning(first), path.name
        assert first.section(".gnu.linkonce.this_module") is not None


@pytest.mark.parametrize("name", ["btrfs", "kvm", "virtio_blk", "xfs"])
def test_other_readers_agree(name: str, debian_kernel: Kernel, tmp_path: Path) -> None:
    (path,) = [p for p in debian_kernel.modules if p.name == f"{name}.ko"]
    copy = tmp_path / path.name
    ElfObject.from_elf(ElfFile.read(path)).write(copy)
    same_as_pyelftools(ElfFile.read(copy))
    assert readelf_complaints(copy) == ""
