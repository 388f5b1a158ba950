"""Read entries of the loader's tables: where their fields are, and where relocations lead.

Sizes and fields are those of arch/x86/include/asm and include/linux in v5.16 and later; an
entry holds distances from its own fields, one relocation each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from klpbuild.check.rule import Version
from klpbuild.check.subject import Relocation, Subject
from klpbuild.elf.constants import SHF, SHN_LIVEPATCH
from klpbuild.elf.reader import Section
from klpbuild.names import VMLINUX, LivepatchSymbol

R_64, R_PC32, R_PC64 = 1, 2, 24
#: Relocation types that the loader treats alike: R_X86_64_PLT32 as R_X86_64_PC32.
_LIKE = {4: R_PC32}
_TYPES = {R_64: "R_X86_64_64", R_PC32: "R_X86_64_PC32", R_PC64: "R_X86_64_PC64"}


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
    :ivar kind: the relocation type that makes it.
    """

    at: int
    kind: int = R_PC32


@dataclass(frozen=True)
class Layout:
    """Layout of a table's entries.

    :ivar size: of an entry, in bytes.
    :ivar fields: those that hold addresses.
    :ivar short: the last entry may lack the padding at its end.
    :ivar more: fields that may hold an address.
    """

    size: int
    fields: tuple[Field, ...] = (Field(0),)
    short: int = 0
    more: tuple[Field, ...] = ()


_PAIR = (Field(0), Field(4))
_LAYOUTS = {
    ".return_sites": Layout(4),
    ".retpoline_sites": Layout(4),
    ".call_sites": Layout(4),
    ".ibt_endbr_seal": Layout(4),
    ".smp_locks": Layout(4),
    ".orc_unwind_ip": Layout(4),
    ".parainstructions": Layout(16, (Field(0, R_64),), short=6),
    ".static_call_sites": Layout(8, _PAIR),
    "__bug_table": Layout(12, _PAIR),
    "__ex_table": Layout(12, _PAIR),
    "__param": Layout(
        40, (Field(0, R_64), Field(16, R_64)), more=(Field(8, R_64), Field(32, R_64))
    ),
    "__jump_table": Layout(16, (*_PAIR, Field(8, R_PC64))),
    "__trace_printk_fmt": Layout(8, (Field(0, R_64),)),
}
_ALTERNATIVES = ".altinstructions"
#: First kernel whose struct bug_entry has a format (HAVE_ARCH_BUG_FORMAT of x86).
_FORMATTED = (6, 19)
#: Tables of which section_objs() and its like count the whole entries; others end at their end.
_COUNTED = (
    "__bug_table", "__ex_table", "__param", "__jump_table", ".static_call_sites",
    "__trace_printk_fmt",
)  # fmt: skip


def layouts(version: Version | None, size: int) -> dict[str, Layout]:
    """List the tables of a kernel, by name.

    :param version: None when it is not known.
    :param size: of ``.altinstructions`` for each two relocations, taken without a version.
    """
    known = dict(_LAYOUTS)
    if version is None:
        length = size if size in (12, 13, 14) else 12
    else:
        # v5.13 took the length of the padding out, v6.3 put flags in.
        length = 14 if version >= (6, 3) else 12 if version >= (5, 13) else 13
    known[_ALTERNATIVES] = Layout(length, _PAIR)
    if version is not None and version >= _FORMATTED:
        known["__bug_table"] = Layout(16, (*_PAIR, Field(8)))  # the second one is the format
    if version is not None and version < (4, 20):
        del known["__jump_table"]  # whole addresses until then
    if version is not None and version < (5, 16):
        known["__ex_table"] = Layout(12, (*_PAIR, Field(8)))  # the third one is the handler
    return known


@dataclass(frozen=True)
class Entry:
    """An entry whose addresses are all there.

    :ivar offset: in its table.
    :ivar targets: where its fields lead, in order.
    :ivar more: where those lead that it may have, by their offset.
    :ivar data: its bytes.
    """

    offset: int
    targets: tuple[Target, ...]
    data: bytes
    more: dict[int, Target]

    def number(self, at: int, width: int) -> int:
        """Read a number among its bytes."""
        return int.from_bytes(self.data[at : at + width], "little")


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
    rows = subject.applied.get(table.index, {})
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
            if row is None or _LIKE.get(row.kind, row.kind) != field.kind:
                what = f"an entry of {table.name} has no relocation of type {_TYPES[field.kind]}"
                yield Malformed(start + field.at, what)
                break
            targets.append(target_of(subject, row))
        else:
            more = {
                field.at: target_of(subject, rows[start + field.at])
                for field in layout.more
                if start + field.at in rows
            }
            yield Entry(start, tuple(targets), piece, more)
