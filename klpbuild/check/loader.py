"""Model how the module loader of an architecture takes relocations: apply_relocate_add()."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from klpbuild.check import catalogue
from klpbuild.check.entries import target_of
from klpbuild.check.functions import check_branch, check_pointers
from klpbuild.check.rule import Effect
from klpbuild.check.sites import Model, Tables
from klpbuild.check.subject import (
    Relocation,
    Subject,
    is_livepatch_section,
    is_relocated,
    place,
)
from klpbuild.check.unlisted import check_unlisted
from klpbuild.elf.constants import SHF, SHN_LIVEPATCH, SHN_UNDEF, SHT
from klpbuild.elf.reader import Section
from klpbuild.errors import KlpError
from klpbuild.names import VMLINUX, LivepatchSection

Contents = bytes | memoryview
#: Whether code takes a relocation at an offset.
Fits = Callable[[Contents, int], bool]


@dataclass(frozen=True)
class Kind:
    """A relocation type.

    :ivar width: of what is written, in bytes.
    :ivar align: what the distance must be a multiple of, for a relative one.
    :ivar fits: which instructions have such a field; None where data has it, too.
    :ivar branch: which of these are direct branches.
    :ivar ahead: what such an instruction adds to the relocation's addend.
    :ivar calls: which of these lead to where a function begins.
    """

    name: str
    width: int
    align: int = 1
    fits: Fits | None = None
    branch: Fits | None = None
    ahead: int = 0
    calls: Fits | None = None


@dataclass(frozen=True)
class Applied:
    """A relocation that the kernel applies.

    :ivar section: the section that has it.
    :ivar target: the section that it changes.
    :ivar effect: what the kernel does when it cannot apply it.
    """

    section: Section
    target: Section
    row: Relocation
    effect: Effect

    def place(self, subject: Subject) -> str:
        """Name where it is."""
        return place(self.target, self.row.offset, subject.elf.symbol_name(self.row.symbol))


@dataclass(frozen=True)
class Loader:
    """A module loader.

    :ivar kinds: the relocation types that it knows.
    :ivar entries: the table of entry calls.
    :ivar is_entry: whether an entry call is at a place: subject, section index, offset.
    :ivar filled: sections that it fills, and that must be there.
    :ivar tables: the tables about code that it reads.
    :ivar more: what else it asks of a relocation.
    """

    kinds: Mapping[int, Kind]
    entries: tuple[str, ...]
    is_entry: Callable[[Subject, int, int], bool]
    filled: tuple[str, ...]
    tables: Model
    more: Callable[[Subject, Applied], None] = lambda subject, applied: None

    def check(self, subject: Subject) -> None:
        """Check all that the loader applies, and what it fills."""
        names = {section.name for section in subject.elf.sections}
        for name in self.filled:
            if name not in names:
                subject.find(catalogue.NOT_FILLED, f"has no section {name}")
        for applied in _all_applied(subject):
            with subject.guarded(catalogue.BROKEN):
                self._check_row(subject, applied)
        tables = Tables(subject, self.tables)
        tables.check()
        with subject.guarded(catalogue.BROKEN):
            check_unlisted(tables)
            self._check_pointers(subject)

    def _check_pointers(self, subject: Subject) -> None:
        for section in subject.elf.sections:
            loaded = section.sh_flags & SHF.ALLOC and section.index not in subject.unreadable
            if loaded and not subject.pointers.holds_code(section.index):
                check_pointers(subject, section, subject.applied.get(section.index, {}))

    def _check_row(self, subject: Subject, applied: Applied) -> None:
        row, target = applied.row, applied.target
        kind = self.kinds.get(row.kind)
        if kind is None:
            what = f"{applied.section.name} has a relocation of type {row.kind}"
            rule, where = catalogue.UNKNOWN_TYPE, place(target, row.offset)
            subject.find(rule, what, where, applied.effect, type=row.kind)
            return
        if row.offset + kind.width > target.sh_size:
            what = f"{applied.section.name} writes past the end of {target.name}"
            subject.find(catalogue.BROKEN, what, place(target, row.offset))
            return
        code = subject.elf.contents(target)
        executable = target.sh_flags & SHF.EXECINSTR
        if kind.fits and executable and not kind.fits(code, row.offset):
            what = f"{kind.name} is not in an instruction that has such a field"
            subject.find(catalogue.MISFIT, what, applied.place(subject))
        if kind.align > 1 and self._is_odd(subject, applied, kind.align):
            what = f"{kind.name} cannot hold a distance that is no multiple of {kind.align}"
            name = subject.elf.symbol_name(row.symbol)
            where = applied.place(subject)
            subject.find(
                catalogue.OVERFLOW, what, where, applied.effect, type=row.kind, symbol=name
            )
        if kind.branch and executable and kind.branch(code, row.offset):
            led = target_of(subject, row).moved(kind.ahead)
            is_call = kind.calls is not None and kind.calls(code, row.offset)
            check_branch(subject, led, applied.place(subject), is_call)
        if target.name in self.entries:
            self._check_entry(subject, applied)
        self.more(subject, applied)

    def _is_odd(self, subject: Subject, applied: Applied, align: int) -> bool:
        """Tell whether the distance to a place of the module is no multiple of a number."""
        symbol = subject.elf.symbol(applied.row.symbol)
        if not symbol.is_defined:
            return False
        there = subject.elf.sections[symbol.st_shndx]
        if min(there.sh_addralign, applied.target.sh_addralign) < align:
            return False
        distance = symbol.st_value + applied.row.addend - applied.row.offset
        return distance % align != 0

    def _check_entry(self, subject: Subject, applied: Applied) -> None:
        row = applied.row
        symbol = subject.elf.symbol(row.symbol)
        at = symbol.st_value + row.addend
        if symbol.is_defined and self.is_entry(subject, symbol.st_shndx, at):
            return
        named = subject.elf.sections[symbol.st_shndx].name if symbol.is_defined else symbol.name
        what = f"{applied.target.name} names {named}+{at:#x}, which is no entry call"
        # ftrace is dead from then on: functions that are there cannot be patched.
        gates = {p.object for p in subject.patched or ()}
        effect = Effect.LATE if gates and VMLINUX not in gates else Effect.REFUSED
        subject.find(catalogue.BAD_ENTRY, what, place(applied.target, row.offset), effect)


def word(code: Contents, offset: int) -> int:
    """Read the little-endian instruction of 4 bytes at an offset, 0 where there is none."""
    if not 0 <= offset <= len(code) - 4 or offset % 4:
        return 0
    return int.from_bytes(code[offset : offset + 4], "little")


def _all_applied(subject: Subject) -> Iterator[Applied]:
    for section, target in subject.relocation_sections:
        if not is_relocated(target) or target.sh_type == SHT.NOBITS:
            continue
        try:
            rows = subject.elf.relocations(section)
        except KlpError:  # which check_relocations reports
            continue
        for row in map(Relocation._make, rows.tolist()):
            yield Applied(section, target, row, _effect(section))


def _effect(section: Section) -> Effect:
    if is_livepatch_section(section):
        name = LivepatchSection.parse(section.name)
        return Effect.REFUSED if name is None or name.gate == VMLINUX else Effect.LATE
    return Effect.REFUSED


def gate_of(applied: Applied) -> str:
    """Name the module whose loading applies a relocation; vmlinux for what is applied at once."""
    livepatch = is_livepatch_section(applied.section)
    name = LivepatchSection.parse(applied.section.name) if livepatch else None
    return name.gate if name else VMLINUX


def is_elsewhere(subject: Subject, index: int) -> bool:
    """Tell whether a symbol is another object's."""
    return subject.elf.symbol(index).st_shndx in (SHN_UNDEF, SHN_LIVEPATCH)
