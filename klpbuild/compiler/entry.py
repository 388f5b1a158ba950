"""Find the functions of an object that begin with an ftrace entry call.

ftrace redirects a function through the call at its entry, so the kernel patches
only functions that have one (kernel/livepatch/patch.c, klp_patch_func), and the
function that replaces another must have one too, to be traced and patched again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from klpbuild.arch import Architecture, by_machine
from klpbuild.elf.constants import STT
from klpbuild.elf.reader import ElfFile, Section, Symbol
from klpbuild.errors import Problems


def entry_offsets(elf: ElfFile) -> dict[int, int]:
    """Find the functions that have an entry call.

    :param elf: a relocatable object, as compiled or after objtool.
    :returns: symbol index to the offset of the entry call from the symbol, bytes.
    """
    architecture = by_machine(elf.e_machine, elf.name)
    allowed = architecture.entry_offsets
    places = _recorded_places(elf, architecture) | _called_places(elf, architecture)
    functions = [s for s in elf.symbol_list if s.type == STT.FUNC and s.is_defined]
    found: dict[int, int] = {}
    # A place inside of a function is its own: the one before the next is not.
    for offset in sorted(allowed, key=lambda offset: (offset < 0, offset)):
        taken = set()
        for symbol in functions:
            place = symbol.st_shndx, symbol.st_value + offset
            if offset < symbol.st_size and place in places:
                found.setdefault(symbol.index, offset)
                taken.add(place)
        places -= taken
    return found


def _recorded_places(elf: ElfFile, architecture: Architecture) -> set[tuple[int, int]]:
    """Find the place of each entry in ``__mcount_loc`` and sections like it."""
    places: set[tuple[int, int]] = set()
    for section, target in _relocated(elf):
        if target.name not in architecture.entry_sections:
            continue
        rows = elf.relocations(section)
        for index, addend in zip(rows["r_sym"].tolist(), rows["r_addend"].tolist(), strict=True):
            symbol = elf.symbol(index)
            places.add((symbol.st_shndx, symbol.st_value + addend))
    return places


def _called_places(elf: ElfFile, architecture: Architecture) -> set[tuple[int, int]]:
    """Find the place of each call of ``__fentry__``, where no section records them."""
    if architecture.entry_opcode is None:
        return set()
    calls = [s.index for s in elf.symbol_list if s.name == architecture.entry_symbol]
    places: set[tuple[int, int]] = set()
    for section, target in _relocated(elf):
        rows = elf.relocations(section)
        offsets = rows["r_offset"][np.isin(rows["r_sym"], calls)]
        places |= {
            (target.index, offset - architecture.entry_opcode) for offset in offsets.tolist()
        }
    return places


def _relocated(elf: ElfFile) -> list[tuple[Section, Section]]:
    return [
        (section, elf.sections[section.sh_info])
        for section in elf.relocation_sections
        if section.sh_info < len(elf.sections)
    ]


def check_new_functions(
    objects: Sequence[ElfFile],
    functions: Iterable[tuple[str, str]],
    problems: Problems,
    *,
    callbacks: Iterable[tuple[str, str]] = (),
) -> None:
    """Check the functions that the tables refer to.

    :param objects: the compiled sources of the livepatch.
    :param functions: those that replace others; pairs of name and where it is asked for.
    :param problems: takes every function that is missing, static, freed after the
        load, or cannot be traced.
    :param callbacks: those that need not be traceable; pairs like `functions`.
    """
    defined: dict[str, list[tuple[ElfFile, Symbol]]] = {}
    for elf in objects:
        for symbol in elf.symbol_list:
            if symbol.is_function and symbol.is_defined:
                defined.setdefault(symbol.name, []).append((elf, symbol))
    entries = {elf.name: entry_offsets(elf) for elf in objects}
    kinds = ((functions, "new function"), (callbacks, "callback"))
    for pairs, kind in kinds:
        for name, where in pairs:
            found = defined.get(name, [])
            if not found:
                _report_missing(f"{kind} {name!r}", name, where, defined, problems)
                continue
            elf, symbol = next(((e, s) for e, s in found if not s.is_local), found[0])
            traced = kind == "callback" or symbol.index in entries[elf.name]
            _check_reachable(f"{kind} {name!r}", where, elf, symbol, traced, problems)


def _check_reachable(
    what: str, where: str, elf: ElfFile, symbol: Symbol, traced: bool, problems: Problems
) -> None:
    place = f"{elf.name}:{symbol.name}"
    section = elf.sections[symbol.st_shndx].name
    if symbol.is_local:
        problems.add(
            f"{what} is static",
            where=place,
            why=f"The generated tables, a file of their own, refer to it ({where}).",
            hint="Take the word static away.",
        )
    elif section.startswith((".init.", ".exit.")):
        problems.add(
            f"{what} is in {section}",
            where=place,
            why="The kernel frees this section when the livepatch is loaded, or drops it.",
            hint="Take __init or __exit away.",
        )
    elif not traced:
        problems.add(
            f"{what} has no ftrace entry call",
            where=place,
            why="A function that replaces another one must be traceable like it.",
            hint="Take notrace or noinstr away, and compile with the kernel's flags.",
        )


def _report_missing(
    what: str,
    name: str,
    where: str,
    defined: dict[str, list[tuple[ElfFile, Symbol]]],
    problems: Problems,
) -> None:
    clones = [other for other in defined if other.startswith(f"{name}.")]
    near = clones or difflib.get_close_matches(name, defined, 3, 0.6)
    problems.add(
        f"{what} is not defined by the livepatch's sources",
        where=where,
        hint=f"Did you mean {', '.join(near)}?" if near else "Define it, without static.",
    )
