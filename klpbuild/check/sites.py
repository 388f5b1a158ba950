"""Tables of places in the code, which the kernel changes as it loads the module.

objtool makes most of them: arrays of 32-bit distances, one relocation each.  apply_returns(),
apply_retpolines() and their kind (arch/x86/kernel/alternative.c) look at the code that
they lead to, and trust that it is code.  So does apply_alternatives(), whose entries also
say how many bytes are replaced by how many.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from klpbuild.check import catalogue
from klpbuild.check.subject import Subject, is_livepatch_section, is_relocated, place
from klpbuild.elf.constants import EM, SHF, SHN_LIVEPATCH, SHN_UNDEF
from klpbuild.elf.reader import Section

#: Each table, and how the name of the function begins that its places jump to or call.
_TABLES = {
    ".return_sites": "__x86_return_thunk",
    ".retpoline_sites": "__x86_indirect_",
    ".call_sites": "",
    ".ibt_endbr_seal": "",
    ".orc_unwind_ip": "",
    ".smp_locks": "",
}
#: Tables with other fields beside the places.
_MIXED = frozenset({".altinstructions", "__ex_table"})
_ALTERNATIVES = ".altinstructions"
#: Size of struct alt_instr to where its lengths are: before v5.13, since, and since v6.3.
_LENGTHS = {13: 10, 12: 10, 14: 12}
#: MAX_PATCH_LEN: apply_alternatives() has a buffer of so many bytes and a BUG_ON() for more.
_LONGEST = 254
_ENTRY, _PC32, _PLT32 = 4, 2, 4
_JUMP, _CALL, _ESCAPE = 0xE9, 0xE8, 0x0F
#: Of -mindirect-branch-cs-prefix.
_PREFIX = b"\x2e"


def check_sites(subject: Subject) -> None:
    """Check that each entry leads to code of the module, and to the code that it is for."""
    if subject.elf.e_machine != EM.X86_64:
        return
    for section, target in subject.relocation_sections:
        if not is_relocated(target):
            continue
        with subject.guarded(catalogue.BROKEN):
            if target.name in _TABLES and not is_livepatch_section(section):
                _check_table(subject, section, target)
            if target.name in _MIXED and not is_livepatch_section(section):
                _check_mixed(subject, section, target)
            if target.sh_flags & SHF.EXECINSTR:
                _check_calls(subject, section, target)


def _check_calls(subject: Subject, section: Section, target: Section) -> None:
    rows = subject.elf.relocations(section)
    places = subject.elf.symbols["st_shndx"][rows["r_sym"]]
    foreign = np.isin(places, (SHN_UNDEF, SHN_LIVEPATCH)) & (rows["r_sym"] > 0)
    odd = rows[foreign & (rows["r_type"] == _PLT32) & (rows["r_addend"] != -_ENTRY)]
    for offset, _, index, addend in odd.tolist():
        name = subject.elf.symbol_name(index)
        what = f"a call leads to {name} and {addend + _ENTRY:+#x} bytes"
        subject.find(catalogue.INSIDE, what, place(target, offset, name))


def _check_table(subject: Subject, section: Section, target: Section) -> None:
    rows = {row[0]: row for row in subject.elf.relocations(section).tolist()}
    for offset in range(0, target.sh_size - _ENTRY + 1, _ENTRY):
        for what in _faults(subject, target, rows.get(offset)):
            where = place(target, offset)
            subject.find(catalogue.SITE, f"an entry of {target.name} {what}", where)


def _check_mixed(subject: Subject, section: Section, target: Section) -> None:
    rows = sorted(subject.elf.relocations(section).tolist())
    wrong = [(row[0], _no_code(subject, row)) for row in rows]
    if target.name == _ALTERNATIVES and not any(what for _, what in wrong):
        wrong += _alternatives(subject, target, rows)
    for offset, what in wrong:
        if what:
            where = place(target, offset)
            subject.find(catalogue.SITE, f"an entry of {target.name} {what}", where)


def _alternatives(
    subject: Subject, target: Section, rows: list[tuple[int, int, int, int]]
) -> Iterator[tuple[int, str]]:
    """What is wrong with the lengths, by the entry's offset."""
    size = 2 * target.sh_size // max(len(rows), 1)
    data = bytes(subject.elf.contents(target))
    if size not in _LENGTHS or len(data) % size:
        yield 0, f"has {size} bytes, but no struct alt_instr has"
        return
    if size * len(rows) != 2 * len(data):
        yield 0, f"lacks an address: there are {len(rows)} for {len(data) // size} entries"
        return
    for start, old, new in zip(range(0, len(data), size), rows[::2], rows[1::2], strict=True):
        if (old[0], new[0]) != (start, start + 4):
            yield start, "does not begin with two addresses"
            continue
        replaced, by = data[start + _LENGTHS[size] :][:2]
        if replaced > _LONGEST or by > replaced:
            yield start, f"replaces {replaced} bytes by {by}"
        for (_, _, index, addend), length in ((old, replaced), (new, by)):
            symbol = subject.elf.symbol(index)
            held, at = subject.elf.sections[symbol.st_shndx], symbol.st_value + addend
            if at + length > held.sh_size:
                yield start, f"leads to {length} bytes at {held.name}+{at:#x}, past its end"


def _faults(
    subject: Subject, target: Section, row: tuple[int, int, int, int] | None
) -> Iterator[str]:
    nothing = _no_code(subject, row)
    if row is None or nothing:
        yield nothing
        return
    symbol = subject.elf.symbol(row[2])
    held, at = subject.elf.sections[symbol.st_shndx], symbol.st_value + row[3]
    wanted = _TABLES[target.name]
    if wanted and not _reference(subject, held, at).startswith(wanted):
        yield f"leads to {held.name}+{at:#x}, which does not jump to {wanted}"


def _no_code(subject: Subject, row: tuple[int, int, int, int] | None) -> str:
    """Why a relocation does not lead to code of the module; empty when it does."""
    if row is None or row[1] != _PC32:
        return "has no relocation of type R_X86_64_PC32"
    symbol = subject.elf.symbol(row[2])
    at = symbol.st_value + row[3]
    held = subject.elf.sections[symbol.st_shndx] if symbol.is_defined else None
    if held is None or not held.sh_flags & SHF.EXECINSTR or not 0 <= at <= held.sh_size:
        return f"leads to {held.name if held else symbol.name}+{at:#x}, which is no code"
    return ""


def _reference(subject: Subject, section: Section, offset: int) -> str:
    """The symbol that a jump or call at a place names; empty for another instruction."""
    code = bytes(subject.elf.contents(section)[offset : offset + 3])
    if code[:1] == _PREFIX:
        code, offset = code[1:], offset + 1
    length = {_JUMP: 1, _CALL: 1, _ESCAPE: 2}.get(code[0]) if code else None
    return "" if length is None else subject.references.get((section.index, offset + length), "")
