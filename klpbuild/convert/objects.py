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
_NAME_MAX = 256


def patched_objects(elf: ElfFile, known: Container[str]) -> frozenset[str]:
    """The modules that a linked livepatch has a ``klp_object`` for.

    ``struct klp_object`` begins with the pointers ``name`` and ``funcs`` (since
    v4.7, include/linux/livepatch.h).  In static tables both are relocations, one
    pointer apart, the first leads to the module's name and the second to data.  (A
    ``struct klp_func`` begins with a name and the address of code.)  vmlinux's name
    is NULL.

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
        fields = (pointers[name].tolist() for name in ("r_offset", "r_sym", "r_addend"))
        places = {offset: (index, addend) for offset, index, addend in zip(*fields, strict=True)}
        for offset, (index, addend) in places.items():
            following = places.get(offset + _POINTER)
            if following is None or _data(elf, *following) is None:
                continue
            contents = _data(elf, index, addend)
            if contents is not None:
                name = string_at(contents, 0)
                if name in known:
                    found.add(name)
    return frozenset(found)


def _data(elf: ElfFile, index: int, addend: int) -> bytes | None:
    """The bytes that a pointer leads to, None when it does not lead to data of this file."""
    symbol = elf.symbol(index)
    if not symbol.is_defined:
        return None
    section = elf.sections[symbol.st_shndx]
    place = symbol.st_value + addend
    if section.sh_flags & SHF.EXECINSTR or not 0 <= place < section.sh_size:
        return None
    return bytes(elf.contents(section)[place : place + _NAME_MAX])
