"""Read a livepatch's own tables as klp_enable_patch() would: what it patches.

``struct klp_patch`` begins with ``mod, objs, states, replace``; ``struct klp_object`` with
``name, funcs`` and four callbacks; ``struct klp_func`` with ``old_name, new_func, old_sympos``
(include/linux/livepatch.h, since v5.1).  Everything is kept as it stands, doubles too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from klpbuild.check.generated import read_generated
from klpbuild.check.patched import Patched, PatchedFunction
from klpbuild.check.pointers import Place, Pointers, Stray, after
from klpbuild.elf.constants import EM, SHF
from klpbuild.elf.reader import ElfFile
from klpbuild.names import VMLINUX

#: Callbacks of struct klp_object, in pointers from its beginning.
_CALLBACKS = {2: "pre_patch", 3: "post_patch", 4: "pre_unpatch", 5: "post_unpatch"}
_ENABLE = "klp_enable_patch"
#: ``mov $patch,%rdi`` and ``lea patch(%rip),%rdi``, and what is to be added to the addend.
_INTO_RDI = {b"\x48\xc7\xc7": 0, b"\x48\x8d\x3d": 4}
#: The first one without a relocation.
_NOTHING, _NOWHERE = b"\x48\xc7\xc7" + bytes(4), (0, 0)
_STATES, _REPLACE, _SYMPOS = 2, 3, 2
#: struct klp_object has no number of its own.
_NONE = 1 << 16
#: Sizes on 64-bit machines, where struct kobject has 64 bytes: it has more with
#: CONFIG_DEBUG_KOBJECT_RELEASE.  Those of struct klp_state are the same everywhere.
_PATCH, _OBJECT, _FUNCTION, _STATE = 200, 168, 152, 24


def _overwritten(kobject: int, read: Collection[int], size: int, first: int) -> frozenset[int]:
    """List the offsets of a structure's bytes that klp_init_patch_early() and others write.

    :param kobject: where its kobject is: name, kset and state_initialized are read.
    :param read: other bytes that are read.
    :param first: the first one that is not the livepatch's own.
    """
    named = (*range(kobject, kobject + 8), *range(kobject + 32, kobject + 40), kobject + 60)
    return frozenset(range(first, size)) - {*named, *read}


_KEPT = {
    _PATCH: _overwritten(48, (), _PATCH, 25),
    _OBJECT: _overwritten(56, (160,), _OBJECT, 48),  # but `dynamic`
    _FUNCTION: _overwritten(32, (144,), _FUNCTION, 24),  # but `nop`
}


@dataclass(frozen=True)
class Tables:
    """The static ``struct klp_patch`` and what it leads to.

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
    """Read the objects that a livepatch patches, in order; None when no table names them.

    :raises KlpError: when relocations or symbols are broken.
    """
    tables = find_tables(Pointers(elf))
    return tables.objects if tables else read_generated(elf)


def find_tables(pointers: Pointers) -> Tables | None:
    """Find the static ``struct klp_patch`` and its tables; None when there is none.

    :raises KlpError: when relocations or symbols are broken.
    """
    place = _enabled(pointers.elf)
    if place == _NOWHERE:
        return Tables((), (), ("address",), place)
    if place is not None and place not in pointers.extents and not pointers.names_module(place):
        return Tables((), (Stray(place, "is no struct klp_patch"),), (), place)
    if place is None:
        place = next((p for p in pointers.targets if pointers.is_patch(p)), None)
    if place is None or place not in pointers.extents:
        return None
    module, objects = (pointers.targets.get(after(place, n)) for n in (0, 1))
    if objects not in pointers.extents and objects is not None and pointers.name_at(objects):
        return None  # the symbol does not tell the array's size
    strays = [*_patch_strays(pointers, place)]
    missing = [word for word, held in (("mod", module), ("objs", objects)) if held is None]
    found: tuple[Patched, ...] = ()
    if objects is not None:
        starts, size, more = _entries(pointers, after(place, 1), _OBJECT, _is_object)
        strays += more
        if not starts and not more:
            strays.append(Stray(objects, "no struct klp_object"))
        found = tuple(_object(pointers, start, size, strays) for start in starts)
    return Tables(found, tuple(strays), tuple(missing), place)


def _enabled(elf: ElfFile) -> Place | None:
    """Find what x86 code gives to klp_enable_patch(); None when that cannot be seen."""
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
            at = int(rows[call]["r_offset"]) - 1
            if bytes(elf.contents(target)[max(at - 7, 0) : max(at, 0)]) == _NOTHING:
                return _NOWHERE
    return None


def _patch_strays(pointers: Pointers, patch: Place) -> Iterator[Stray]:
    if patch in pointers.targets and not pointers.names_module(patch):
        yield Stray(patch, "a mod that is not this module")
    replace = pointers.number(after(patch, _REPLACE)) & 0xFF
    if replace > 1:
        yield Stray(after(patch, _REPLACE), f"the number {replace:#x} as replace")
    size = pointers.extents[patch]
    kept = _KEPT.get(size, ())
    yield from pointers.strays(patch, size, _REPLACE, kept, (0, 1, _STATES))
    states = after(patch, _STATES)
    if states in pointers.targets:
        yield from _entries(pointers, states, _STATE, lambda p, start: p.number(start) > 0)[2]


def _is_object(pointers: Pointers, start: Place) -> bool:
    """Tell whether an object follows, as klp_for_each_object_static() does."""
    fields = [after(start, n) for n in (0, 1)]
    return any(field in pointers.targets or pointers.number(field) for field in fields)


def _is_function(pointers: Pointers, start: Place) -> bool:
    """Tell whether a function follows, as klp_for_each_func_static() does."""
    return _is_object(pointers, start) or pointers.number(after(start, 2)) > 0


def _entries(
    pointers: Pointers, field: Place, size: int, goes_on: Callable[[Pointers, Place], bool]
) -> tuple[list[Place], int, list[Stray]]:
    """Find the entries of the array that a pointer leads to, up to the empty one at its end.

    :param size: of an entry, where the array has a multiple of it; else the array is divided.
    :returns: where they begin, their size, and what is wrong with the array.
    """
    array = pointers.targets[field]
    total = pointers.extents.get(array, 0)
    if not total:
        return [], size, [Stray(field, "an address that is no table's")]
    if total % size:
        count = sum(1 for p in pointers.inside(array) if pointers.begins_entry(p)) + 1
        size = total // count if total % count == 0 else total
    starts = [(array[0], at) for at in range(array[1], array[1] + total - size + 1, size)]
    full = [goes_on(pointers, start) for start in starts]
    count = full.index(False) if False in full else len(full)
    strays = []
    if count == len(full):
        strays.append(Stray(array, "no empty entry at its end"))
    elif any(full[count:]):
        strays.append(Stray(starts[count], "an empty entry before others"))
    return starts[:count], size, strays


def _object(pointers: Pointers, start: Place, size: int, strays: list[Stray]) -> Patched:
    strays += pointers.strays(start, size, _NONE, _KEPT.get(size, ()), (0, 1, *_CALLBACKS))
    for number in _CALLBACKS:
        target = pointers.targets.get(after(start, number))
        if target is not None and not pointers.function_at(target):
            strays.append(Stray(after(start, number), "a callback that is no function"))
    if start in pointers.targets and not pointers.is_text(pointers.targets[start]):
        strays.append(Stray(start, "a name where no text begins"))
    functions: tuple[PatchedFunction, ...] | None = None
    entered = [after(start, number) for number in _CALLBACKS]
    if after(start, 1) in pointers.targets:
        starts, step, more = _entries(pointers, after(start, 1), _FUNCTION, _is_function)
        strays += more
        functions = tuple(_function(pointers, each, step, strays) for each in starts)
        entered += [after(each, 1) for each in starts]
    callbacks = (word for n, word in _CALLBACKS.items() if pointers.is_code(after(start, n)))
    name = pointers.string(start) or VMLINUX
    return Patched(name, functions, frozenset(callbacks), tuple(entered))


def _function(pointers: Pointers, start: Place, size: int, strays: list[Stray]) -> PatchedFunction:
    strays += pointers.strays(start, size, _SYMPOS, _KEPT.get(size, ()), (0, 1))
    if start in pointers.targets and not pointers.is_text(pointers.targets[start]):
        strays.append(Stray(start, "an old_name where no text begins"))
    place = pointers.targets.get(after(start, 1))
    new = pointers.function_at(place) if place else ""
    return PatchedFunction(pointers.string(start), new, place, pointers.number(after(start, 2)))
