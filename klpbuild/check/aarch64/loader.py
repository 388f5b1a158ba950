"""The module loader of arm64: apply_relocate_add() of arch/arm64/kernel/module.c."""

from __future__ import annotations

from klpbuild.check.aarch64.tables import MODEL
from klpbuild.check.loader import Contents, Fits, Kind, Loader, word
from klpbuild.check.subject import Subject

_NOP, _BTI_C = 0xD503201F, 0xD503245F
#: With CONFIG_DYNAMIC_FTRACE_WITH_CALL_OPS the table names two words before the function.
_BEFORE = 8


def _masked(mask: int, *values: int) -> Fits:
    """Tell which instructions of these encodings the field is in."""
    return lambda code, offset: word(code, offset) & mask in values


def _access(size: int) -> Fits:
    """Tell accesses of 1 << size bytes with an unsigned 12-bit offset; prefetches have 8."""

    def fits(code: Contents, offset: int) -> bool:
        found = word(code, offset)
        if found & 0x3B000000 != 0x39000000:
            return False
        wide = found >> 26 & 1 and found >> 23 & 1  # a register of 16 bytes
        return (4 if wide else found >> 30) == size

    return fits


def _add_or_access(code: Contents, offset: int) -> bool:
    return _ADD(code, offset) or _access(0)(code, offset)


#: Arm ARM, C4.1: the classes of encodings.
_ADD = _masked(0x7F800000, 0x11000000)
_ADRP, _ADR = _masked(0x9F000000, 0x90000000), _masked(0x9F000000, 0x10000000)
_MOVE = _masked(0x1F800000, 0x12800000)
_CONDITIONAL = _masked(0xFE000000, 0x54000000, 0x34000000, 0xB4000000)
_BL, _B = _masked(0xFC000000, 0x94000000), _masked(0xFC000000, 0x14000000, 0x94000000)
_KINDS = {
    0: Kind("R_ARM_NONE", 0),
    256: Kind("R_AARCH64_NONE", 0),
    257: Kind("R_AARCH64_ABS64", 8),
    258: Kind("R_AARCH64_ABS32", 4),
    259: Kind("R_AARCH64_ABS16", 2),
    260: Kind("R_AARCH64_PREL64", 8),
    261: Kind("R_AARCH64_PREL32", 4),
    262: Kind("R_AARCH64_PREL16", 2),
    273: Kind("R_AARCH64_LD_PREL_LO19", 4, fits=_masked(0x3B000000, 0x18000000)),
    274: Kind("R_AARCH64_ADR_PREL_LO21", 4, fits=_ADR),
    # Where an erratum of Cortex-A53 is worked around, adrp becomes adr.
    275: Kind("R_AARCH64_ADR_PREL_PG_HI21", 4, fits=_ADRP),
    276: Kind("R_AARCH64_ADR_PREL_PG_HI21_NC", 4, fits=_ADRP),
    277: Kind("R_AARCH64_ADD_ABS_LO12_NC", 4, fits=_ADD),
    278: Kind("R_AARCH64_LDST8_ABS_LO12_NC", 4, fits=_add_or_access),
    279: Kind("R_AARCH64_TSTBR14", 4, fits=_masked(0x7E000000, 0x36000000)),
    280: Kind("R_AARCH64_CONDBR19", 4, fits=_CONDITIONAL),
    282: Kind("R_AARCH64_JUMP26", 4, fits=_B, branch=_B, calls=_BL),
    283: Kind("R_AARCH64_CALL26", 4, fits=_BL, branch=_BL, calls=_BL),
    284: Kind("R_AARCH64_LDST16_ABS_LO12_NC", 4, fits=_access(1)),
    285: Kind("R_AARCH64_LDST32_ABS_LO12_NC", 4, fits=_access(2)),
    286: Kind("R_AARCH64_LDST64_ABS_LO12_NC", 4, fits=_access(3)),
    299: Kind("R_AARCH64_LDST128_ABS_LO12_NC", 4, fits=_access(4)),
}  # fmt: skip
_KINDS |= {
    number: Kind(f"R_AARCH64_MOVW_{name}", 4, fits=_MOVE)
    for number, name in {
        263: "UABS_G0", 264: "UABS_G0_NC", 265: "UABS_G1", 266: "UABS_G1_NC", 267: "UABS_G2",
        268: "UABS_G2_NC", 269: "UABS_G3", 270: "SABS_G0", 271: "SABS_G1", 272: "SABS_G2",
        287: "PREL_G0", 288: "PREL_G0_NC", 289: "PREL_G1", 290: "PREL_G1_NC", 291: "PREL_G2",
        292: "PREL_G2_NC", 293: "PREL_G3",
    }.items()
}  # fmt: skip


def _is_entry(subject: Subject, section: int, offset: int) -> bool:
    """Find an entry as ftrace_call_adjust() does: two nops, perhaps behind bti c."""
    code = subject.elf.contents(subject.elf.sections[section])
    functions = {(s.st_shndx, s.st_value) for s in subject.elf.symbol_list if s.is_function}
    places = [offset, offset + 4]
    if (section, offset + _BEFORE) in functions:
        start = offset + _BEFORE
        start += 4 * (word(code, start) == _BTI_C)
        places += [start, start + 4]
    return all(word(code, at) == _NOP for at in places)


LOADER = Loader(
    _KINDS,
    ("__patchable_function_entries",),
    _is_entry,
    (".plt", ".init.plt"),
    MODEL,
)
