"""Read from a livepatch's own tables what it patches, as klp_enable_patch() would.

``struct klp_patch`` begins with ``mod, objs``; ``struct klp_object`` with ``name, funcs``
and four callbacks; ``struct klp_func`` with ``old_name, new_func, old_sympos``
(include/linux/livepatch.h, since v5.1).  Their sizes differ between kernels, so an
entry is told by its pointers.  Everything is kept as it stands, doubles too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from klpbuild.check.generated import read_generated
from klpbuild.check.patched import Patched, PatchedFunction
from klpbuild.check.pointers import POINTER, Place, Pointers, Stray, after
from klpbuild.elf.constants import EM, SHF
from klpbuild.elf.reader import ElfFile
from klpbuild.names import VMLINUX

#: Callbacks of struct klp_object by their offset.
_CALLBACKS = {16: "pre_patch", 24: "post_patch", 32: "pre_unpatch", 40: "post_unpatch"}
_ENABLE = "klp_enable_patch"
#: ``mov $patch,%rdi`` and ``lea patch(%rip),%rdi``, and what is to be added to the addend.
_INTO_RDI = {b"\x48\xc7\xc7": 0, b"\x48\x8d\x3d": 4}
#: Of struct klp_patch: `states` and `replace`, in pointers from its beginning.
_PATCH_FIELDS = (2, 3)


@dataclass(frozen=True)
class Tables:
    """What the static ``struct klp_patch`` leads to.

    :ivar objects: in order.
    :ivar strays: what does not belong into the tables.
    :ivar missing: which of its pointers ``mod`` and ``objs`` it lacks.
    :ivar place: where it begins.
    """

    objects: tuple[Patched, ...]
    strays: tuple[Stray, ...]
    missing: tuple[str, ...]
    place: Place


def read_tables(elf: ElfFile) -> tuple[Patched, ...] | None:
    """The objects that a livepatch patches, in order; None when no table says so.

    :raises KlpError: when relocations or symbols are broken.
    """
    tables = find_tables(elf)
    return tables.objects if tables else read_generated(elf)


def find_tables(elf: ElfFile) -> Tables | None:
    """The static ``struct klp_patch`` and its tables; None when there is none.

    :raises KlpError: when relocations or symbols are broken.
    """
    pointers = Pointers(elf)
    place = _enabled(elf)
    if place is None:
        place = next((p for p in pointers.targets if pointers.is_patch(p)), None)
    if place is None or place not in pointers.extents:
        return None
    objects = pointers.targets.get(after(place, 1))
    if objects is not None and objects not in pointers.extents:
        return None
    fields = [] if objects is None else pointers.inside(objects)
    missing = [] if pointers.names_module(place) else ["mod"]
    missing += [] if after(place, 1) in pointers.targets else ["objs"]
    return Tables(
        _objects(pointers, fields), _strays(pointers, place, objects), tuple(missing), place
    )


def _enabled(elf: ElfFile) -> Place | None:
    """What x86 code gives to klp_enable_patch(); None when that cannot be seen."""
    for section in elf.relocation_sections:
        target = elf.sections[section.sh_info]
        if elf.e_machine != EM.X86_64 or not target.sh_flags & SHF.EXECINSTR:
            continue
        rows = elf.relocations(section)
        order = np.argsort(rows["r_offset"], kind="stable").tolist()
        for before, call in pairwise(order):
            if elf.symbol_name(int(rows[call]["r_sym"])) != _ENABLE:
                continue
            offset, _, index, addend = rows[before].tolist()
            shift = _INTO_RDI.get(bytes(elf.contents(target)[max(offset - 3, 0) : offset]))
            symbol = elf.symbol(index)
            if shift is not None and symbol.is_defined:
                return symbol.st_shndx, symbol.st_value + addend + shift
    return None


def _strays(pointers: Pointers, patch: Place, objects: Place | None) -> tuple[Stray, ...]:
    """Bytes and relocations in the tables that are no field which a livepatch sets."""
    known = {after(patch, n): POINTER for n in _PATCH_FIELDS}
    starts = {patch} if objects is None else {patch, objects}
    for field in [] if objects is None else pointers.inside(objects):
        if not pointers.is_code(field) and pointers.is_table(field):
            starts.add(pointers.targets[field])
    for start in starts - {patch, objects}:
        for field in pointers.inside(start):
            if pointers.is_code(field):
                known[after(field, 1)] = POINTER
    return tuple(stray for start in sorted(starts) for stray in pointers.strays(start, known))


def _objects(pointers: Pointers, fields: list[Place]) -> tuple[Patched, ...]:
    found = []
    named: set[Place] = set()
    for field in fields:
        before = after(field, -1)
        if pointers.is_table(field):
            start = before
            named.add(before)
        elif pointers.string(field) and not pointers.is_table(after(field, 1)):
            start = field
        else:
            continue
        name = pointers.string(start) or VMLINUX
        functions = pointers.targets.get(after(start, 1))
        callbacks = frozenset(
            word
            for offset, word in _CALLBACKS.items()
            if pointers.is_code((start[0], start[1] + offset))
        )
        entries = None if functions is None else _functions(pointers, functions)
        found.append(Patched(name, entries, callbacks))
    return tuple(found)


def _functions(pointers: Pointers, start: Place) -> tuple[PatchedFunction, ...]:
    found = []
    for field in pointers.inside(start):
        if pointers.is_code(field):
            if pointers.string(after(field, -1)):
                continue  # told by its name
            first = after(field, -1)
        elif pointers.string(field):
            first = field
        else:
            continue
        code = after(first, 1)
        new_place = pointers.targets.get(code) if pointers.is_code(code) else None
        new = pointers.function_at(new_place) if new_place else ""
        number = pointers.number(after(first, 2))
        found.append(PatchedFunction(pointers.string(first), new, new_place, number))
    return tuple(found)
