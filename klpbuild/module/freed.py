"""Refuse code and variables of a livepatch that use what the kernel frees once it is loaded."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.errors import Problems
from klpbuild.extract.sections import holds_variables, is_exit, is_init

#: What an author vouches for: __ref, __refdata and __refconst (include/linux/init.h).
_VOUCHED = ".ref."


def check_freed(objects: Iterable[ElfFile]) -> None:
    """Check that nothing that stays leads into a section of ``__init`` code or data.

    modpost only warns of it, and of modules that never run late: a livepatch's functions run
    when its start is over.

    :raises KlpError: for each place that does.
    """
    problems = Problems()
    for elf in objects:
        for relocations in elf.relocation_sections:
            target = elf.sections[relocations.sh_info]
            if not _stays(target):
                continue
            for row in elf.relocations(relocations):
                symbol = elf.symbol(int(row["r_sym"]))
                section = elf.sections[symbol.st_shndx] if symbol.is_defined else target
                if is_init(section.name):
                    user = _holder(elf, target, int(row["r_offset"]))
                    problems.add(
                        f"{user} uses {section.name}",
                        where=elf.name,
                        why="The kernel frees that section when the livepatch is loaded.",
                        hint="Take __init, __initdata or __initconst away from what it uses.  What"
                        " only the livepatch's\nown start runs gets __init itself, or __ref.",
                    )
    problems.check()


def _stays(section: Section) -> bool:
    name, flags = section.name, section.sh_flags
    if not flags & SHF.ALLOC or is_init(name) or is_exit(name) or name.startswith(_VOUCHED):
        return False
    return bool(flags & SHF.EXECINSTR) or holds_variables(name)


def _holder(elf: ElfFile, section: Section, offset: int) -> str:
    """Name the function or variable at an offset, else its section."""
    rows = elf.symbols
    start = rows["st_value"]
    inside = (rows["st_shndx"] == section.index) & (start <= offset)
    inside &= offset < start + rows["st_size"]
    return next(map(elf.symbol_name, np.flatnonzero(inside).tolist()), section.name)
