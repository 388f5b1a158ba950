"""Read from a livepatch's own tables what it patches, as klp_enable_patch() would.

``struct klp_patch`` begins with ``mod, objs``; ``struct klp_object`` with ``name, funcs``
and four callbacks; ``struct klp_func`` with ``old_name, new_func, old_sympos``
(include/linux/livepatch.h, since v5.1).  Their sizes differ between kernels, so an
entry is told by its pointers.  Everything is kept as it stands, doubles too.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        if not pointers.is_astray(objects):
            return None
        stray = Stray(after(place, 1), "an address that is no table's")
        return Tables((), (stray,), (), place)
    missing = [] if pointers.names_module(place) else ["mod"]
    missing += [] if after(place, 1) in pointers.targets else ["objs"]
    entries = () if objects is None else _objects(pointers, objects)
    return Tables(entries, _strays(pointers, place, objects), tuple(missing), place)


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
    arrays: dict[Place, list[Place]] = {}
    if objects is not None:
        arrays[objects] = _object_starts(pointers, objects)
        for start in arrays[objects]:
            functions = pointers.targets.get(after(start, 1))
            if functions is not None and not pointers.string(after(start, 1)):
                arrays.setdefault(functions, _function_starts(pointers, functions))
    for array, starts in arrays.items():
        if array != objects:
            known |= {after(start, 2): POINTER for start in starts}
    found = [stray for start in (patch, *arrays) for stray in pointers.strays(start, known)]
    found += [stray for array, starts in arrays.items() for stray in _misplaced(array, starts)]
    return tuple(found)


def _misplaced(array: Place, starts: list[Place]) -> Iterator[Stray]:
    """Entries follow each other from the beginning of their array."""
    if not starts:
        return
    step = starts[1][1] - starts[0][1] if len(starts) > 1 else 0
    for number, start in enumerate(starts):
        if start[1] != array[1] + number * step:
            yield Stray(start, "an entry that does not begin where one ends")
            return


def _object_starts(pointers: Pointers, array: Place) -> list[Place]:
    """Where each ``struct klp_object`` of an array begins: at its name, or before its funcs."""
    found = []
    for field in pointers.inside(array):
        if pointers.is_table(field):
            found.append(after(field, -1))
        elif pointers.string(field) and not pointers.is_table(after(field, 1)):
            found.append(field)
    return found


def _function_starts(pointers: Pointers, array: Place) -> list[Place]:
    """Where each ``struct klp_func`` of an array begins: at its name, or before its code."""
    found = []
    for field in pointers.inside(array):
        if pointers.string(field):
            found.append(field)
        elif pointers.is_code(field) and not pointers.string(after(field, -1)):
            found.append(after(field, -1))
    return found


def _objects(pointers: Pointers, array: Place) -> tuple[Patched, ...]:
    found = []
    for start in _object_starts(pointers, array):
        functions = pointers.targets.get(after(start, 1))
        callbacks = frozenset(
            word
            for offset, word in _CALLBACKS.items()
            if pointers.is_code((start[0], start[1] + offset))
        )
        entries = None if functions is None else _functions(pointers, functions)
        found.append(Patched(pointers.string(start) or VMLINUX, entries, callbacks))
    return tuple(found)


def _functions(pointers: Pointers, array: Place) -> tuple[PatchedFunction, ...]:
    found = []
    for first in _function_starts(pointers, array):
        code = after(first, 1)
        new_place = pointers.targets.get(code) if pointers.is_code(code) else None
        new = pointers.function_at(new_place) if new_place else ""
        number = pointers.number(after(first, 2))
        found.append(PatchedFunction(pointers.string(first), new, new_place, number))
    return tuple(found)
