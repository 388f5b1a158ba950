"""Read entries of the loader's tables: where their fields are, and where relocations lead.

Sizes and fields are those of arch/*/include/asm and include/linux in v5.16 and later; an entry
holds distances from its own fields, one relocation each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from klpbuild.check.subject import Relocation, Subject
from klpbuild.elf.constants import EM, SHF, SHN_LIVEPATCH
from klpbuild.elf.reader import Section
from klpbuild.names import VMLINUX, LivepatchSymbol


class Holds(Enum):
    """What a field of an entry holds."""

    ADDRESS = "64"
    DISTANCE = "PC32"
    FAR_DISTANCE = "PC64"


#: Relocation types of each, the name first that messages use; x86 takes PLT32 as PC32.
_TYPES: dict[int, dict[Holds, tuple[str, tuple[int, ...]]]] = {
    EM.X86_64: {
        Holds.ADDRESS: ("R_X86_64_64", (1,)),
        Holds.DISTANCE: ("R_X86_64_PC32", (2, 4)),
        Holds.FAR_DISTANCE: ("R_X86_64_PC64", (24,)),
    },
    EM.S390: {
        Holds.ADDRESS: ("R_390_64", (22,)),
        Holds.DISTANCE: ("R_390_PC32", (5,)),
        Holds.FAR_DISTANCE: ("R_390_PC64", (23,)),
    },
    EM.PPC64: {
        Holds.ADDRESS: ("R_PPC64_ADDR64", (38,)),
        Holds.DISTANCE: ("R_PPC64_REL32", (26,)),
        Holds.FAR_DISTANCE: ("R_PPC64_REL64", (44,)),
    },
    EM.AARCH64: {
        Holds.ADDRESS: ("R_AARCH64_ABS64", (257,)),
        Holds.DISTANCE: ("R_AARCH64_PREL32", (261,)),
        Holds.FAR_DISTANCE: ("R_AARCH64_PREL64", (260,)),
    },
}


@dataclass(frozen=True)
class Target:
    """Target of a relocation.

    :ivar section: index of a section of the module; 0 for elsewhere.
    :ivar offset: in the section; elsewhere from the symbol.
    :ivar symbol: its name elsewhere: in the kernel, or a number.
    :ivar owner: the object that has the symbol, empty when its export says so.
    :ivar sympos: its position there.
    """

    section: int
    offset: int
    symbol: str = ""
    owner: str = ""
    sympos: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Section and offset."""
        return self.section, self.offset

    def moved(self, by: int) -> Target:
        """Return the target so many bytes behind this one."""
        return replace(self, offset=self.offset + by)


def target_of(subject: Subject, row: Relocation) -> Target:
    """Find where a relocation leads: the symbol's place and the addend."""
    symbol = subject.elf.symbol(row.symbol)
    if symbol.is_defined:
        return Target(symbol.st_shndx, symbol.st_value + row.addend)
    known = LivepatchSymbol.parse(symbol.name) if symbol.st_shndx == SHN_LIVEPATCH else None
    if known is not None:
        return Target(0, row.addend, known.symbol, known.owner, known.sympos)
    return Target(0, row.addend, symbol.name)


def called(subject: Subject, target: Target) -> str:
    """Name a target in messages."""
    name = target.symbol or "an absolute address"
    if target.section:
        name = subject.elf.sections[target.section].name
    owner = "" if target.owner in ("", VMLINUX) else f" of {target.owner}"
    return f"{name}{target.offset:+#x}{owner}"


@dataclass(frozen=True)
class Field:
    """A field of an entry that holds an address.

    :ivar at: its offset in the entry.
    """

    at: int
    kind: Holds = Holds.DISTANCE


@dataclass(frozen=True)
class Layout:
    """Layout of a table's entries.

    :ivar size: of an entry, in bytes.
    :ivar fields: those that hold addresses.
    :ivar short: the last entry may lack the padding at its end.
    :ivar more: fields that may hold an address.
    :ivar lengths: where an entry of code that is replaced says of how many bytes, and by how many.
    """

    size: int
    fields: tuple[Field, ...] = (Field(0),)
    short: int = 0
    more: tuple[Field, ...] = ()
    lengths: tuple[int, int] = (0, 0)


PAIR = (Field(0), Field(4))
#: Tables that all machines have alike.
COMMON = {
    "__ex_table": Layout(12, PAIR),
    "__jump_table": Layout(16, (*PAIR, Field(8, Holds.FAR_DISTANCE))),
    "__param": Layout(
        40,
        (Field(0, Holds.ADDRESS), Field(16, Holds.ADDRESS)),
        more=(Field(8, Holds.ADDRESS), Field(32, Holds.ADDRESS)),
    ),
    "__trace_printk_fmt": Layout(8, (Field(0, Holds.ADDRESS),)),
}
#: Tables of which section_objs() and its like count the whole entries; others end at their end.
_COUNTED = (
    "__bug_table", "__ex_table", "__param", "__jump_table", ".static_call_sites",
    "__trace_printk_fmt",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An entry whose addresses are all there.

    :ivar offset: in its table.
    :ivar targets: where its fields lead, in order.
    :ivar more: where those lead that it may have, by their offset.
    :ivar data: its bytes.
    :ivar order: of the bytes of its numbers.
    """

    offset: int
    targets: tuple[Target, ...]
    data: bytes
    more: dict[int, Target]
    order: Literal["little", "big"]

    def number(self, at: int, width: int) -> int:
        """Read a number among its bytes."""
        return int.from_bytes(self.data[at : at + width], self.order)


@dataclass(frozen=True)
class Malformed:
    """A fault in the structure of a table, and where it is.

    :ivar harmless: whether the kernel does not come to it.
    """

    offset: int
    what: str
    harmless: bool = False


def entries(subject: Subject, table: Section, layout: Layout) -> Iterator[Entry | Malformed]:
    """Read the entries of a table in order, and what keeps others from being read."""
    if not table.sh_size or table.index in subject.unreadable:
        return
    if not table.sh_flags & SHF.ALLOC:
        yield Malformed(0, f"{table.name} is not loaded")
        return
    rows, types = subject.applied.get(table.index, {}), _TYPES[subject.elf.e_machine]
    order: Literal["little", "big"] = "little" if subject.elf.order == "<" else "big"
    wanted = {field.at for field in (*layout.fields, *layout.more)}
    for offset in rows:
        if offset % layout.size not in wanted:
            yield Malformed(offset, f"an entry of {table.name} has an address where none belongs")
    data = bytes(subject.elf.contents(table)) or bytes(table.sh_size)
    for start in range(0, len(data), layout.size):
        piece = data[start : start + layout.size]
        if len(piece) < layout.size - layout.short:
            what = f"{table.name} ends in a part of an entry"
            yield Malformed(start, what, table.name in _COUNTED)
            return
        targets = []
        for field in layout.fields:
            row = rows.get(start + field.at)
            name, kinds = types[field.kind]
            if row is None or row.kind not in kinds:
                what = f"an entry of {table.name} has no relocation of type {name}"
                yield Malformed(start + field.at, what)
                break
            targets.append(target_of(subject, row))
        else:
            more = {
                field.at: target_of(subject, rows[start + field.at])
                for field in layout.more
                if start + field.at in rows
            }
            yield Entry(start, tuple(targets), piece, more, order)
