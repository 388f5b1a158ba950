"""Read what a livepatch patches whose ``struct klp_patch`` is made as it is loaded.

kpatch-build leaves an array of ``struct kpatch_patch_func`` in ``.kpatch.funcs``
(kmod/patch/kpatch-patch.h); klp-build one of ``struct klp_object_ext`` in
``__klp_objects``, before Linux 7.0 ``.init.klp_objects`` (include/linux/livepatch_external.h).
The module's own init function turns them into what klp_enable_patch() takes.
"""

from __future__ import annotations

from klpbuild.check.patched import Patched, PatchedFunction
from klpbuild.check.pointers import POINTER, Place, Pointers, after
from klpbuild.elf.reader import ElfFile
from klpbuild.names import VMLINUX

_KPATCH, _KPATCH_CALLBACKS = ".kpatch.funcs", ".kpatch.callbacks."
#: new_addr, new_size, old_addr, old_size, sympos, name, objname.
_KPATCH_ENTRY, _SYMPOS, _NAME, _OBJECT = 7, 4, 5, 6
_KLP_BUILD = ("__klp_objects", ".init.klp_objects")
#: name, funcs, four callbacks, a bool, nr_funcs; and old_name, new_func, sympos.
_OBJECT_ENTRY, _FUNCTION_ENTRY, _COUNT = 8, 3, 7
_CALLBACKS = {2: "pre_patch", 3: "post_patch", 4: "pre_unpatch", 5: "post_unpatch"}


def read_generated(elf: ElfFile) -> tuple[Patched, ...] | None:
    """Read the objects that it patches, None when neither tool made the module.

    :raises KlpError: when relocations or symbols are broken.
    """
    pointers = Pointers(elf)
    for name in _KLP_BUILD:
        places = _entries(elf, name, _OBJECT_ENTRY)
        if places:
            return tuple(_object(pointers, place) for place in places)
    places = _entries(elf, _KPATCH, _KPATCH_ENTRY)
    return _kpatch(pointers, places) if places else None


def _entries(elf: ElfFile, name: str, size: int) -> list[Place]:
    section = elf.section(name)
    if section is None:
        return []
    return [(section.index, at) for at in range(0, section.sh_size, size * POINTER)]


def _function(pointers: Pointers, old: Place, new: Place, sympos: Place) -> PatchedFunction:
    place = pointers.targets.get(new) if pointers.is_code(new) else None
    name = pointers.function_at(place) if place else ""
    return PatchedFunction(pointers.string(old), name, place, pointers.number(sympos))


def _object(pointers: Pointers, start: Place) -> Patched:
    first = pointers.targets.get(after(start, 1))
    # nr_funcs is an int: what follows it is padding.
    count = min(pointers.number(after(start, _COUNT)) & 0xFFFFFFFF, len(pointers.targets))
    places = [] if first is None else [after(first, n * _FUNCTION_ENTRY) for n in range(count)]
    functions = tuple(_function(pointers, p, after(p, 1), after(p, 2)) for p in places)
    fields = {after(start, n): word for n, word in _CALLBACKS.items()}
    callbacks = frozenset(word for field, word in fields.items() if pointers.is_code(field))
    entries = (*fields, *(after(place, 1) for place in places))
    return Patched(pointers.string(start) or VMLINUX, functions, callbacks, entries)


def _kpatch(pointers: Pointers, places: list[Place]) -> tuple[Patched, ...]:
    objects: dict[str, list[PatchedFunction]] = {}
    callbacks: dict[str, set[str]] = {}
    entries: dict[str, list[Place]] = {}
    for start in places:
        place = after(start, _NAME)
        owner = pointers.string(after(start, _OBJECT)) or VMLINUX
        function = _function(pointers, place, start, after(start, _SYMPOS))
        objects.setdefault(owner, []).append(function)
        entries.setdefault(owner, []).append(start)
    for section in pointers.elf.sections:
        if section.name.startswith(_KPATCH_CALLBACKS):
            for start in _entries(pointers.elf, section.name, 2):
                owner = pointers.string(after(start, 1)) or VMLINUX
                word = section.name.removeprefix(_KPATCH_CALLBACKS)
                callbacks.setdefault(owner, set()).add(word)
                entries.setdefault(owner, []).append(start)
    return tuple(
        Patched(
            name, tuple(objects.get(name, ())), frozenset(callbacks.get(name, ())), tuple(found)
        )
        for name, found in entries.items()
    )
