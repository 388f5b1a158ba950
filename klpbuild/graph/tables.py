"""Read from a livepatch's own tables which functions of which objects it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from klpbuild.arch import by_machine
from klpbuild.elf.constants import SHF, SHT, STT
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.graph.build import Livepatch, PatchedFunction
from klpbuild.graph.modules import LivepatchReference, module_from_elf
from klpbuild.names import VMLINUX
from klpbuild.resolve.reach import Entry, Pointer

#: The section of ``__this_module``, which modpost makes.
THIS_MODULE = ".gnu.linkonce.this_module"

_POINTER = 8
#: Of struct klp_object: behind ``funcs``, since v4.15.
_CALLBACKS = 4
_NAME_MAX = 512

#: A place in the file: section index and offset.
_Place = tuple[int, int]


def read_patches(elf: ElfFile) -> tuple[PatchedFunction, ...]:
    """Read which objects and functions the static tables of a livepatch patch, sorted.

    ``struct klp_patch`` begins with ``mod, objs``, ``struct klp_object`` with ``name,
    funcs``, ``struct klp_func`` with ``old_name, new_func, old_sympos``
    (include/linux/livepatch.h, since v4.7); their sizes differ between kernels.  So
    the tables are found from the one that points to the module itself, and entries
    are told by their pointers.  Tables that are made at run time are not seen.

    :param elf: a linked livepatch, converted or not.
    :raises KlpError: for a broken file, or a machine without livepatch.
    """
    pointers = _Pointers(elf)
    found = {patched for field in _objects(pointers) for patched in _object(pointers, field)}
    with_functions = {patched.object for patched in found if patched.function}
    return tuple(sorted(p for p in found if p.function or p.object not in with_functions))


def read_entries(elf: ElfFile) -> tuple[Pointer, ...]:
    """Read the functions and callbacks that the static tables of a livepatch name, by place.

    :param elf: as `read_patches`.
    :raises KlpError: as `read_patches`.
    """
    pointers = _Pointers(elf)
    found = set()
    for field in _objects(pointers):
        owner = pointers.string(_after(field, -1)) or VMLINUX
        callbacks = (_after(field, n) for n in range(1, 1 + _CALLBACKS))
        for place in (*callbacks, *map(_after, pointers.inside(pointers.targets[field]))):
            if pointers.is_code(place):
                target = pointers.targets[place]
                found.add(Pointer(Entry(owner, pointers.function(target)), place, target))
    return tuple(sorted(found, key=lambda pointer: pointer.place))


def read_livepatch(
    elf: ElfFile, file_name: str, annotations: tuple[LivepatchReference, ...] = ()
) -> Livepatch:
    """Read a livepatch with its static tables.

    :param file_name: names the module where ``.modinfo`` does not.
    :param annotations: what KLP_SYMPOS says of an unconverted one.
    :raises KlpError: when it cannot be read, or is no livepatch.
    """
    module = module_from_elf(elf, file_name)
    if not module.livepatch:
        raise KlpError(
            "is not a livepatch module",
            where=elf.name,
            why='The kernel knows one by MODULE_INFO(livepatch, "Y").',
        )
    return Livepatch(module, read_patches(elf), annotations)


def _objects(pointers: _Pointers) -> Iterator[_Place]:
    """Find the field ``funcs`` of each ``struct klp_object`` of a ``struct klp_patch``."""
    for place, target in pointers.targets.items():
        objects = pointers.targets.get(_after(place))
        if pointers.elf.sections[target[0]].name == THIS_MODULE and objects is not None:
            for field in pointers.inside(objects):
                if not (pointers.is_code(field) or pointers.string(field)):
                    yield field


def _object(pointers: _Pointers, field: _Place) -> set[PatchedFunction]:
    """Read what a ``struct klp_object`` patches, from its field ``funcs``."""
    functions = pointers.targets[field]
    owner = pointers.string(_after(field, -1)) or VMLINUX
    found = {PatchedFunction(owner)}
    for place in pointers.inside(functions):
        name = pointers.string(place)
        if name and pointers.is_code(_after(place)):
            new = pointers.function(pointers.targets[_after(place)])
            found.add(PatchedFunction(owner, name, pointers.number(_after(place, 2)), new))
    return found


def _after(place: _Place, pointers: int = 1) -> _Place:
    return place[0], place[1] + pointers * _POINTER


@dataclass(frozen=True)
class _Pointers:
    """The 64-bit pointers in the writable and read-only data of a file."""

    elf: ElfFile

    @cached_property
    def targets(self) -> dict[_Place, _Place]:
        """The pointers that lead into this file: place to target."""
        elf = self.elf
        absolute = by_machine(elf.e_machine, elf.name).absolute_64
        found = {}
        for section in elf.relocation_sections:
            holder = elf.sections[section.sh_info]
            if holder.sh_flags & (SHF.ALLOC | SHF.EXECINSTR) != SHF.ALLOC:
                continue
            rows = elf.relocations(section)
            rows = rows[rows["r_type"] == absolute]
            fields = (rows[name].tolist() for name in ("r_offset", "r_sym", "r_addend"))
            for offset, index, addend in zip(*fields, strict=True):
                symbol = elf.symbol(index)
                if symbol.is_defined:
                    found[holder.index, offset] = (symbol.st_shndx, symbol.st_value + addend)
        return found

    @cached_property
    def _extents(self) -> dict[_Place, int]:
        """The variables of the file: start to size."""
        rows = self.elf.symbols
        rows = rows[(rows["st_info"] & 0xF == STT.OBJECT) & (rows["st_size"] > 0)]
        fields = (rows[name].tolist() for name in ("st_shndx", "st_value", "st_size"))
        return {(section, value): size for section, value, size in zip(*fields, strict=True)}

    def inside(self, start: _Place) -> list[_Place]:
        """List the pointers in the variable that begins at a place."""
        section, offset = start
        end = offset + self._extents.get(start, 0)
        return sorted(p for p in self.targets if p[0] == section and offset <= p[1] < end)

    def function(self, target: _Place) -> str:
        """Name the function that begins at a place; a global one where there are several."""
        return self._functions.get(target, "")

    @cached_property
    def _functions(self) -> dict[_Place, str]:
        symbols = [s for s in self.elf.symbol_list if s.is_function and s.is_defined]
        symbols.sort(key=lambda symbol: not symbol.is_local)
        return {(symbol.st_shndx, symbol.st_value): symbol.name for symbol in symbols}

    def is_code(self, place: _Place) -> bool:
        target = self.targets.get(place)
        return target is not None and bool(self.elf.sections[target[0]].sh_flags & SHF.EXECINSTR)

    def string(self, place: _Place) -> str:
        """Read the text that the pointer at a place leads to, empty if it leads to none."""
        target = self.targets.get(place)
        if target is None or target[1] < 0:
            return ""
        section = self.elf.sections[target[0]]
        if section.sh_flags & SHF.EXECINSTR or section.sh_type == SHT.NOBITS:
            return ""
        piece = bytes(self.elf.contents(section)[target[1] : target[1] + _NAME_MAX])
        text, end, _ = piece.partition(b"\0")
        return text.decode() if end and text.isascii() and text.decode().isprintable() else ""

    def number(self, place: _Place) -> int:
        """Read the 64-bit number at a place."""
        data = self.elf.contents(self.elf.sections[place[0]])[place[1] : place[1] + _POINTER]
        return int.from_bytes(data, "little" if self.elf.order == "<" else "big")
