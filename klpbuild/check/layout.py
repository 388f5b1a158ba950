"""Lay out sections in memory as layout_sections() of kernel/module/main.c does."""

from __future__ import annotations

from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile

_AFTER_INIT = (".data..ro_after_init", "__jump_table")


def offsets_in_memory(elf: ElfFile) -> dict[int, int]:
    """Compute the offset of each loaded section from the page where its kind begins."""
    sizes: dict[tuple[bool, int], int] = {}
    found = {}
    for section in elf.sections:
        if not section.sh_flags & SHF.ALLOC:
            continue
        kind = 3 if section.sh_flags & SHF.WRITE else 1
        kind = 2 if section.name in _AFTER_INIT else kind
        kind = 0 if section.sh_flags & SHF.EXECINSTR else kind
        area = section.name.startswith(".init"), kind
        mask = max(section.sh_addralign, 1) - 1
        found[section.index] = sizes.get(area, 0) + mask & ~mask
        sizes[area] = found[section.index] + section.sh_size
    return found
