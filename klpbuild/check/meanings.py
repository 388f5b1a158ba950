"""Check where an entry of a table must lead that several architectures have alike."""

from __future__ import annotations

import struct
from collections.abc import Callable

from klpbuild.check import catalogue
from klpbuild.check.entries import PAIR, Entry, Field, Layout, Target, called
from klpbuild.check.instructions import Instruction, word
from klpbuild.check.sites import Faults, Tables
from klpbuild.check.structmodule import THIS_MODULE
from klpbuild.check.subject import Subject
from klpbuild.elf.reader import Section

#: BUGFLAG_WARNING of include/asm-generic/bug.h; with it BUGFLAG_ONCE, BUGFLAG_NO_CUT_HERE, a taint.
#: Where entries have a format, also BUGFLAG_ARGS: the code goes on to __WARN_trap() from there.
_WARNING, _OTHERS, _ARGS, _TAINT_MAX = 1, 2 | 8, 16, 18
#: struct bug_entry by whether it has a format, and a file with its line.
_BUGS = {
    (False, True): Layout(12, PAIR),
    (True, True): Layout(16, (*PAIR, Field(8))),
    (False, False): Layout(8),
    (True, False): Layout(12, more=(Field(4),)),
}


def site(tables: Tables, target: Target, good: Callable[[Instruction], bool], what: str) -> Faults:
    """Check a place in the code, and what stands there."""
    astray = tables.astray(target)
    found = tables.instruction(target)
    if astray:
        yield catalogue.SITE, 0, astray
    elif found is None or not good(found):
        yield catalogue.SITE, 0, f"leads to {called(tables.subject, target)}, {what}"


def check_pieces(tables: Tables, entry: Entry, lengths: tuple[int, int]) -> Faults:
    """Check that code that may be replaced, and what replaces it, are whole instructions."""
    sections = tables.subject.elf.sections
    for field, target, length in zip((0, 4), entry.targets, lengths, strict=True):
        leads = f"leads to {length} bytes at {called(tables.subject, target)}"
        end = target.moved(length)
        if astray := tables.astray(target, end=not length):
            yield catalogue.SITE, field, astray
        elif end.offset > sections[target.section].sh_size:
            yield catalogue.SITE, field, f"{leads}, past its end"
        elif tables.astray(end, end=True):
            yield catalogue.SITE, field, f"{leads}, which end inside of an instruction"


def bug_layout(subject: Subject, table: Section, formatted: bool | None = None) -> Layout:
    """Lay out ``__bug_table``: with CONFIG_DEBUG_BUGVERBOSE an entry has file and line.

    :param formatted: whether it has a format, too; None where its relocations are to tell.
    """
    rows = len(subject.applied.get(table.index, {}))
    possible = [one for (found, _), one in _BUGS.items() if formatted in (None, found)]
    fits = [
        layout
        for layout in possible
        if rows * layout.size == table.sh_size * (len(layout.fields) + len(layout.more))
    ]
    if len(fits) > 1 and subject.kernel:
        return fits[not subject.kernel.config.enabled("DEBUG_BUGVERBOSE")]
    if len(fits) > 1:  # 12 bytes with two addresses: a line and flags, or flags and nothing
        numbers = struct.iter_unpack(f"{subject.elf.order}8xHH", subject.elf.contents(table))
        return fits[all(not last and _is_flags(first, _OTHERS | _ARGS) for first, last in numbers)]
    return (fits or possible)[0]


def _is_flags(flags: int, others: int) -> bool:
    """Tell whether a bug entry may have such flags."""
    known = flags & _WARNING and not flags & 0xFF & ~(_WARNING | others)
    return not flags or bool(known and flags >> 8 <= _TAINT_MAX)


def bugs(tables: Tables, entry: Entry) -> Faults:
    """Check struct bug_entry of include/asm-generic/bug.h."""
    code, *texts = (*entry.targets, *entry.more.values())
    formatted, named = bool(entry.more) or len(texts) > 1, len(entry.targets) > 1
    flags = entry.number(at := 4 * (1 + len(texts)) + 2 * named, 2)
    others = _OTHERS | (_ARGS if formatted else 0)
    if len(entry.data) == _BUGS[True, False].size and not texts:
        yield catalogue.SITE, 4, "has no format"
    if flags & others & _ARGS:  # the code hands the entry to __WARN_trap()
        if astray := tables.strays(code):
            yield catalogue.SITE, 0, astray
    else:
        yield from site(tables, code, tables.model.is_trap, f"which is no {tables.model.trap}")
    for number, text in enumerate(texts, 1):
        is_format = formatted and number == 1
        if not tables.subject.pointers.is_text(text.place, is_format=is_format):
            what = f"leads to {called(tables.subject, text)}, where no text begins"
            yield catalogue.KEY, 4 * number, what
    if not _is_flags(flags, others):
        yield catalogue.SITE, at, f"has the flags {flags:#x}"


def faults(tables: Tables, entry: Entry, may_fault: Callable[[Instruction], bool]) -> Faults:
    """Check struct exception_table_entry: an instruction, and where to go on."""
    code, fixup = entry.targets[:2]
    yield from site(tables, code, may_fault, "an instruction that does not fault")
    if astray := tables.strays(fixup) or tables.leaves(code, fixup):
        yield catalogue.SITE, 4, astray


def jumps(
    tables: Tables, entry: Entry, led: Callable[[Tables, Entry], tuple[bool, Target | None] | None]
) -> Faults:
    """Check a jump label: include/linux/jump_label.h.

    :param led: whether a jump is there, and where the instruction leads that is there, if that
        is known; None for another one.
    """
    code, target, key = entry.targets
    for at, each in ((0, code), (4, target)):
        if astray := tables.strays(each):
            yield catalogue.SITE, at, astray
            return
    found = led(tables, entry)
    if found is None:
        leads = f"leads to {called(tables.subject, code)}"
        yield catalogue.SITE, 0, f"{leads}, which is neither a jump nor a nop"
        return
    jump, goes = found
    if astray := tables.leaves(code, target):
        yield catalogue.SITE, 4, astray
    elif goes != target and (jump or goes is not None):
        leads = f"leads to {called(tables.subject, target)}"
        yield catalogue.SITE, 4, f"{leads}, and the {'jump' if jump else 'nop'} elsewhere"
    yield from ((catalogue.KEY, 8, what) for what in tables.keys.faults(key, jump))


def jump_or_nop(
    nop: int,
) -> Callable[[Tables, Entry], tuple[bool, Target | None] | None]:
    """Make a reader of jump labels, for `jumps`, of a machine with one nop.

    :param nop: the instruction, as `word` reads it.
    """

    def led(tables: Tables, entry: Entry) -> tuple[bool, Target | None] | None:
        code = entry.targets[0]
        if word(tables.instruction(code)) == nop:
            return False, None
        goes = tables.jumps_to(code)
        return (True, goes) if goes is not None else None

    return led


def parameters(tables: Tables, entry: Entry) -> Faults:
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


def formats(tables: Tables, entry: Entry) -> Faults:
    """Check a format of trace_printk(), which hold_module_trace_bprintk_format() copies."""
    (text,) = entry.targets
    if not tables.subject.pointers.is_text(text.place, is_format=True):
        yield catalogue.KEY, 0, f"leads to {called(tables.subject, text)}, where no text begins"
