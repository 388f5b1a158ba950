"""Check the bytes that apply_relocate_add() of arch/x86/kernel/module.c changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from klpbuild.arch import by_machine
from klpbuild.check import catalogue
from klpbuild.check.rule import Effect
from klpbuild.check.subject import Subject, is_livepatch_section, is_relocated, place
from klpbuild.elf.constants import SHN_ABS, SHN_LIVEPATCH, SHT
from klpbuild.elf.reader import Section, Symbol
from klpbuild.elf.tables import Table
from klpbuild.names import VMLINUX, LivepatchSection, LivepatchSymbol

#: Bytes that each relocation type of x86-64 writes; R_X86_64_NONE writes none.
WIDTHS = {0: 0, 1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}
NAMES = {
    0: "R_X86_64_NONE",
    1: "R_X86_64_64",
    2: "R_X86_64_PC32",
    4: "R_X86_64_PLT32",
    10: "R_X86_64_32",
    11: "R_X86_64_32S",
    24: "R_X86_64_PC64",
}
R_X86_64_64, R_X86_64_32 = 1, 10
#: Bytes of an entry before ftrace changes it.
_CALL, _NOP = b"\xe8", b"\x0f\x1f\x44\x00\x00"
_MASK = 2**64 - 1
_PERCPU = ".data..percpu"
#: The kernel and its modules are in the upper 2 GiB, modules in its upper half;
#: per-CPU variables have small addresses.
_HIGH, _MODULE = 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000
_NEAR = 1 << 30
#: Ranges of addresses that fit into a relocation in a module, by its type.
_FITS: dict[int, Callable[[int], bool]] = {
    10: lambda address: address < 1 << 32,
    11: lambda address: address < 1 << 31 or address >= _HIGH,
    2: lambda address: address < _NEAR or address >= _HIGH,
    4: lambda address: address < _NEAR or address >= _HIGH,
}
_UNCHECKED = frozenset({2, 4})

_Mask = npt.NDArray[np.bool_]


def check_places(subject: Subject) -> None:
    """Check the type and the place of every relocation that is applied."""
    elf = subject.elf
    with subject.guarded(catalogue.BROKEN):
        _check_entries(subject)
    written: dict[int, _Mask] = {}
    for section, target in subject.relocation_sections:
        if not is_relocated(target) or target.sh_type == SHT.NOBITS:
            continue
        with subject.guarded(catalogue.BROKEN):
            _check_section(subject, section, target, elf.relocations(section), written)


def _check_section(
    subject: Subject, section: Section, target: Section, rows: Table, written: dict[int, _Mask]
) -> None:
    effect = Effect.REFUSED
    if is_livepatch_section(section):
        name = LivepatchSection.parse(section.name)
        effect = Effect.REFUSED if name is None or name.gate == VMLINUX else Effect.LATE
    for kind in np.unique(rows["r_type"]).tolist():
        if kind not in WIDTHS:
            first = rows[rows["r_type"] == kind][0]
            what = f"{section.name} has a relocation of type {kind}"
            where = place(target, int(first["r_offset"]))
            subject.find(catalogue.UNKNOWN_TYPE, what, where, effect, type=kind)
    _check_zero(subject, section, target, rows, written, effect)
    _check_overflow(subject, target, rows, effect)


def _check_zero(
    subject: Subject,
    section: Section,
    target: Section,
    rows: Table,
    written: dict[int, _Mask],
    effect: Effect,
) -> None:
    data = np.frombuffer(subject.elf.contents(target), np.uint8)
    taken = written.setdefault(target.index, np.zeros(len(data), np.bool_))
    nonzero: list[tuple[int, int, str]] = []
    for kind, width in WIDTHS.items():
        numbers = np.flatnonzero(rows["r_type"] == kind)
        offsets = rows["r_offset"][numbers].astype(np.int64)
        if not width or not len(offsets):
            continue
        past = offsets + width > len(data)
        if past.any():
            what = f"{section.name} writes past the end of {target.name}"
            subject.find(catalogue.BROKEN, what, place(target, int(offsets[past][0])))
        offsets, numbers = offsets[~past], numbers[~past]
        places = offsets[:, None] + np.arange(width)
        what = f"{NAMES[kind]} changes bytes that are not zero"
        nonzero += [(n, kind, what) for n in numbers[data[places].any(axis=1)].tolist()]
        twice = taken[places].any(axis=1)
        order = np.argsort(offsets, kind="stable")
        twice[order[1:]] |= np.diff(offsets[order]) < width
        what = f"{NAMES[kind]} of {section.name} changes bytes that another one changes"
        nonzero += [(n, kind, what) for n in numbers[twice].tolist()]
        taken[places] = True
    for number, kind, what in sorted(nonzero):  # the kernel says it of the first
        where = place(target, int(rows[number]["r_offset"]))
        subject.find(catalogue.NONZERO, what, where, effect, type=kind)


def _check_overflow(subject: Subject, target: Section, rows: Table, effect: Effect) -> None:
    """Check that each address fits, as far as that can be foreseen.

    The kernel does not check R_X86_64_PC32 and PLT32: an address that is too far away
    becomes another one.
    """
    for kind, symbol in np.unique(rows[["r_type", "r_sym"]]).tolist():
        if kind not in _FITS:
            continue
        alike = rows[(rows["r_type"] == kind) & (rows["r_sym"] == symbol)]
        for addend, offset in sorted(set(zip(*_columns(alike), strict=True))):
            _check_fits(subject, target, (kind, symbol, addend, offset), effect)


def _columns(rows: Table) -> tuple[list[int], list[int]]:
    return rows["r_addend"].tolist(), rows["r_offset"].tolist()


def _check_fits(
    subject: Subject, target: Section, record: tuple[int, int, int, int], effect: Effect
) -> None:
    kind, index, addend, offset = record
    elf, symbol = subject.elf, subject.elf.symbol(index)
    start = _start(subject, symbol)
    if start is None:
        if kind == R_X86_64_32:
            subject.not_checked(catalogue.OVERFLOW, "its address is not known", symbol.name)
        return
    if _FITS[kind]((start + addend) & _MASK):
        return
    name = symbol.name or (elf.sections[symbol.st_shndx].name if symbol.is_defined else "")
    what = f"the address of {name} does not fit into {NAMES[kind]}"
    said = Effect.ACCEPTED if kind in _UNCHECKED else effect
    subject.find(catalogue.OVERFLOW, what, place(target, offset, name), said, type=kind)


def _start(subject: Subject, symbol: Symbol) -> int | None:
    """Find the address of a symbol, `_MODULE` for all that is somewhere in a module or vmlinux."""
    if symbol.st_shndx == SHN_ABS:
        return symbol.st_value
    if symbol.st_shndx == SHN_LIVEPATCH:
        return _address(subject, symbol.name)
    if symbol.is_defined and subject.elf.sections[symbol.st_shndx].name == _PERCPU:
        return symbol.st_value
    return _MODULE


def _check_entries(subject: Subject) -> None:
    """Check that each address in ``__mcount_loc`` is a call of ``__fentry__``, or a nop."""
    elf = subject.elf
    names = by_machine(elf.e_machine).entry_sections
    for section, target in subject.relocation_sections:
        if target.name not in names or is_livepatch_section(section):
            continue
        for row in elf.relocations(section).tolist():
            offset, kind, index, addend = row
            symbol = elf.symbol(index)
            at = symbol.st_shndx, symbol.st_value + addend
            entry = kind == R_X86_64_64 and symbol.is_defined and _is_entry(subject, *at)
            # ftrace_process_locs() passes over zeros.
            zero = not at[1] and symbol.st_shndx in (SHN_ABS, SHN_LIVEPATCH)
            if kind and not entry and not zero:
                named = elf.sections[at[0]].name if symbol.is_defined else symbol.name
                what = f"{target.name} names {named}+{at[1]:#x}, which does not call __fentry__"
                # ftrace is dead from then on: functions that are there cannot be patched.
                gates = {p.object for p in subject.patched or ()}
                effect = Effect.LATE if gates and VMLINUX not in gates else Effect.REFUSED
                subject.find(catalogue.BAD_ENTRY, what, place(target, offset), effect)


def _is_entry(subject: Subject, section: int, offset: int) -> bool:
    found = subject.elf.sections[section]
    code = bytes(subject.elf.contents(found)[max(offset, 0) : offset + 5])
    return code == _NOP or (code[:1] == _CALL and (section, offset + 1) in subject.entry_calls)


def _address(subject: Subject, name: str) -> int | None:
    """Find the address of a livepatch symbol, `_MODULE` for one of a module."""
    known = LivepatchSymbol.parse(name)
    if known is None:
        return None
    if known.owner != VMLINUX:
        return _MODULE
    if subject.kernel is None or subject.kernel.database is None:
        return None
    found = subject.kernel.database.in_object(known.owner, known.symbol)
    number = max(known.sympos - 1, 0)
    return found[number].address if number < len(found) else None
