"""Find the landing pads of indirect calls (IBT, indirect branch tracking).

With CONFIG_X86_KERNEL_IBT (v5.18) a function whose address is taken begins with
``endbr64``.  objtool lists those whose address the linked kernel takes nowhere, and the
kernel removes theirs at boot (``.ibt_endbr_seal``; arch/x86/kernel/alternative.c).  An
indirect call of a function without one is a fault.
"""

from __future__ import annotations

import numpy as np

from klpbuild.elf.constants import ET
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.atoms import Atom
from klpbuild.extract.correlate import Correlation
from klpbuild.extract.objects import CodeObject
from klpbuild.resolve.fate import Place

_SEALED = ".ibt_endbr_seal"
#: Type, size, and 4 bytes of value.
_PROPERTY = 12


def is_landing_place(code: CodeObject, function: Atom) -> bool:
    """Tell whether a function begins with an instruction that an indirect call may reach."""
    landing, note = code.instructions.landing, code.instructions.landing_note
    if not landing or (note is not None and not _feature(code.elf, note) & 1):
        return False
    return code.contents(function)[function.entry - function.start :].startswith(landing)


def has_own_address(correlation: Correlation, function: Atom) -> bool:
    """Tell whether a function's address is its own: the kernel's cannot be called by one."""
    twin = correlation.to_original.get(function)
    if function.name in correlation.ties.taken:
        return True
    if twin is None or not is_landing_place(correlation.patched, function):
        return False
    return not is_landing_place(correlation.original, twin)


def _feature(elf: ElfFile, kind: int) -> int:
    """Read a property that an object notes of its code, 0 without one."""
    section = elf.section(".note.gnu.property")
    # The note's head, "GNU\0", then properties of 8 bytes of head and data filled up to 8.
    data = bytes(elf.contents(section))[16:] if section is not None else b""
    while len(data) >= _PROPERTY:
        found, size, value = np.frombuffer(data[:_PROPERTY], f"{elf.order}u4").tolist()
        if found == kind:
            return int(value)
        data = data[8 + -(-size // 8) * 8 :]
    return 0


def sealed_places(elf: ElfFile) -> frozenset[Place]:
    """Read which functions of vmlinux or a module lose their landing pad when it starts."""
    section = elf.section(_SEALED)
    if section is None:
        return frozenset()
    if elf.e_type != ET.REL:
        offsets = np.frombuffer(elf.contents(section), "<i4").astype(np.int64)
        bases = np.arange(len(offsets), dtype=np.int64) * 4
        return frozenset(
            Place("", (section.sh_addr + int(target)) & (1 << 64) - 1)
            for target in (bases + offsets).tolist()
        )
    found = set()
    for relocations in elf.relocation_sections:
        if relocations.sh_info == section.index:
            for row in elf.relocations(relocations):
                symbol = elf.symbol(int(row["r_sym"]))
                home = elf.sections[symbol.st_shndx].name
                found.add(Place(home, symbol.st_value + int(row["r_addend"])))
    return frozenset(found)


def no_landing(name: str, where: str) -> KlpError:
    """Make the refusal for a function whose address cannot be taken."""
    return KlpError(
        f"the address of {name} cannot be taken",
        where=where,
        why="Nothing in the running kernel takes it, so that the kernel removed the function's "
        "landing place for indirect calls (IBT).",
        hint="Take the address of a new function that calls it.",
    )
