"""Compare types that a livepatch's C files define themselves with the kernel's of their names.

A C file that copies a private structure compiles whatever the running kernel's looks like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import NamedTuple

from klpbuild.elf.btf import BROKEN, Btf
from klpbuild.elf.dwarf import Dwarf, Unit
from klpbuild.elf.dwarftypes import Declared, DwarfTypes
from klpbuild.elf.prototypes import NONE, Prototypes, in_unit
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Described, Layout, Member, TypeName
from klpbuild.errors import KlpError, Problems, broken
from klpbuild.kernel.debug import debug_information, type_information
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.kernel.tree import Kernel
from klpbuild.module.owntables import included_files
from klpbuild.names import VMLINUX
from klpbuild.symbols.database import Candidate

#: Flags with which the compiler describes all types of a file, used or not.
TYPE_FLAGS = ("-fno-eliminate-unused-debug-types",)

_DEFINES = re.compile(rb"\b(?:struct|union|enum)\b[^;(){}=]*\{|^[ \t]*#[ \t]*include[ \t]*\"", re.M)
_COUNTED = frozenset({"enum", "enumerator"})


def defines_types(text: bytes) -> bool:
    """Tell whether a C file may define types: itself, or in a header of its own."""
    return _DEFINES.search(text) is not None


@dataclass(frozen=True)
class Source:
    """A C file of a livepatch, compiled.

    :ivar path: the C file.
    :ivar object: what the compiler made of it, with its debug information.
    :ivar replaced: the functions of the kernel that it replaces.
    :ivar accepted: names, such as ``struct x``, of types that may differ.
    :ivar above: the livepatch's directory, where its parts' common headers are.
    """

    path: Path
    object: ElfFile
    replaced: tuple[Candidate, ...]
    accepted: tuple[str, ...] = ()
    above: Path | None = None

    @property
    def has_types(self) -> bool:
        """Whether it has debug information."""
        return self.object.section(".debug_info") is not None

    @cached_property
    def prototypes(self) -> Prototypes:
        """The prototypes of its functions; none without debug information."""
        return in_unit(Unit(Dwarf(self.object), 0)) if self.has_types else NONE

    def own_file(self, name: str) -> Path | None:
        """Find the user's file that the compiler calls by a name, which begins at a directory."""
        found = (directory / name for directory in (self.path.parent, self.above) if directory)
        return next((path for path in found if path.is_file()), None)


def check_structures(
    side: KernelTypes, sources: Iterable[Source], problems: Problems
) -> tuple[str, ...]:
    """Compare structures, unions and enumerations of C files with the kernel's, by name.

    With those of the compile units that the replaced functions are from; what these do not
    have with those of the patched objects, of the modules that these need, and of vmlinux.

    :param problems: takes what differs, with the first member that does.
    :returns: what could not be compared, and why.
    """
    untold = []
    for source in sources:
        if not source.has_types:
            if defines_types(source.path.read_bytes()):
                untold.append(f"types of {source.path.name}: compiled without debug information")
            continue
        unknown: dict[TypeName, None] = {}
        types = DwarfTypes(Unit(Dwarf(source.object), 0))
        for declared in types.declared(is_own_file(source, side.kernel)):
            if str(declared.name) in source.accepted:
                continue
            with problems.collect():
                own = types.described(declared.name, declared.number)
                found = side.find(declared.name, source.replaced)
                if found is None:
                    unknown[declared.name] = None
                elif found.types and own not in found.types:
                    raise _difference(source, declared, own, found)
        if unknown:
            names = ", ".join(map(str, unknown))
            untold.append(
                f"{names} of {source.path.name}: the kernel's type information is not at hand"
            )
    return tuple(untold)


def is_own_file(source: Source, kernel: Kernel) -> Callable[[str], bool]:
    """Make a test for the user's files: what is included by absolute path, or below their own."""
    included = set(included_files(source.path))

    def is_own(name: str) -> bool:
        if Path(name).is_absolute():
            return Path(name).resolve() in included
        if source.own_file(name) is None:
            return False
        return not (kernel.build / name).is_file()

    return is_own


class _Where(NamedTuple):
    """Types of a name, and the object that has them; none if the kernel has none of the name."""

    object: str
    types: frozenset[Described]


_NOWHERE = _Where("", frozenset())


class KernelTypes:
    """The types of a kernel, each file and unit read once.

    :ivar kernel: the kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._units: dict[tuple[str, int], DwarfTypes] = {}
        self._prototypes: dict[tuple[str, int], Prototypes] = {}
        self._dwarf = cache(partial(_dwarf, kernel))
        self._btf = cache(partial(type_information, kernel))
        self._dependencies = Dependencies(kernel.modules)

    def find(self, name: TypeName, replaced: Iterable[Candidate]) -> _Where | None:
        """Find the types of a name that code beside the replaced functions may mean.

        :returns: None when what is at hand does not tell.
        :raises KlpError: when the kernel's files are damaged.
        """
        functions = tuple(replaced)
        for function in functions:
            unit = self._unit(function)
            if unit is not None:
                with broken("has broken debug information", function.object):
                    if found := unit.find(name):
                        return _Where(function.object, found)
        owners = tuple(dict.fromkeys(function.object for function in functions))
        needed = [name for owner in owners for name in self._dependencies.all_of(owner)]
        unknown = False
        for objects in (owners, dict.fromkeys([*needed, VMLINUX])):
            where: dict[str, frozenset[Described]] = {}
            for each in objects:
                types = self._btf(each)
                if types is None:
                    unknown = unknown or self._mentions(each, name)
                    continue
                with broken(BROKEN, types.where):
                    where[each] = types.find(name)
            if any(where.values()):
                first = next(each for each, found in where.items() if found)
                return _Where(first, frozenset().union(*where.values()))
        return None if unknown else _NOWHERE

    def _unit(self, function: Candidate) -> DwarfTypes | None:
        unit = self.unit(function)
        if unit is None:
            return None
        key = function.object, unit.offset
        if key not in self._units:
            try:
                self._units[key] = DwarfTypes(unit)
            except KlpError:
                return None
        return self._units[key]

    def prototypes(self, function: Candidate) -> Prototypes:
        """Read the prototypes of a function's compile unit; none when nothing tells which it is.

        :raises KlpError: when the unit is broken.
        """
        unit = self.unit(function)
        if unit is None:
            return NONE
        key = function.object, unit.offset
        if key not in self._prototypes:
            self._prototypes[key] = in_unit(unit)
        return self._prototypes[key]

    def unit(self, function: Candidate) -> Unit | None:
        """Find the compile unit of a function; None when what is at hand does not tell."""
        dwarf = self._dwarf(function.object)
        if dwarf is None or function.address is None:
            return None
        section = dwarf.elf.section(function.section) if function.object != VMLINUX else None
        try:
            return dwarf.unit_at(function.address, section.index if section else 0)
        except KlpError:  # without a table of addresses
            return None

    def debug_information(self, owner: str) -> Dwarf | None:
        """Open an object's DWARF; None when it is not at hand."""
        return self._dwarf(owner)

    def type_information(self, owner: str) -> Btf | None:
        """Read an object's BTF; None when it has none.

        :raises KlpError: when it is damaged.
        """
        return self._btf(owner)

    def _mentions(self, owner: str, name: TypeName) -> bool:
        """Tell whether an object without BTF may have a type of a name."""
        dwarf = self._dwarf(owner)
        return dwarf is None or dwarf.mentions(name.name)


def _dwarf(kernel: Kernel, owner: str) -> Dwarf | None:
    try:
        return debug_information(kernel, owner)
    except KlpError:
        return None


def _difference(source: Source, declared: Declared, own: Described, where: _Where) -> KlpError:
    word, layout = own
    alike = [there for other, there in sorted(where.types) if other == word]
    if alike:
        nearest = max(alike, key=lambda there: len({*there.members} & {*layout.members}))
        why = _first_difference(word, layout, nearest)
    else:
        why = f"It is a {word}, there a {min(where.types)[0]}"
    how = "numbered" if word in _COUNTED else "laid out"
    return KlpError(
        f"{declared.name} is {how} otherwise in {where.object}",
        where=f"{source.own_file(declared.file)}:{declared.line}",
        why=f"{why}.",
        hint="Take it from this kernel's source, or give it another name if it is another type.\n"
        "If the difference does no harm, accept it: "
        f'accept_layouts = ["{declared.name}"] in livepatch.toml.',
    )


def _first_difference(word: str, own: Layout, there: Layout) -> str:
    theirs = {member.name: member for member in there.members}
    names = {member.name for member in own.members}
    counted = word in _COUNTED
    first = next((m for m in own.members if theirs.get(m.name) != m), None)
    lacking = next((m for m in there.members if m.name not in names), None)
    parts = []
    if first is not None:
        parts = [_told(first, theirs.get(first.name), counted)]
    elif lacking is not None:
        called = f"{lacking.name}, which is {lacking.offset}" if counted else _placed(lacking)
        parts = [f"it lacks {called} there"]
    if own.size != there.size:
        parts.append(f"it has {own.size} bytes, there {there.size}")
    told = "; ".join(parts)
    return told[:1].upper() + told[1:]


def _told(member: Member, other: Member | None, counted: bool) -> str:
    if counted:
        there = f"is {member.offset}, there {other.offset}" if other else "is not there"
        return f"its {member.name} {there}"
    if other is None:
        return f"its member {member.name}, at {_place(member)}, is not there"
    if other.offset != member.offset:
        return f"its member {member.name} is at {_place(member)}, there at {_place(other)}"
    if (member.size < 0) != (other.size < 0):
        is_field = "is a bit field" if member.size < 0 else "is no bit field"
        return f"its member {member.name} {is_field}, and there it is otherwise"
    return f"its member {member.name} has size {abs(member.size)}, there {abs(other.size)}"


def _placed(member: Member) -> str:
    return f"the member {member.name}, which is at {_place(member)}"


def _place(member: Member) -> str:
    return f"bit {member.offset}" if member.offset % 8 else f"byte {member.offset // 8}"
