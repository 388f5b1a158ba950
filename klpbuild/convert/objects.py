"""Which objects a livepatch patches, read from its own tables.

A livepatch relocation whose gate has no ``klp_object`` is never applied, and
the kernel says nothing.  So the converter reads the tables that the kernel
will read, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Container

from klpbuild.arch import by_machine
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import string_at

_POINTER = 8


def patched_objects(elf: ElfFile, known: Container[str]) -> frozenset[str]:
    """The modules that a linked livepatch has a ``klp_object`` for.

    ``struct klp_object`` begins with the pointers ``name`` and ``funcs`` (since
    v4.7, include/linux/livepatch.h).  In static tables both are relocations, one
    pointer apart, and the first leads to the module's name.  vmlinux's name is NULL.

    :param known: the names of the kernel's objects.
    """
    absolute = by_machine(elf.e_machine, elf.name).absolute_64
    found = set()
    for section in elf.relocation_sections:
        target = elf.sections[section.sh_info]
        if not target.sh_flags & SHF.ALLOC or target.sh_flags & SHF.EXECINSTR:
            continue
        rows = elf.relocations(section)
        pointers = rows[rows["r_type"] == absolute]
        places = set(pointers["r_offset"].tolist())
        fields = (pointers[name].tolist() for name in ("r_offset", "r_sym", "r_addend"))
        for offset, index, addend in zip(*fields, strict=True):
            if offset + _POINTER not in places:
                continue
            symbol = elf.symbol(index)
            if not symbol.is_defined:
                continue
            holder = elf.sections[symbol.st_shndx]
            place = symbol.st_value + addend
            if 0 <= place < holder.sh_size and not holder.sh_flags & SHF.EXECINSTR:
                name = string_at(bytes(elf.contents(holder)[place : place + 256]), 0)
                if name in known:
                    found.add(name)
    return frozenset(found)
