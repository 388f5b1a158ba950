"""Find the kernel's static keys that changed code of an object branches by."""

from __future__ import annotations

import numpy as np

from klpbuild.elf.constants import STT
from klpbuild.elf.reader import ElfFile
from klpbuild.extract.atoms import Atom
from klpbuild.extract.changes import compare
from klpbuild.extract.part import Part
from klpbuild.extract.result import Key, KeyKind, KeyPolicy
from klpbuild.extract.sizes import EntrySizes
from klpbuild.extract.special import JUMP_TABLE


def changed_functions(part: Part) -> dict[Atom, str]:
    """List the functions of the patched object that differ or are new, and their former names."""
    changes = compare(part.correlation, part.old.tables, part.new.tables, part.known)
    twins = part.correlation.to_original
    changed = {atom: twins[atom].name for atom in changes.functions}
    return changed | dict.fromkeys(changes.new, "")


def branch_keys(part: Part, functions: dict[Atom, str]) -> set[Key]:
    """Find the static keys of the kernel that functions of the patched object branch by."""
    found = set()
    code, at = part.new.code, part.sizes.jump_key
    entries = (entry for atom in functions for entry in part.new.tables.of(atom))
    for entry in entries:
        if entry.section.name != JUMP_TABLE:
            continue
        for reference in entry.references:
            target = reference.target
            if reference.offset != at:
                continue
            if not isinstance(target, Atom):
                name = code.elf.symbol_list[reference.symbol].name
                found.add(Key(KeyKind.STATIC_BRANCH, name, None, False))
            elif (twin := part.correlation.to_original.get(target)) is not None:
                symbol = twin.symbols[0]
                found.add(Key(KeyKind.STATIC_BRANCH, symbol.name, symbol.index, True))
    return found


def may_branch(elf: ElfFile, sizes: EntrySizes, policy: KeyPolicy) -> bool:
    """Tell whether any code of an object may branch by a key that a livepatch may not use.

    That is cheap to tell, and so for most objects what changes in them need not be known.
    """
    tables = {section.index for section in elf.sections if section.name == JUMP_TABLE}
    entry, at = sizes.jump_entry, sizes.jump_key
    for section in elf.relocation_sections:
        if section.sh_info not in tables:
            continue
        rows = elf.relocations(section)
        if entry and at is not None:
            rows = rows[rows["r_offset"] % entry == at]
        for index in np.unique(rows["r_sym"]).tolist():
            symbol = elf.symbol(index)
            key = Key(KeyKind.STATIC_BRANCH, symbol.name, index, symbol.is_defined)
            if symbol.type == STT.SECTION or isinstance(policy(key), str):
                return True
    return False


def outline(elf: ElfFile) -> tuple[set[str], set[tuple[str, int]]]:
    """List the names of an object's functions; those of its variables, with sizes in bytes.

    Parts that the compiler moves out of the way (``f.cold``) do not count.
    """
    symbols = [symbol for symbol in elf.symbol_list if symbol.is_defined]
    functions = {s.name for s in symbols if s.is_function and not s.name.endswith(".cold")}
    return functions, {(s.name, s.st_size) for s in symbols if s.type == STT.OBJECT}
