"""Check where each entry of a table about code must lead."""

from __future__ import annotations

from collections.abc import Callable

from klpbuild.check import catalogue
from klpbuild.check.entries import Entry, Target, called, target_of
from klpbuild.check.instructions import Instruction
from klpbuild.check.meanings import bugs, check_pieces, faults, formats, jumps, parameters, site
from klpbuild.check.sites import LONGEST, Faults, Meaning, Tables
from klpbuild.check.subject import Subject
from klpbuild.check.x86_64.branches import is_call
from klpbuild.elf.constants import SHF

#: Size of struct alt_instr that has flags; ALT_FLAG_DIRECT_CALL, since v6.8.
_WITH_FLAGS, _DIRECT_CALL = 14, 2
#: An array of NCAPINTS + NBUGINTS words of the kernel, a bit for each feature.
_CAPABILITIES = "cpu_caps_set"
#: STATIC_CALL_SITE_INIT (include/linux/static_call_types.h), which the kernel itself sets.
_INIT = 2
_NOPS = (b"\x66\x90", b"\x0f\x1f\x44\x00\x00")
_JUMPS = {2: 0xEB, 5: 0xE9}
_THUNK, _INDIRECT, _TRAMPOLINE, _KEY = (
    "__x86_return_thunk", "__x86_indirect_", "__SCT__", "__SCK__",
)  # fmt: skip
#: Types of arch/x86/include/asm/extable_fixup_types.h in v6.12, by the instructions they are for.
_FIXUPS = range(1, 22)
_FOR = {
    5: ("mov",), 6: ("fxrstor", "fxrstor64", "xrstor", "xrstor64", "xrstors", "xrstors64"),
    8: ("wrmsr",), 9: ("rdmsr",), 10: ("wrmsr",), 11: ("rdmsr",), 12: ("wrmsr",), 13: ("rdmsr",),
    16: ("pop",),
}  # fmt: skip
_ACCESSES = (3, 4, 19, 20)
#: Instructions that fault in no other way than by an operand in memory or a segment register.
_PLAIN = frozenset({
    "mov", "add", "sub", "xor", "and", "or", "cmp", "test", "lea", "nop", "inc", "dec", "shl",
    "shr", "sar", "neg", "not", "movzx", "movsx", "movsxd", "cdqe", "jmp", "call", "xchg",
})  # fmt: skip
_SEGMENTS = ("ds", "es", "fs", "gs", "ss", "cs")


def _jump(tables: Tables, wanted: str) -> Callable[[Entry], bool]:
    def is_jump(entry: Entry) -> bool:
        led = tables.jumps_to(entry.targets[0])
        return led is not None and not led.offset and led.symbol.startswith(wanted)

    return is_jump


def _returns(tables: Tables, entry: Entry) -> Faults:
    good = _jump(tables, _THUNK)
    what = f"which does not jump to {_THUNK}"
    yield from site(tables, entry.targets[0], lambda _: good(entry), what)


def _retpolines(tables: Tables, entry: Entry) -> Faults:
    good = _jump(tables, _INDIRECT)
    what = f"which does not jump to {_INDIRECT}"
    yield from site(tables, entry.targets[0], lambda _: good(entry), what)


def _calls(tables: Tables, entry: Entry) -> Faults:
    """Check sites of calls; only retbleed=stuff reads them, and patch_call() skips others."""
    for _, at, what in site(tables, entry.targets[0], is_call, "which is no call"):
        yield catalogue.NO_EFFECT, at, what


def _seals(tables: Tables, entry: Entry) -> Faults:
    what = "which is no endbr64"
    yield from site(tables, entry.targets[0], lambda i: i.name == "endbr64", what)


def _unwinds(tables: Tables, entry: Entry) -> Faults:
    astray = tables.astray(entry.targets[0], end=True)
    section, at = entry.targets[0].place
    if astray and not any(start < at < end for start, end in tables.replaced.get(section, ())):
        yield catalogue.UNWIND, 0, astray


def _locks(tables: Tables, entry: Entry) -> Faults:
    """Check lock prefixes: alternatives_smp_unlock() changes a byte that is one, and no other."""
    (target,) = entry.targets
    found = tables.instruction(target)
    if found is not None and found.name.startswith("lock "):
        return
    section = tables.subject.elf.sections[target.section]
    code = tables.subject.elf.contents(section)[max(target.offset, 0) :][:1]
    inside = bytes(code) == b"\xf0" and section.sh_flags & SHF.EXECINSTR
    rule = catalogue.SITE if inside else catalogue.NO_EFFECT
    yield rule, 0, f"leads to {called(tables.subject, target)}, which is no lock prefix"


def _paravirt(tables: Tables, entry: Entry) -> Faults:
    (target,) = entry.targets
    kind, length = entry.number(8, 1), entry.number(9, 1)
    yield from site(tables, target, is_call, "which is no call")
    found = tables.instruction(target)
    if found is None or not is_call(found):
        return
    row = tables.subject.applied.get(target.section, {}).get(found.end - 4)
    if length != found.size:
        yield catalogue.SITE, 8, f"replaces {length} bytes of a call of {found.size}"
    elif row is not None:
        led = target_of(tables.subject, row)
        relative = 4 if row.kind == 2 else 0
        if led.symbol == "pv_ops" and led.offset + relative != 8 * kind:
            yield catalogue.SITE, 8, f"is for operation {kind}, and the call is another one's"


def _alternatives(tables: Tables, entry: Entry) -> Faults:
    old, new = entry.targets
    at = 12 if len(entry.data) == _WITH_FLAGS else 10
    replaced, by = entry.data[at : at + 2]
    yield from check_pieces(tables, entry, (replaced, by))
    feature = entry.number(8, 2) & (0xFFFF if len(entry.data) == _WITH_FLAGS else 0x7FFF)
    if feature >= _features(tables.subject):
        yield catalogue.SITE, 8, f"is for the processor's feature {feature}, which is none"
    if len(entry.data) == _WITH_FLAGS and entry.number(10, 2) & _DIRECT_CALL:
        site, call = (tables.bytes_at(each) for each in (old, new))
        if (replaced, site[:2], by, call[:1]) != (6, b"\xff\x15", 5, b"\xe8"):
            yield catalogue.SITE, 10, "is for a call, and does not replace one"
    if not replaced and not by:
        yield catalogue.NO_EFFECT, at, "replaces nothing"
    elif replaced > LONGEST or by > replaced:
        yield catalogue.SITE, at, f"replaces {replaced} bytes by {by}"


def _features(subject: Subject) -> int:
    """Return the number of processor features that the kernel knows: BUG_ON() for others."""
    kernel = subject.kernel
    return 8 * (kernel.extent(_CAPABILITIES) if kernel else 0) or 1 << 16


def _faults(tables: Tables, entry: Entry) -> Faults:
    yield from faults(tables, entry, _may_fault)
    kind, found = entry.number(8, 1), tables.instruction(entry.targets[0])
    if len(entry.targets) == 2 and found is not None and not _handles(kind, found):
        yield catalogue.SITE, 8, f"has the type {kind}, which is not for {found}"


def _handles(kind: int, found: Instruction) -> bool:
    """Tell whether a type of fixup handles the faults of an instruction."""
    if kind in _ACCESSES and "[" not in found.operands:
        return False
    return kind in _FIXUPS and found.name in _FOR.get(kind, (found.name,))


def _may_fault(found: Instruction) -> bool:
    if found.name not in _PLAIN:
        return True
    if found.name in ("lea", "nop"):
        return False
    memory = "[" in found.operands
    return memory or any(word in _SEGMENTS for word in found.operands.split(", "))


def _static_calls(tables: Tables, entry: Entry) -> Faults:
    """Check calls of trampolines: __static_call_validate() has a BUG() for anything else."""
    code, key = entry.targets
    if astray := tables.astray(code):
        yield catalogue.SITE, 0, astray
        return
    led, found = tables.jumps_to(code), tables.instruction(code)
    name = tables.name_of(led) if led is not None and found is not None else ""
    shifted = led is not None and led.symbol and led.offset
    if found is None or not name.startswith(_TRAMPOLINE) or shifted:
        leads = f"leads to {called(tables.subject, code)}, which does not call a trampoline"
        yield catalogue.SITE, 0, leads
        return
    tail = key.offset & 1
    if tail != (found.name != "call"):
        yield catalogue.KEY, 4, "is marked as another kind of call"
    starts = tables.subject.elf.sections[code.section].name.startswith(".init")
    if key.offset & _INIT and not starts:
        yield catalogue.KEY, 4, "is marked as start code, whose call the kernel never changes"
    exact = Target(key.section, key.offset & ~3, key.symbol, key.owner, key.sympos)
    plain = name.removeprefix(_TRAMPOLINE)
    right = tables.name_of(exact) in (_KEY + plain, _TRAMPOLINE + plain)
    if not right or (key.symbol and key.offset & ~3):
        yield catalogue.KEY, 4, f"calls {plain}, and has the key {called(tables.subject, key)}"


def _led(tables: Tables, entry: Entry) -> tuple[bool, Target | None] | None:
    """Read a jump label: __jump_label_patch() has a BUG() for another jump or nop."""
    code = entry.targets[0]
    shown = tables.code(code)
    jump = len(shown) in _JUMPS and shown[0] == _JUMPS[len(shown)]
    if shown not in _NOPS and not jump:
        return None
    return jump, tables.jumps_to(code)


def _jump_labels(tables: Tables, entry: Entry) -> Faults:
    yield from jumps(tables, entry, _led)
    code, target, _ = entry.targets
    near = code.section == target.section and -128 <= target.offset - code.offset - 2 < 128
    if len(tables.code(code)) == 2 and _led(tables, entry) and not near:
        yield catalogue.SITE, 4, f"leads to {called(tables.subject, target)}, too far for 2 bytes"


#: What is wrong with an entry: the rule, where in it, and what.
MEANINGS: dict[str, Meaning] = {
    ".return_sites": _returns,
    ".retpoline_sites": _retpolines,
    ".call_sites": _calls,
    ".ibt_endbr_seal": _seals,
    ".smp_locks": _locks,
    ".orc_unwind_ip": _unwinds,
    ".parainstructions": _paravirt,
    ".altinstructions": _alternatives,
    ".static_call_sites": _static_calls,
    "__bug_table": bugs,
    "__ex_table": _faults,
    "__jump_table": _jump_labels,
    "__param": parameters,
    "__trace_printk_fmt": formats,
}
