"""Read ``struct module``: modpost fills in its name, init and exit alone."""

from __future__ import annotations

from dataclasses import dataclass

from klpbuild.arch import by_machine
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.errors import KlpError

#: The section that becomes the kernel's struct module.
THIS_MODULE = ".gnu.linkonce.this_module"
INIT, EXIT = "init_module", "cleanup_module"
#: Behind ``enum module_state state`` and ``struct list_head list``; MODULE_NAME_LEN bytes.
NAME, NAME_SIZE = 24, 56


@dataclass(frozen=True)
class Entry:
    """A relocation of struct module.

    :ivar names: of the functions that begin where it leads; empty for none.
    :ivar absolute: whether it writes a 64-bit address.
    """

    offset: int
    names: frozenset[str]
    absolute: bool


def name_in(elf: ElfFile, section: Section) -> str | None:
    """Read the module's name in its struct module, None when none ends there."""
    data = bytes(elf.contents(section)[NAME : NAME + NAME_SIZE])
    name, end, _ = data.partition(b"\0")
    return name.decode(errors="surrogateescape") if end else None


def entries_of(elf: ElfFile, section: Section) -> tuple[Entry, ...]:
    """Read the relocations of struct module.

    :raises KlpError: when they are broken.
    """
    machine = by_machine(elf.e_machine, elf.name)
    found = []
    for relocations in elf.relocation_sections:
        if relocations.sh_info != section.index or relocations.sh_flags & SHF.RELA_LIVEPATCH:
            continue
        for offset, kind, index, addend in elf.relocations(relocations).tolist():
            if kind == machine.none:
                continue
            symbol = elf.symbol(index)
            place = symbol.st_shndx, symbol.st_value + addend
            names = frozenset(_functions_at(elf, place)) if symbol.is_defined else frozenset()
            found.append(Entry(offset, names, kind == machine.absolute_64))
    return tuple(found)


def _functions_at(elf: ElfFile, place: tuple[int, int]) -> list[str]:
    if not elf.sections[place[0]].sh_flags & SHF.EXECINSTR:
        return []
    rows = elf.symbols
    here = (rows["st_shndx"] == place[0]) & (rows["st_value"] == place[1] & (2**64 - 1))
    return [elf.symbol_name(n) for n in here.nonzero()[0].tolist() if rows[n]["st_name"]]


def places_in(elf: ElfFile) -> dict[str, int]:
    """Find where the struct module of a sound module has init and exit."""
    section = elf.section(THIS_MODULE)
    if section is None:
        return {}
    try:
        entries = entries_of(elf, section)
    except KlpError:
        return {}
    return {name: e.offset for e in entries for name in e.names & {INIT, EXIT}}
