"""Check where each entry of a table about code must lead."""

from __future__ import annotations

from collections.abc import Callable

from klpbuild.check import catalogue
from klpbuild.check.structmodule import THIS_MODULE
from klpbuild.check.subject import Subject
from klpbuild.check.x86_64.entries import Entry, Target, called, target_of
from klpbuild.check.x86_64.instructions import Instruction, is_call
from klpbuild.check.x86_64.tables import LENGTHS, LONGEST, PATCHED, Faults, Meaning, Tables
from klpbuild.elf.constants import SHF

#: Size of struct alt_instr that has flags; ALT_FLAG_DIRECT_CALL, since v6.8.
_WITH_FLAGS, _DIRECT_CALL = 14, 2
#: An array of NCAPINTS + NBUGINTS words of the kernel, a bit for each feature.
_CAPABILITIES = "cpu_caps_set"
_NOPS = (b"\x66\x90", b"\x0f\x1f\x44\x00\x00")
_JUMPS = {2: 0xEB, 5: 0xE9}
_THUNK, _INDIRECT, _TRAMPOLINE, _KEY = (
    "__x86_return_thunk", "__x86_indirect_", "__SCT__", "__SCK__",
)  # fmt: skip
#: BUGFLAG_WARNING of include/asm-generic/bug.h; with it BUGFLAG_ONCE, BUGFLAG_NO_CUT_HERE, a taint.
#: Where entries have a format, also BUGFLAG_ARGS: the code goes on to __WARN_trap() from there.
_WARNING, _OTHERS, _ARGS, _TAINT_MAX = 1, 2 | 8, 16, 18
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


def _site(tables: Tables, target: Target, good: Callable[[Instruction], bool], what: str) -> Faults:
    """Check a place in the code, and what stands there."""
    astray = tables.astray(target)
    found = tables.instruction(target)
    if astray:
        yield catalogue.SITE, 0, astray
    elif found is None or not good(found):
        yield catalogue.SITE, 0, f"leads to {called(tables.subject, target)}, {what}"


def _jump(tables: Tables, wanted: str) -> Callable[[Entry], bool]:
    def is_jump(entry: Entry) -> bool:
        led = tables.jumps_to(entry.targets[0])
        return led is not None and not led.offset and led.symbol.startswith(wanted)

    return is_jump


def _returns(tables: Tables, entry: Entry) -> Faults:
    good = _jump(tables, _THUNK)
    what = f"which does not jump to {_THUNK}"
    yield from _site(tables, entry.targets[0], lambda _: good(entry), what)


def _retpolines(tables: Tables, entry: Entry) -> Faults:
    good = _jump(tables, _INDIRECT)
    what = f"which does not jump to {_INDIRECT}"
    yield from _site(tables, entry.targets[0], lambda _: good(entry), what)


def _calls(tables: Tables, entry: Entry) -> Faults:
    """Check sites of calls; only retbleed=stuff reads them, and patch_call() skips others."""
    for _, at, what in _site(tables, entry.targets[0], is_call, "which is no call"):
        yield catalogue.NO_EFFECT, at, what


def _seals(tables: Tables, entry: Entry) -> Faults:
    what = "which is no endbr64"
    yield from _site(tables, entry.targets[0], lambda i: i.name == "endbr64", what)


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
    kind, length = entry.number(8, 1), entry.number(PATCHED, 1)
    yield from _site(tables, target, is_call, "which is no call")
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
    at = LENGTHS[len(entry.data)]
    replaced, by = entry.data[at : at + 2]
    sections = tables.subject.elf.sections
    for field, target, length in ((0, old, replaced), (4, new, by)):
        leads = f"leads to {length} bytes at {called(tables.subject, target)}"
        end = target.offset + length
        if astray := tables.astray(target, end=not length):
            yield catalogue.SITE, field, astray
        elif end > sections[target.section].sh_size:
            yield catalogue.SITE, field, f"{leads}, past its end"
        elif tables.astray(Target(target.section, end), end=True):
            yield catalogue.SITE, field, f"{leads}, which end inside of an instruction"
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


def _bugs(tables: Tables, entry: Entry) -> Faults:
    code, *texts = entry.targets
    at = len(entry.data) - 2
    flags = entry.number(at, 2)
    others = _OTHERS | (_ARGS if len(texts) > 1 else 0)
    if flags & others & _ARGS:  # the code hands the entry to __WARN_trap()
        if astray := tables.strays(code):
            yield catalogue.SITE, 0, astray
    else:
        yield from _site(tables, code, lambda i: i.name == "ud2", "which is no ud2")
    for number, text in enumerate(texts, 1):
        is_format = len(texts) > number
        if not tables.subject.pointers.is_text(text.place, is_format=is_format):
            what = f"leads to {called(tables.subject, text)}, where no text begins"
            yield catalogue.KEY, 4 * number, what
    known = flags & _WARNING and not flags & 0xFF & ~(_WARNING | others)
    if flags and not (known and flags >> 8 <= _TAINT_MAX):
        yield catalogue.SITE, at, f"has the flags {flags:#x}"


def _faults(tables: Tables, entry: Entry) -> Faults:
    code, fixup = entry.targets
    yield from _site(tables, code, _may_fault, "an instruction that does not fault")
    if astray := tables.strays(fixup) or tables.leaves(code, fixup):
        yield catalogue.SITE, 4, astray
    kind, found = entry.number(8, 1), tables.instruction(code)
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
    exact = Target(key.section, key.offset & ~3, key.symbol, key.owner, key.sympos)
    plain = name.removeprefix(_TRAMPOLINE)
    right = tables.name_of(exact) in (_KEY + plain, _TRAMPOLINE + plain)
    if not right or (key.symbol and key.offset & ~3):
        yield catalogue.KEY, 4, f"calls {plain}, and has the key {called(tables.subject, key)}"


def _jumps(tables: Tables, entry: Entry) -> Faults:
    """Check jump labels: __jump_label_patch() has a BUG() for another jump or nop."""
    code, target, key = entry.targets
    for at, each in ((0, code), (4, target)):
        if astray := tables.strays(each):
            yield catalogue.SITE, at, astray
            return
    shown = tables.code(code)
    jump = len(shown) in _JUMPS and shown[0] == _JUMPS[len(shown)]
    if shown not in _NOPS and not jump:
        leads = f"leads to {called(tables.subject, code)}"
        yield catalogue.SITE, 0, f"{leads}, which is neither a jump nor a nop"
        return
    if astray := tables.leaves(code, target):
        yield catalogue.SITE, 4, astray
    elif jump and tables.jumps_to(code) != target:
        leads = f"leads to {called(tables.subject, target)}"
        yield catalogue.SITE, 4, f"{leads}, and the jump elsewhere"
    near = code.section == target.section and -128 <= target.offset - code.offset - 2 < 128
    if len(shown) == 2 and not near:
        yield catalogue.SITE, 4, f"leads to {called(tables.subject, target)}, too far for 2 bytes"
    yield from ((catalogue.KEY, 8, what) for what in tables.keys.faults(key, jump))


def _parameters(tables: Tables, entry: Entry) -> Faults:
    """Check struct kernel_param of include/linux/moduleparam.h."""
    (name, operations), module = entry.targets, entry.more.get(8)
    pointers, elf = tables.subject.pointers, tables.subject.elf
    if not pointers.is_text(name.place):
        yield catalogue.KEY, 0, f"leads to {called(tables.subject, name)}, where no text begins"
    if module and (elf.sections[module.section].name != THIS_MODULE or module.offset):
        yield catalogue.KEY, 8, f"is of {called(tables.subject, module)}, which is not this module"
    start, size = pointers.variable_at(operations.place)
    if operations.symbol:
        good = operations.offset == 0
    else:
        functions = [(operations.section, start + n) for n in (8, 16, 24)]
        known = size or pointers.has_locals
        good = not known or (size >= 32 and start == operations.offset)
        good = good and all(p not in pointers.targets or pointers.is_code(p) for p in functions)
    if not good:
        yield catalogue.KEY, 16, f"leads to {called(tables.subject, operations)}, no operations"


def _formats(tables: Tables, entry: Entry) -> Faults:
    """Check a format of trace_printk(), which hold_module_trace_bprintk_format() copies."""
    (text,) = entry.targets
    if not tables.subject.pointers.is_text(text.place, is_format=True):
        yield catalogue.KEY, 0, f"leads to {called(tables.subject, text)}, where no text begins"


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
    "__bug_table": _bugs,
    "__ex_table": _faults,
    "__jump_table": _jumps,
    "__param": _parameters,
    "__trace_printk_fmt": _formats,
}
