"""Read types in a compile unit of DWARF 4 or 5 (DWARF 5, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from klpbuild.elf.dwarf import Unit
from klpbuild.elf.types import ENUMERATOR, TAGGED, Field, Kind, TypeName, Types

_ARRAY, _SUBRANGE, _MEMBER, _ENUMERATOR = 0x01, 0x21, 0x0D, 0x28
_BASE, _POINTER = 0x24, 0x0F
_KINDS = {
    0x13: Kind.STRUCT, 0x17: Kind.UNION, 0x04: Kind.ENUM, _ARRAY: Kind.ARRAY,
    0x16: Kind.TYPEDEF, 0x26: Kind.QUALIFIER, 0x35: Kind.QUALIFIER, 0x37: Kind.QUALIFIER,
    0x47: Kind.QUALIFIER, _POINTER: Kind.POINTER,
}  # fmt: skip
_NAME, _BYTES, _BITS, _TYPE, _DECLARATION = 0x03, 0x0B, 0x0D, 0x49, 0x3C
_AT, _BIT_AT, _OLD_BIT_AT = 0x38, 0x6B, 0x0C
_UPPER, _COUNT, _VALUE, _FILE, _LINE = 0x2F, 0x37, 0x1C, 0x3A, 0x3B
_ALL = frozenset(
    {_NAME, _BYTES, _BITS, _TYPE, _DECLARATION, _AT, _BIT_AT, _OLD_BIT_AT, _UPPER, _COUNT, _VALUE,
     _FILE, _LINE}
)  # fmt: skip
_WANTED = dict.fromkeys((*_KINDS, _SUBRANGE, _MEMBER, _ENUMERATOR, _BASE), _ALL)
_WIDTH = 1 << 64


class Declared(NamedTuple):
    """Declaration of a type.

    :ivar number: of the type; of an enumerator its enumeration.
    :ivar file: as the compiler names it.
    """

    name: TypeName
    number: int
    file: str
    line: int


@dataclass(frozen=True)
class _Node:
    tag: int
    values: dict[int, int | str]
    children: list[_Node] = field(default_factory=list)

    def value(self, attribute: int) -> int:
        found = self.values.get(attribute, 0)
        return found if isinstance(found, int) else 0

    @property
    def name(self) -> str:
        return str(self.values.get(_NAME, ""))


class DwarfTypes(Types):
    """The types of a unit, by their offsets in ``.debug_info``."""

    def __init__(self, unit: Unit) -> None:
        """Read the entries that describe types.

        :raises KlpError: when the unit is broken.
        """
        super().__init__()
        self._unit = unit
        self._nodes: dict[int, _Node] = {}
        above: list[tuple[int, _Node]] = []
        for entry in unit.entries(_WANTED):
            node = _Node(entry.tag, entry.values)
            while above and above[-1][0] >= entry.depth:
                above.pop()
            if above and above[-1][0] == entry.depth - 1:
                above[-1][1].children.append(node)
            above.append((entry.depth, node))
            self._nodes[entry.offset] = node
        self._by_name: dict[str, list[int]] = {}
        for number, node in self._nodes.items():
            if node.tag in _KINDS and not node.value(_DECLARATION):
                self._by_name.setdefault(node.name, []).append(number)

    def declared(self, is_wanted: Callable[[str], bool]) -> Iterator[Declared]:
        """List the named types that are defined in some files.

        :param is_wanted: asked for each file's name.
        """
        files = self._unit.file_names()
        wanted = {number for number, name in enumerate(files) if is_wanted(name)}
        meant = {self.plain(n) for n in self._nodes if self.kind(n) is Kind.TYPEDEF}
        for number, node in self._nodes.items():
            kind, file = self.kind(number), node.value(_FILE)
            if file not in wanted or node.value(_DECLARATION):
                continue
            place = files[file], node.value(_LINE)
            if kind in TAGGED and node.name:
                yield Declared(TypeName(kind.value, node.name), number, *place)
            elif kind is Kind.TYPEDEF:
                plain = self.plain(number)
                if self.kind(plain) in TAGGED and not self.name(plain):
                    yield Declared(TypeName("", node.name), plain, *place)
            elif kind is Kind.ENUM and number not in meant:
                for name, _ in self.enumerators(number):
                    yield Declared(TypeName(ENUMERATOR, name), number, *place)

    def _node(self, number: int) -> _Node:
        return self._nodes.get(number, _VOID)

    def kind(self, number: int) -> Kind:
        """Return the kind of a type."""
        return _KINDS.get(self._node(number).tag, Kind.OTHER)

    def name(self, number: int) -> str:
        """Return the name of a type."""
        return self._node(number).name

    def inner(self, number: int) -> int:
        """Return the type that a typedef, a qualifier, a pointer or an array is made of."""
        return self._node(number).value(_TYPE)

    def count(self, number: int) -> int:
        """Compute the number of elements of an array, in all its dimensions."""
        found = 1
        for child in self._node(number).children:
            if child.tag != _SUBRANGE:  # of a function behind it, whose own tag is not asked for
                continue
            if _COUNT in child.values:
                found *= child.value(_COUNT)
            else:  # without an upper bound it has none
                found *= (child.value(_UPPER) + 1) % _WIDTH if _UPPER in child.values else 0
        return found

    def bytes(self, number: int) -> int:
        """Return the size that a type states itself; clang leaves a pointer's out."""
        node = self._node(number)
        return node.value(_BYTES) or (8 if node.tag == _POINTER else 0)

    def fields(self, number: int) -> Iterator[Field]:
        """List the members of a structure or union."""
        for member in self._node(number).children:
            if member.tag != _MEMBER:
                continue
            bits, offset = member.value(_BITS), 8 * member.value(_AT)
            if _BIT_AT in member.values:
                offset = member.value(_BIT_AT)
            elif bits and _OLD_BIT_AT in member.values:  # DWARF 4: from the most significant one
                skipped = member.value(_OLD_BIT_AT)
                unit = 8 * (member.value(_BYTES) or self.size(member.value(_TYPE)))
                offset += skipped if self._unit.is_big_endian else unit - skipped - bits
            yield Field(member.name, member.value(_TYPE), offset, bits)

    def enumerators(self, number: int) -> Iterator[tuple[str, int]]:
        """List the enumerators of an enumeration with their values, signed in its size."""
        half = 1 << 8 * max(self.bytes(number), 4) - 1
        for child in self._node(number).children:
            if child.tag == _ENUMERATOR:
                value = child.value(_VALUE)
                yield child.name, (value + half) % (2 * half) - half

    def named(self, name: str, kinds: frozenset[Kind]) -> Iterator[int]:
        """Find the types of a name that are defined."""
        for number in self._by_name.get(name, ()):
            if self.kind(number) in kinds:
                yield number

    def enumerations(self) -> Iterator[int]:
        """List all enumerations."""
        yield from (n for n in self.every if self.kind(n) is Kind.ENUM)

    @property
    def every(self) -> tuple[int, ...]:
        """The numbers of all types that are defined."""
        return tuple(n for n, node in self._nodes.items() if not node.value(_DECLARATION))


_VOID = _Node(0, {})
