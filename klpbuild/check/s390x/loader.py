"""The module loader of s390x: apply_rela() of arch/s390/kernel/module.c."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.loader import Applied, Contents, Kind, Loader, gate_of
from klpbuild.check.s390x.tables import MODEL
from klpbuild.check.subject import Subject
from klpbuild.names import VMLINUX

_NAMES = {
    1: ("8", 1), 2: ("12", 2), 3: ("16", 2), 4: ("32", 4), 5: ("PC32", 4), 6: ("GOT12", 2),
    7: ("GOT32", 4), 8: ("PLT32", 4), 13: ("GOTOFF32", 4), 14: ("GOTPC", 4), 15: ("GOT16", 2),
    16: ("PC16", 2), 22: ("64", 8), 23: ("PC64", 8), 24: ("GOT64", 8), 25: ("PLT64", 8),
    27: ("GOTOFF16", 2), 28: ("GOTOFF64", 8), 29: ("GOTPLT12", 2), 30: ("GOTPLT16", 2),
    31: ("GOTPLT32", 4), 32: ("GOTPLT64", 8), 34: ("PLTOFF16", 2), 35: ("PLTOFF32", 4),
    36: ("PLTOFF64", 8), 57: ("20", 4), 58: ("GOT20", 4), 59: ("GOTPLT20", 4),
}  # fmt: skip
#: Those that go through a word or a piece of code that the loader keeps for each symbol.
_KEPT = frozenset({6, 7, 8, 15, 18, 20, 24, 25, 26, 29, 30, 31, 32, 33, 34, 35, 36, 58, 59})
#: brcl 0,. which the compiler puts at a function's entry (ftrace_init_nop()).
_NOP = bytes.fromhex("c00400000000")


def _relative_long(code: Contents, offset: int) -> bool:
    """Tell whether the 4 bytes are the last ones of an instruction of formats RIL-b and RIL-c.

    The Principles of Operation: larl, brcl, brasl; those of opcode c4 and c6.
    """
    if offset < 2:
        return False
    operation, extension = code[offset - 2], code[offset - 1] & 0x0F
    return (operation == 0xC0 and extension in (0, 4, 5)) or operation in (0xC4, 0xC6)


def _function(code: Contents, offset: int) -> bool:
    """Tell whether it is brcl or brasl, or larl, by which gcc 12 takes a function's address."""
    return offset >= 2 and code[offset - 2] == 0xC0 and code[offset - 1] & 0x0F in (0, 4, 5)


def _branch(code: Contents, offset: int) -> bool:
    """Tell whether it is brcl or brasl."""
    return _function(code, offset) and code[offset - 1] & 0x0F != 0


def _entry(code: Contents, offset: int) -> bool:
    """Tell whether it takes the address of a GOT entry, or the 8 bytes there.

    larl; lgrl, cgrl and clgrl.
    """
    opcode = (code[offset - 2], code[offset - 1] & 0x0F) if offset >= 2 else (0, 0)
    return opcode in ((0xC0, 0), (0xC4, 8), (0xC6, 8), (0xC6, 10))


_KINDS = {0: Kind("R_390_NONE", 0)} | {
    number: Kind(f"R_390_{name}", width) for number, (name, width) in _NAMES.items()
}
_KINDS |= {
    17: Kind("R_390_PC16DBL", 2, 2),
    18: Kind("R_390_PLT16DBL", 2, 2),
    19: Kind("R_390_PC32DBL", 4, 2, _relative_long, _branch, -2),
    20: Kind("R_390_PLT32DBL", 4, 2, _function, _function, -2, _function),
    21: Kind("R_390_GOTPCDBL", 4),
    26: Kind("R_390_GOTENT", 4, fits=_entry, ahead=-2),
    33: Kind("R_390_GOTPLTENT", 4, fits=_entry, ahead=-2),
}


def _is_entry(subject: Subject, section: int, offset: int) -> bool:
    code = subject.elf.contents(subject.elf.sections[section])
    return bytes(code[max(offset, 0) : offset + len(_NOP)]) == _NOP


def _check_kept(subject: Subject, applied: Applied) -> None:
    """Tell whether anything makes the loader write its GOT anew when a module comes again.

    Its marks got_initialized and plt_initialized stay set when a patched module goes.
    """
    gate = gate_of(applied)
    if gate == VMLINUX or applied.row.kind not in _KEPT:
        return
    kept = {p.object for p in subject.patched or () if "post_unpatch" not in p.callbacks}
    if gate in kept:
        what = f"nothing makes {applied.section.name} forget where {gate} was"
        subject.find(catalogue.KEEPS_ADDRESS, what, applied.section.name)


LOADER = Loader(_KINDS, ("__mcount_loc",), _is_entry, (), MODEL, _check_kept)
