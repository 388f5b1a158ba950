"""The module loader of ppc64le: apply_relocate_add() of arch/powerpc/kernel/module_64.c."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.loader import Applied, Contents, Fits, Kind, Loader, is_elsewhere, word
from klpbuild.check.powerpc64le.tables import MODEL
from klpbuild.check.subject import Subject

_REL24 = 10
_ENTRY_CALL = "_mcount"
_NOP, _LOAD_TOC = 0x60000000, 0xE8410018
_MFLR, _STD = 0x7C0802A6, 0xF8010010


def _opcodes(*wanted: int) -> Fits:
    """Tell which instructions of these primary opcodes the field is in."""
    return lambda code, offset: word(code, offset) >> 26 in wanted


def _call(code: Contents, offset: int) -> bool:
    """Tell whether it is bl, which has the bit LK."""
    return _branch(code, offset) and bool(word(code, offset) & 1)


def _branch(code: Contents, offset: int) -> bool:
    """Tell whether it is b or bl with a distance: opcode 18 without the bit AA."""
    found = word(code, offset)
    return found >> 26 == 18 and not found & 2


#: Power ISA: 14 addi, 15 addis; 32 to 55 loads and stores, 58 and 62 those of 8 bytes.
_ADD_HIGH, _LOW, _LOW_4 = _opcodes(15), _opcodes(14, *range(32, 56)), _opcodes(58, 62)
_KINDS = {
    1: Kind("R_PPC64_ADDR32", 4),
    _REL24: Kind("R_PPC64_REL24", 4, 4, _branch, _branch, calls=_call),
    26: Kind("R_PPC64_REL32", 4),
    38: Kind("R_PPC64_ADDR64", 8),
    44: Kind("R_PPC64_REL64", 8),
    47: Kind("R_PPC64_TOC16", 2),
    48: Kind("R_PPC64_TOC16_LO", 2, fits=_LOW),
    50: Kind("R_PPC64_TOC16_HA", 2, fits=_ADD_HIGH),
    51: Kind("R_PPC64_TOC", 8),
    63: Kind("R_PPC64_TOC16_DS", 2, fits=_LOW_4),
    64: Kind("R_PPC64_TOC16_LO_DS", 2, fits=_LOW_4),
    109: Kind("R_PPC64_TOCSAVE", 0),
    118: Kind("R_PPC64_ENTRY", 0),
    250: Kind("R_PPC64_REL16_LO", 2, fits=_LOW),
    252: Kind("R_PPC64_REL16_HA", 2, fits=_ADD_HIGH),
}


def _is_entry(subject: Subject, section: int, offset: int) -> bool:
    """Find an entry as ftrace_init_nop() does.

    It is mflr r0, perhaps std r0,16(r1), and bl _mcount; or two nops.
    """
    code = subject.elf.contents(subject.elf.sections[section])
    before = word(code, offset - 4)
    if (section, offset) in subject.entry_calls:
        return before == _MFLR or (before == _STD and word(code, offset - 8) == _MFLR)
    return word(code, offset) == word(code, offset + 4) == _NOP


def _check_nop(subject: Subject, applied: Applied) -> None:
    """Tell whether the loader finds room to restore r2 behind a call: restore_r2()."""
    row = applied.row
    if row.kind != _REL24 or not is_elsewhere(subject, row.symbol):
        return
    code = subject.elf.contents(applied.target)
    after = word(code, row.offset + 4)
    is_call = word(code, row.offset) & 1
    name = subject.elf.symbol_name(row.symbol)
    if is_call and name != _ENTRY_CALL and after not in (_NOP, _LOAD_TOC):
        what = f"the call is followed by {after:08x}, which is no nop"
        where = applied.place(subject)
        subject.find(catalogue.NO_NOP, what, where, applied.effect, found=f"{after:08x}")


LOADER = Loader(
    _KINDS,
    ("__mcount_loc", "__patchable_function_entries"),
    _is_entry,
    (".stubs",),
    MODEL,
    more=_check_nop,
)
