"""Read from a livepatch's own tables what it patches, as klp_enable_patch() would.

``struct klp_patch`` begins with ``mod, objs``; ``struct klp_object`` with ``name, funcs``
and four callbacks; ``struct klp_func`` with ``old_name, new_func, old_sympos``
(include/linux/livepatch.h, since v5.1).  Their sizes differ between kernels, so an
entry is told by its pointers.  Everything is kept as it stands, doubles too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from klpbuild.arch import by_machine
from klpbuild.check.structmodule import THIS_MODULE
from klpbuild.elf.constants import EM, SHF, SHT, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.names import VMLINUX

_POINTER = 8
#: Callbacks of struct klp_object by their offset.
_CALLBACKS = {16: "pre_patch", 24: "post_patch", 32: "pre_unpatch", 40: "post_unpatch"}
_STRING_MAX = 4096
_ENABLE = "klp_enable_patch"
#: ``mov $patch,%rdi`` and ``lea patch(%rip),%rdi``, and what is to be added to the addend.
_INTO_RDI = {b"\x48\xc7\xc7": 0, b"\x48\x8d\x3d": 4}
#: Of struct klp_patch: `states` and `replace`, in pointers from its beginning.
_PATCH_FIELDS = (2, 3)

#: Section index and offset.
Place = tuple[int, int]


@dataclass(frozen=True)
class PatchedFunction:
    """A ``struct klp_func``.

    :ivar old: name of the function that is replaced; empty when the pointer is missing.
    :ivar new: name of the function that replaces it; empty when the pointer is missing.
    :ivar new_place: where that one begins.
    :ivar sympos: ``old_sympos``.
    """

    old: str
    new: str
    new_place: Place | None
    sympos: int


@dataclass(frozen=True)
class Stray:
    """Something in a table that is not one of its fields.

    :ivar what: a number or a kind of relocation.
    """

    place: Place
    what: str


@dataclass(frozen=True)
class Patched:
    """A ``struct klp_object``.

    :ivar object: its name, ``vmlinux`` when it has none.
    :ivar functions: None when ``funcs`` is missing.
    :ivar callbacks: which of its callbacks are set.
    """

    object: str
    functions: tuple[PatchedFunction, ...] | None
    callbacks: frozenset[str]


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


def read_tables(elf: ElfFile) -> Tables | None:
    """The static ``struct klp_patch`` and its tables; None when there is none.

    :raises KlpError: when relocations or symbols are broken.
    """
    pointers = _Pointers(elf)
    place = _enabled(elf)
    if place is None:
        place = next((p for p in pointers.targets if pointers.is_patch(p)), None)
    if place is None or place not in pointers.extents:
        return None
    objects = pointers.targets.get(_after(place, 1))
    if objects is not None and objects not in pointers.extents:
        return None
    fields = [] if objects is None else pointers.inside(objects)
    missing = [] if pointers.names_module(place) else ["mod"]
    missing += [] if _after(place, 1) in pointers.targets else ["objs"]
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


def _strays(pointers: _Pointers, patch: Place, objects: Place | None) -> tuple[Stray, ...]:
    """Bytes and relocations in the tables that are no field which a livepatch sets."""
    known = {_after(patch, n): _POINTER for n in _PATCH_FIELDS}
    starts = {patch} if objects is None else {patch, objects}
    for field in [] if objects is None else pointers.inside(objects):
        if not pointers.is_code(field) and pointers.is_table(field):
            starts.add(pointers.targets[field])
    for start in starts - {patch, objects}:
        for field in pointers.inside(start):
            if pointers.is_code(field):
                known[_after(field, 1)] = _POINTER
    return tuple(stray for start in sorted(starts) for stray in pointers.strays(start, known))


def _objects(pointers: _Pointers, fields: list[Place]) -> tuple[Patched, ...]:
    found = []
    named: set[Place] = set()
    for field in fields:
        before = _after(field, -1)
        if pointers.is_table(field):
            start = before
            named.add(before)
        elif pointers.string(field) and not pointers.is_table(_after(field, 1)):
            start = field
        else:
            continue
        name = pointers.string(start) or VMLINUX
        functions = pointers.targets.get(_after(start, 1))
        callbacks = frozenset(
            word
            for offset, word in _CALLBACKS.items()
            if pointers.is_code((start[0], start[1] + offset))
        )
        entries = None if functions is None else _functions(pointers, functions)
        found.append(Patched(name, entries, callbacks))
    return tuple(found)


def _functions(pointers: _Pointers, start: Place) -> tuple[PatchedFunction, ...]:
    found = []
    for field in pointers.inside(start):
        if pointers.is_code(field):
            if pointers.string(_after(field, -1)):
                continue  # told by its name
            first = _after(field, -1)
        elif pointers.string(field):
            first = field
        else:
            continue
        code = _after(first, 1)
        new_place = pointers.targets.get(code) if pointers.is_code(code) else None
        new = pointers.function_at(new_place) if new_place else ""
        number = pointers.number(_after(first, 2))
        found.append(PatchedFunction(pointers.string(first), new, new_place, number))
    return tuple(found)


def _after(place: Place, pointers: int) -> Place:
    return place[0], place[1] + pointers * _POINTER


@dataclass(frozen=True)
class _Pointers:
    """The 64-bit pointers in the data of a file that lead into the file."""

    elf: ElfFile

    @cached_property
    def targets(self) -> dict[Place, Place]:
        elf = self.elf
        absolute = by_machine(elf.e_machine, elf.name).absolute_64
        found: dict[Place, Place] = {}
        for section in elf.relocation_sections:
            holder = elf.sections[section.sh_info]
            if holder.sh_flags & (SHF.ALLOC | SHF.EXECINSTR) != SHF.ALLOC:
                continue
            rows = elf.relocations(section)
            rows = rows[rows["r_type"] == absolute]
            symbols = elf.symbols[rows["r_sym"]]
            inside = (symbols["st_shndx"] > 0) & (symbols["st_shndx"] < len(elf.sections))
            values = symbols["st_value"].astype(np.int64) + rows["r_addend"]
            columns = (rows["r_offset"], symbols["st_shndx"], values)
            for offset, shndx, value in zip(*(c[inside].tolist() for c in columns), strict=True):
                found[holder.index, offset] = (shndx, value)
        return found

    def names_module(self, place: Place) -> bool:
        """Whether the pointer at a place is THIS_MODULE."""
        target = self.targets.get(place)
        return target is not None and (
            self.elf.sections[target[0]].name == THIS_MODULE and target[1] == 0
        )

    def is_patch(self, place: Place) -> bool:
        """Whether a struct klp_patch begins at a place, as far as pointers tell."""
        objects = self.targets.get(_after(place, 1)) if self.names_module(place) else None
        return objects is not None and any(self.is_table(f) for f in self.inside(objects))

    @cached_property
    def extents(self) -> dict[Place, int]:
        """The variables of the file: where they begin, and their sizes."""
        rows = self.elf.symbols
        rows = rows[(rows["st_info"] & 0xF == STT.OBJECT) & (rows["st_size"] > 0)]
        fields = (rows[name].tolist() for name in ("st_shndx", "st_value", "st_size"))
        return {(section, value): size for section, value, size in zip(*fields, strict=True)}

    @cached_property
    def _functions(self) -> dict[Place, str]:
        rows = self.elf.symbols
        numbers = np.flatnonzero((rows["st_info"] & 0xF == STT.FUNC) & (rows["st_shndx"] > 0))
        return {
            (int(rows[n]["st_shndx"]), int(rows[n]["st_value"])): self.elf.symbol_name(n)
            for n in numbers.tolist()
        }

    def function_at(self, place: Place) -> str:
        """The name of the function that begins at a place."""
        return self._functions.get(place, "")

    def inside(self, start: Place) -> list[Place]:
        """The places of the pointers in the variable that begins at a place."""
        section, offset = start
        end = offset + self.extents.get(start, 0)
        return sorted(p for p in self.targets if p[0] == section and offset <= p[1] < end)

    def strays(self, start: Place, known: dict[Place, int]) -> Iterator[Stray]:
        """What the variable at a place holds beside whole pointers and known numbers."""
        section, offset = start
        size = self.extents.get(start, 0)
        data = bytearray(self.elf.contents(self.elf.sections[section])[offset : offset + size])
        for (where, at), width in known.items():
            if where == section and offset <= at < offset + size:
                data[at - offset : at - offset + width] = bytes(width)
        wrong = next((n for n, byte in enumerate(data) if byte), None)
        if wrong is not None:
            yield Stray((section, offset + wrong), f"the number {data[wrong]:#x}")
        for at, kind in self._partial.get(section, ()):
            if offset <= at < offset + size:
                yield Stray((section, at), f"a relocation of type {kind}")

    @cached_property
    def _partial(self) -> dict[int, list[tuple[int, int]]]:
        """Relocations of data that are not whole pointers, by section."""
        found: dict[int, list[tuple[int, int]]] = {}
        machine = by_machine(self.elf.e_machine, self.elf.name)
        for section in self.elf.relocation_sections:
            rows = self.elf.relocations(section)
            rows = rows[(rows["r_type"] != machine.absolute_64) & (rows["r_type"] != machine.none)]
            pairs = zip(rows["r_offset"].tolist(), rows["r_type"].tolist(), strict=True)
            found.setdefault(section.sh_info, []).extend(pairs)
        return found

    def is_code(self, place: Place) -> bool:
        """Whether the pointer at a place leads to code."""
        target = self.targets.get(place)
        return target is not None and bool(self.elf.sections[target[0]].sh_flags & SHF.EXECINSTR)

    def is_table(self, place: Place) -> bool:
        """Whether the pointer at a place leads to data that is no text."""
        return place in self.targets and not self.is_code(place) and not self.string(place)

    def string(self, place: Place) -> str:
        """The text that the pointer at a place leads to, empty if it leads to none."""
        target = self.targets.get(place)
        if target is None or target[1] < 0:
            return ""
        section = self.elf.sections[target[0]]
        if section.sh_flags & SHF.EXECINSTR or section.sh_type == SHT.NOBITS:
            return ""
        piece = bytes(self.elf.contents(section)[target[1] : target[1] + _STRING_MAX])
        text, end, _ = piece.partition(b"\0")
        return text.decode() if end and text.isascii() and text.decode().isprintable() else ""

    def number(self, place: Place) -> int:
        """The 64-bit number at a place."""
        data = self.elf.contents(self.elf.sections[place[0]])[place[1] : place[1] + _POINTER]
        return int.from_bytes(data, "little" if self.elf.order == "<" else "big")
