"""Variables that share a section, and code that computes an element from behind one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline.from_patch import build_from_patches
from tests.pipeline.livepatches import written

pytestmark = pytest.mark.kernel

OLD = "	return (v ^ cookies[type][0]) * cookies[type][1];\n"
NEW = "	return ((v ^ cookies[type][0]) * cookies[type][1]) + weights[(unsigned long)v + 64];\n"
COOKIES = "static unsigned long cookies[KCMP_TYPES][2] __read_mostly;\n"
WEIGHTS = "static unsigned char weights[64] __read_mostly;\nvoid set(int i) { weights[i] = i; }\n"


@pytest.mark.parametrize("definitions", [COOKIES + WEIGHTS, WEIGHTS + COOKIES])
def test_each_is_used_by_its_own_symbol(
    debian_source_kernel: Kernel, tmp_path: Path, definitions: str
) -> None:
    """In the object `weights + 64` is a place in the section that may be where `cookies` begins."""
    changes = {"kernel/kcmp.c": {COOKIES: definitions, OLD: NEW}}
    patch = written(debian_source_kernel, changes, tmp_path)
    module, _ = build_from_patches(debian_source_kernel, [patch], "fix", tmp_path)
    elf = ElfFile.read(module)
    found = {
        (elf.symbol(int(row["r_sym"])).name, int(row["r_addend"]))
        for section in elf.relocation_sections
        for row in elf.relocations(section)
    }
    assert {addend for name, addend in found if name == "weights"} == {0, 64}
    kernels = {addend for name, addend in found if ".cookies," in name}
    assert kernels and all(-4 <= addend < 112 for addend in kernels)
