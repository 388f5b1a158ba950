"""Variables that share a section, and code that computes an element from behind one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from klpbuild.kernel.tree import Kernel
from klpbuild.pipeline.from_patch import build_from_patches
from klpbuild.vm.trial import Wanted, boot_livepatch
from tests.pipeline.livepatches import written

pytestmark = [pytest.mark.kernel, pytest.mark.boot]

OURS = (
    "static unsigned char weights[64] __read_mostly = { 5 };\nvoid set(int i) { weights[i] = i; }\n"
)
FIRST = "static unsigned int i_hash_mask __read_mostly;\n"
LAST = "static struct kmem_cache *inode_cachep __read_mostly;\n"
SHOWN = "\tinodes_stat.nr_unused = get_nr_inodes_unused();\n"
OTHER = """\
\tunsigned long n = -64UL;
\tOPTIMIZER_HIDE_VAR(n);
\tinodes_stat.nr_unused = 7000 + weights[n + 64];
"""


@pytest.mark.parametrize("definition", [OURS + FIRST, LAST + OURS])
def test_each_is_used_by_its_own_symbol(
    debian_source_kernel: Kernel, tmp_path: Path, definition: str
) -> None:
    """In the object `weights + 64` is a place in the section: where one of the kernel's begins."""
    whose = FIRST if FIRST in definition else LAST
    changes = {"fs/inode.c": {whose: definition, SHOWN: OTHER}}
    patch = written(debian_source_kernel, changes, tmp_path)
    module, _ = build_from_patches(debian_source_kernel, [patch], "fix", tmp_path)
    elf = ElfFile.read(module)
    addends = {
        int(row["r_addend"])
        for section in elf.relocation_sections
        for row in elf.relocations(section)
        if elf.symbol(int(row["r_sym"])).name == "weights"
    }
    assert addends == {0, 64}
    trial = boot_livepatch(debian_source_kernel, Wanted([module], watch=["/proc/sys/fs/inode-nr"]))
    assert trial.problems == ()
    assert (trial.files[0].patched or "").split()[1] == "7005"
