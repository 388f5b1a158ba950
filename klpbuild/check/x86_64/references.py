"""Check relocations of code: each fits its instruction, and branches lead to beginnings."""

from __future__ import annotations

import re
from bisect import bisect_right

from klpbuild.check import catalogue
from klpbuild.check.code import disassemble
from klpbuild.check.entries import Target, called, target_of
from klpbuild.check.functions import check_branch, check_pointers
from klpbuild.check.instructions import Instruction
from klpbuild.check.memory import Memory
from klpbuild.check.sites import Tables
from klpbuild.check.subject import Relocation, Subject, place
from klpbuild.check.x86_64.branches import is_branch
from klpbuild.check.x86_64.places import NAMES
from klpbuild.elf.constants import SHF, SHN_ABS, SHT
from klpbuild.elf.reader import Section
from klpbuild.names import VMLINUX

_64, _PC32, _PLT32, _32, _32S = 1, 2, 4, 10, 11
_RELATIVE = (_PC32, _PLT32)


def check_references(subject: Subject, tables: Tables) -> None:
    """Check the relocations of each section of code, and the pointers to code in data."""
    by_key = tables.listed.get("__jump_table", set())
    for section in subject.elf.sections:
        if not section.sh_flags & SHF.ALLOC or section.index in subject.unreadable:
            continue
        rows = subject.applied.get(section.index, {})
        if not subject.pointers.holds_code(section.index) and section.name not in _CODE:
            check_pointers(subject, section, rows)
        elif section.sh_type != SHT.NOBITS:
            _check_code(subject, section, rows, by_key)


#: Bytes of the shortest branch whose distance is more than one of them.
_LONG = 5
_INDEX_ALONE = re.compile(r"\[r\w+\*\d\]")
#: Bytes before and behind a variable that an indexed access may name.
_NEAR = (1 << 12, 1 << 12)
_PER_CPU = ".data..percpu"
#: Bytes of the widest number behind an instruction's address.
_NUMBER = 4
#: Instructions that write to their first operand.
_WRITES = re.compile(
    r"(lock )?(mov|movabs|add|adc|sub|sbb|and|or|xor|inc|dec|neg|not|shl|shr|sar|xchg|xadd|bts|btr"
    r"|btc|cmpxchg|set[a-z]+)"
)
#: Sections of code without functions.
_CODE = (".altinstr_replacement", ".altinstr_aux")


def _check_code(
    subject: Subject,
    section: Section,
    rows: dict[int, Relocation],
    by_key: set[tuple[int, int]],
) -> None:
    instructions = subject.instructions.of(section.index)
    starts = sorted(instructions)
    used = set()
    for row in rows.values():
        number = bisect_right(starts, row.offset) - 1
        found = instructions[starts[number]] if number >= 0 else None
        what = (
            "stands in no instruction" if found is None else _misfit(subject, section, found, row)
        )
        if found is not None:
            used.add(found.offset)
        if what:
            name = subject.elf.symbol_name(row.symbol)
            where = place(section, row.offset, name)
            kind = NAMES.get(row.kind, f"type {row.kind}")
            subject.find(catalogue.MISFIT, f"a relocation {kind} {what}", where)
        elif found is not None:
            _check_branch(subject, section, found, row)
            _check_extent(subject, section, found, row)
            _check_variable(subject, section, found, row)
    lacking = [
        instructions[offset]
        for offset in starts
        if offset not in used
        and (section.index, offset) not in by_key
        and _lacks_reference(instructions[offset])
    ]
    known = _of_null(subject) if any(_adds_to_null(each.operands) for each in lacking) else {}
    for each in lacking:
        name = subject.pointers.function_of((section.index, each.offset))
        if _adds_to_null(each.operands) and known.get(name):
            known[name] -= 1
            continue
        what = f"the instruction {each} refers to itself"
        subject.find(catalogue.MISFIT, what, place(section, each.offset))


def _adds_to_null(operands: str) -> bool:
    return _INDEX_ALONE.search(operands) is not None


def _of_null(subject: Subject) -> dict[str, int]:
    """Count the accesses by an index alone in what each function replaces, by the new one's name.

    Where the compiler knows that a pointer is NULL it leaves that away: mlx4_ib_init_sriov() of
    v6.12 has ``kfree(tun[i])`` behind ``tun = NULL``.
    """
    found: dict[str, int] = {}
    memory = Memory(subject.kernel) if subject.kernel and subject.kernel.database else None
    for patched in subject.patched or () if memory else ():
        for function in patched.functions or ():
            code = memory and memory.shipped(patched.object, function.old, function.sympos)
            shown = disassemble(code, hex) if code else ()
            number = sum(each.target is None and _adds_to_null(each.text) for each in shown)
            found[function.new] = number
    return found


def _lacks_reference(found: Instruction) -> bool:
    """Tell whether an address that is zero stands where a linker would leave a relocation."""
    if is_branch(found) and "[" not in found.operands:
        # An assembler makes a branch in its section short; a static key's may be long.
        number = found.operands.startswith("0x") or found.operands.isdigit()
        return number and found.size >= _LONG and int(found.operands, 0) == found.end
    zero = "[rip]" in found.operands or _adds_to_null(found.operands)
    return zero and found.name != "lea"


def _misfit(subject: Subject, section: Section, found: Instruction | None, row: Relocation) -> str:
    """Explain why a relocation does not belong to an instruction; empty when it does."""
    if found is None:
        return "stands in no instruction"
    fields = subject.instructions.fields(section.index, found)
    at = row.offset - found.offset
    if at not in (fields.displacement, fields.immediate):
        return f"stands in the middle of {found}"
    relative = is_branch(found) and at == fields.immediate
    relative |= "rip" in found.operands and at == fields.displacement
    wide = at == fields.immediate and found.name == "movabs"
    wanted = _RELATIVE if relative else (_64,) if wide else (_32S, _32)
    if row.kind in NAMES and row.kind not in wanted:
        return f"changes {found}, which wants {NAMES[wanted[0]]}"
    symbol = subject.elf.symbol(row.symbol)
    nowhere = symbol.st_shndx == SHN_ABS and not symbol.st_value
    return f"makes {found} reach for address 0" if relative and (nowhere or not row.symbol) else ""


def _check_branch(subject: Subject, section: Section, found: Instruction, row: Relocation) -> None:
    """Check that calls lead to functions, and jumps also to instructions of the module."""
    if not is_branch(found) or "[" in found.operands:
        return
    where = place(section, found.offset, subject.elf.symbol_name(row.symbol))
    check_branch(subject, target_of(subject, row).moved(4), where, found.name == "call")


def _check_extent(subject: Subject, section: Section, found: Instruction, row: Relocation) -> None:
    """Check that what an instruction reaches for lies in the variable that it names."""
    target, kernel = target_of(subject, row), subject.kernel
    branch = is_branch(found) and "[" not in found.operands
    if branch or row.kind == _64:
        return  # a whole address may have been reckoned with
    offset, room = target.offset, (0, 0)
    if row.kind in _RELATIVE:
        offset += found.end - row.offset
    else:
        fields = subject.instructions.fields(section.index, found)
        # The address of an array's end may be taken; an index may be added to another one.
        room = _NEAR if row.offset - found.offset == fields.displacement else (0, 1)
    if target.section:
        if row.kind in _RELATIVE and found.name != "lea":
            _check_own(subject, section, found, row, Target(target.section, offset))
        return
    extent = kernel.extent(target.symbol, target.owner, target.sympos) if kernel else 0
    outside = extent and not -room[0] <= offset < extent + room[1]
    if outside and not _is_shipped(subject, row, target, offset):
        what = f"{found} reaches for {target.symbol}{offset:+#x}, which has {extent} bytes"
        subject.find(catalogue.INSIDE, what, place(section, row.offset, target.symbol))


def _is_shipped(subject: Subject, row: Relocation, target: Target, offset: int) -> bool:
    """Tell whether code of the kernel reaches for a place in the same way.

    Behind the test of an index the compiler leaves what it would read outside of a variable:
    kvm_intel has it of vmcs_field_to_evmcs_1.  What runs at the start, too, may write then.
    """
    if subject.kernel is None or subject.kernel.database is None:
        return False
    memory = Memory(subject.kernel)
    owner = target.owner or subject.kernel.exporter(target.symbol)
    start = memory.address(owner, target.symbol, target.sympos)
    if start is None:
        return False
    if owner != VMLINUX:
        module = memory.module(owner)
        assert module is not None
        aims = (
            (kind, value + addend - start - row.addend)
            for index, tables in module.relocations.items()
            if module.elf.sections[index].sh_flags & SHF.EXECINSTR
            for rows in tables
            for _, kind, symbol, addend in rows.tolist()
            if (value := module.value_of(symbol)) is not None
        )
        # a field counts from behind a number, too, that the instruction may have
        return any(kind == row.kind and abs(distance) <= _NUMBER for kind, distance in aims)
    found = (
        memory.shipped(patched.object, function.old, function.sympos)
        for patched in subject.patched or ()
        for function in patched.functions or ()
    )
    return any(each.target == start + offset for c in found if c for each in disassemble(c, hex))


def _check_variable(
    subject: Subject, section: Section, found: Instruction, row: Relocation
) -> None:
    """Check that an instruction reads or writes a variable of the kernel as what it is.

    The address of a per-CPU variable is an offset in the processor's area, which gs leads to.
    """
    target, kernel = target_of(subject, row), subject.kernel
    by_gs = "gs:" in found.operands
    direct = by_gs or ("[rip" in found.operands and not is_branch(found))
    if target.section or not kernel or not direct or found.name == "lea":
        return
    meant = target.symbol, target.owner, target.sympos
    known, size = kernel.section_of(*meant), kernel.size(*meant)
    what = f"reach for {target.symbol}, which "
    if known and by_gs is not known.startswith(_PER_CPU):
        what += "is no per-CPU variable" if by_gs else "is a per-CPU variable, without gs"
    elif (
        _writes(found)
        and kernel.is_read_only(*meant)
        and not _is_shipped(subject, row, target, target.offset + found.end - row.offset)
    ):
        what = f"write {target.symbol}, which is read only once its object has started"
    elif row.kind in _RELATIVE and 0 < size - target.offset - found.end + row.offset < _width(
        found
    ):
        what += f"has {size} bytes, and over its end"
    else:
        return
    where = place(section, row.offset, target.symbol)
    kind = NAMES.get(row.kind, f"type {row.kind}")
    subject.find(catalogue.MISFIT, f"a relocation {kind} makes {found} {what}", where)


def _writes(found: Instruction) -> bool:
    """Tell whether an instruction writes to memory that it names."""
    memory = "[" in found.operands.partition(",")[0]
    return memory and _WRITES.fullmatch(found.name) is not None


def _check_own(
    subject: Subject, section: Section, found: Instruction, row: Relocation, target: Target
) -> None:
    """Check that what an instruction reads or writes in the module lies in one variable."""
    start, size = subject.pointers.variable_at(target.place)
    end = start + size if size else subject.elf.sections[target.section].sh_size
    if not 0 <= target.offset <= end - _width(found):
        what = f"{found} reaches for {called(subject, target)} and over the variable's end"
        subject.find(catalogue.INSIDE, what, place(section, row.offset))


def _width(found: Instruction) -> int:
    """Tell how many bytes of memory an instruction reads or writes; 1 when it does not say."""
    return _WIDTHS.get(found.operands.partition(" ptr ")[0].rpartition(" ")[2], 1)


#: How many bytes an operand has, as a disassembler says it.
_WIDTHS = {"word": 2, "dword": 4, "qword": 8}
