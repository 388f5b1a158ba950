"""Check the objects and functions that a livepatch patches against the kernel's symbols."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from klpbuild.arch import by_machine
from klpbuild.elf.constants import EM, SHF, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems, did_you_mean
from klpbuild.extract.names import base_name, static_number
from klpbuild.extract.sections import holds_variables, is_special_static, is_writable
from klpbuild.module.livepatch import Function
from klpbuild.names import VMLINUX
from klpbuild.resolve.fate import Decision
from klpbuild.symbols.database import Candidate, SymbolDatabase
from klpbuild.symbols.entries import EntryPoints
from klpbuild.symbols.symvers import Exports

#: Relocations by which instructions have an address: R_X86_64_32, R_X86_64_32S.
_ADDRESSES = {int(EM.X86_64): (10, 11)}
_CLONES = ("isra.0", "constprop.0", "part.0", "isra.1", "constprop.1")


def check_objects(
    objects: Mapping[str, str],
    known: Sequence[str],
    builtin: Collection[str],
    problems: Problems,
) -> tuple[str, ...]:
    """Check that each object is one of the kernel, or may become one.

    The kernel takes any name (kernel/livepatch/core.c, klp_find_object_module), and looks the
    functions up when a module of that name is loaded.

    :param objects: their names, each with where it is written.
    :param known: vmlinux and the modules whose symbols are at hand.
    :param builtin: modules that are part of vmlinux.
    :param problems: takes the objects that can never come.
    :returns: what is not known of the others.
    """
    unknown = []
    for name, where in objects.items():
        if name in known:
            continue
        if name in builtin:
            problems.add(
                f"object {name!r} is part of vmlinux in this kernel",
                where=where,
                why="The livepatch would wait for a module that never comes.",
                hint='Its functions belong to vmlinux: name = "vmlinux".',
            )
            continue
        near = did_you_mean(name, known, 0.8)
        unknown.append(
            f"whether object {name} has what is patched: this kernel has no module of that name, "
            "which may come later"
            + (f" ({near[0].lower()}{near[1:]})" if near else " (modules= names further ones)")
        )
    return tuple(unknown)


def check_old_functions(
    functions: Iterable[tuple[str, Function]],
    database: SymbolDatabase,
    entries: EntryPoints,
    problems: Problems,
) -> tuple[str, ...]:
    """Check that each function is there, is the only one of its position, and can be entered.

    The kernel finds it by name and position (kernel/livepatch/core.c,
    klp_find_object_symbol) and redirects it at its ftrace entry (klp_patch_func).

    :param functions: object and function; those of unknown objects are left out.
    :param problems: takes what the kernel would refuse.
    :returns: what could not be checked, and why.
    """
    unchecked = []
    for owner, function in functions:
        if owner not in database.objects:
            continue
        with problems.collect():
            candidate = _candidate(owner, function, database)
            known = entries.has(owner, function.old, function.sympos)
            if candidate.init:
                raise KlpError(
                    f"function {function.old} of {owner} is in {candidate.section}",
                    where=function.where,
                    why=f"That memory is freed once {owner} runs.",
                    hint="There is nothing left to replace.",
                )
            if known is False:
                raise KlpError(
                    f"function {function.old} of {owner} has no ftrace entry in this kernel",
                    where=function.where,
                    why="Livepatch redirects a function at its entry call; "
                    "this one is notrace, or not a function.",
                    hint="Replace the functions that call it.",
                )
            if known is None:
                why = entries.why_unknown(owner, function.old, function.sympos)
                unchecked.append(f"whether {owner}:{function.old} can be traced: {why}")
    return tuple(unchecked)


def _candidate(owner: str, function: Function, database: SymbolDatabase) -> Candidate:
    name = function.old
    found = database.in_object(owner, name)
    if not found:
        clones = [c for c in (f"{name}.{end}" for end in _CLONES) if database.candidates(c)]
        elsewhere = sorted({c.object for c in database.candidates(name)} - {owner})
        hint = f"In symbols.klp there is {', '.join(clones)}: name that." if clones else ""
        hint = hint or (f"It is in {', '.join(elsewhere)}." if elsewhere else "")
        near = "" if hint else did_you_mean(name, database.names(owner), 0.85)
        raise KlpError(
            f"function {name} is not in {owner}",
            where=function.where,
            why=f"{near}\nGCC drops functions that it inlines, and renames clones.".lstrip(),
            hint=hint or "Replace the functions that call it.",
        )
    if function.sympos > len(found):
        raise KlpError(
            f"function {name} of {owner} has no position {function.sympos}: there are {len(found)}",
            where=function.where,
            hint=_positions(found),
        )
    if function.sympos == 0 and len(found) > 1:
        raise KlpError(
            f"function {name} of {owner} is ambiguous: there are {len(found)}",
            where=function.where,
            why="Only the author knows which one is meant.  Add one of these:",
            hint=_positions(found),
        )
    return found[max(function.sympos, 1) - 1]


def _positions(found: Iterable[Candidate]) -> str:
    return "\n".join(
        f"sympos = {c.position}  # {c.file or 'file unknown'}, address "
        + ("unknown" if c.address is None else f"0x{c.address:x}")
        for c in found
    )


def replaced_by(
    elf: ElfFile, pairs: Iterable[tuple[str, Function]], database: SymbolDatabase
) -> tuple[Candidate, ...]:
    """Find the kernel's functions that an object replaces; all, where it is not known."""
    defined, every = {s.name for s in elf.symbol_list if s.is_defined}, tuple(pairs)
    here = [(owner, function) for owner, function in every if function.new in defined]
    found = (found_in(owner, function, database) for owner, function in here or every)
    return tuple(chain.from_iterable(found))


def found_in(owner: str, function: Function, database: SymbolDatabase) -> tuple[Candidate, ...]:
    """Find the kernel's function that one replaces; none if there is none."""
    candidates = database.in_object(owner, function.old)
    return tuple(candidates[max(function.sympos - 1, 0) :][:1])


def meant_by(
    decisions: Iterable[Decision], database: SymbolDatabase, exports: Exports
) -> dict[str, Candidate]:
    """Find what the kernel has for each undefined symbol of a linked module."""
    found: dict[str, Candidate] = {}
    for decision in decisions:
        name, target = decision.reference.name, decision.target
        export = exports.find(name)
        owner, sympos = export.owner if export else VMLINUX, 0
        if target:
            owner, sympos = target.owner, target.sympos
        function = Function(target.symbol if target else name, "", sympos)
        found.update((name, each) for each in found_in(owner, function, database))
    return found


def copied_state(
    elf: ElfFile, replaced: Collection[Candidate], database: SymbolDatabase
) -> Iterator[str]:
    """Find variables of a C file that the replaced functions' files have under the same names.

    And functions of which it hands an address on: the kernel keeps, and compares, its own's.

    :param elf: what the compiler made of it.
    :param replaced: the functions of the kernel that it replaces.
    :returns: warnings: what the kernel's variables hold is not in the new ones.
    """
    files = sorted({(function.object, function.file) for function in replaced if function.file})
    handed_on = _handed_on(elf)
    for symbol in elf.symbol_list:
        section = elf.sections[symbol.st_shndx] if symbol.is_defined else None
        if section is None or symbol.type not in (STT.OBJECT, STT.FUNC):
            continue
        place = symbol.st_shndx, symbol.st_value
        is_state = (
            symbol.type == STT.OBJECT
            and holds_variables(section.name)
            and is_writable(section)
            and not is_special_static(symbol.name, section, symbol.st_size)
        )
        kinds = "bBdD" if is_state else "tT" if place in handed_on else ""
        for owner, file in files if kinds else ():
            for there in _of_one_name(symbol.name, owner, database):
                if there.file != file or there.kind not in kinds:
                    continue
                use = (
                    "extern"
                    if there.symbol == base_name(there.symbol)
                    else (f'extern ... asm("{there.symbol}")')
                )
                if is_state:
                    yield (
                        f"{symbol.name} is new, though {owner} has one in {file}, whose content"
                        f" it does not have: to use that, declare it {use}"
                    )
                else:
                    yield (
                        f"the address of {symbol.name} is handed on, or compared, and {owner} has"
                        f" its own in {file}: to use that, declare it {use}"
                    )


def _of_one_name(name: str, owner: str, database: SymbolDatabase) -> Iterator[Candidate]:
    """List the symbols of an object that may have one name in the source.

    The compiler numbers static variables of functions.
    """
    if static_number(name) is None:
        yield from database.in_object(owner, name)
        return
    base = base_name(name)
    for each in sorted(database.names(owner)):
        if each.startswith(f"{base}.") and base_name(each) == base:
            yield from database.in_object(owner, each)


def _handed_on(elf: ElfFile) -> set[tuple[int, int]]:
    """Find the places in the file that it has whole addresses of: all but calls and jumps."""
    arch = by_machine(elf.e_machine, elf.name)
    whole = {arch.absolute_64, *_ADDRESSES.get(elf.e_machine, ())}
    found = set()
    for table in elf.relocation_sections:
        section = elf.sections[table.sh_info]
        if section.sh_flags & SHF.EXECINSTR or holds_variables(section.name):
            for row in elf.relocations(table):
                symbol = elf.symbol(int(row["r_sym"]))
                if int(row["r_type"]) in whole and symbol.is_defined:
                    found.add((symbol.st_shndx, symbol.st_value + int(row["r_addend"])))
    return found
