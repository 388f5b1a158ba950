"""Read types in BTF: of vmlinux, of a module over vmlinux', or as gcc writes them (``-gbtf``).

The format is that of Documentation/bpf/btf.rst and include/uapi/linux/btf.h.  A module's types
and strings are counted on from where vmlinux' end.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import cached_property
from struct import Struct, unpack_from
from typing import Literal, NamedTuple

from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Field, Kind, Types
from klpbuild.errors import KlpError, broken

BROKEN = "has broken type information (BTF)"
_MAGIC = 0xEB9F
_HEADERS = {"<": Struct("<HBBIIIII"), ">": Struct(">HBBIIIII")}
_TYPES = {"<": Struct("<III"), ">": Struct(">III")}
_TYPE_SIZE = 12


class BtfKind(IntEnum):
    """BTF_KIND_*."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_K = BtfKind
#: Bytes that follow a type's record, fixed or for each member.
_BEHIND = {_K.INT: 4, _K.ARRAY: 12, _K.VAR: 4, _K.DECL_TAG: 4}
_MEMBER = {
    _K.STRUCT: 12, _K.UNION: 12, _K.ENUM: 8, _K.FUNC_PROTO: 8, _K.DATASEC: 12, _K.ENUM64: 12,
}  # fmt: skip
_KINDS = {
    _K.STRUCT: Kind.STRUCT, _K.UNION: Kind.UNION, _K.ENUM: Kind.ENUM, _K.ENUM64: Kind.ENUM,
    _K.ARRAY: Kind.ARRAY, _K.PTR: Kind.POINTER, _K.TYPEDEF: Kind.TYPEDEF,
    _K.VOLATILE: Kind.QUALIFIER, _K.CONST: Kind.QUALIFIER, _K.RESTRICT: Kind.QUALIFIER,
    _K.TYPE_TAG: Kind.QUALIFIER,
}  # fmt: skip
_SIZED = frozenset({_K.INT, _K.STRUCT, _K.UNION, _K.ENUM, _K.ENUM64, _K.FLOAT})
_POINTER = 8


class BtfType(NamedTuple):
    """A type's record.

    :ivar members: how many it has.
    :ivar other: its size, or the type that it is made of.
    :ivar behind: what follows it.
    """

    name: str
    kind: BtfKind
    members: int
    flag: bool
    other: int
    behind: memoryview


class Btf(Types):
    """The types of a ``.BTF`` section.

    :ivar base: vmlinux', if it is a module's.
    :ivar where: the file.
    :ivar order: ``"<"`` or ``">"``.
    """

    def __init__(self, data: bytes | memoryview, base: Btf | None = None, where: str = "") -> None:
        """Read a section and find where each type begins.

        :param base: vmlinux' for a module's.
        :raises KlpError: when it is not BTF, or damaged.
        """
        super().__init__()
        self._data = memoryview(bytes(data))
        self.base = base
        self.where = where
        self._at: list[int] = []
        self._kinds: list[BtfKind] = []
        self._names: list[int] = []
        with broken(BROKEN, where):
            self.order = ">" if data[:2] == _MAGIC.to_bytes(2, "big") else "<"
            header = _HEADERS[self.order].unpack_from(data)
            magic, _, _, size, types, types_size, strings, length = header
            if magic != _MAGIC:
                raise KlpError("is not BTF", where=where)
            self._type = _TYPES[self.order]
            self._strings = bytes(self._data[size + strings : size + strings + length])
            self._first_string = base.strings_end if base else 0
            self._first = base.end if base else 1
            self._read(size + types, size + types + types_size)

    @classmethod
    def of(cls, elf: ElfFile, base: Btf | None = None) -> Btf | None:
        """Read the types of a file; None when it has no BTF.

        :raises KlpError: when they are damaged.
        """
        section = elf.section(".BTF")
        return cls(elf.contents(section), base, elf.name) if section else None

    @property
    def strings_end(self) -> int:
        """The end of the known strings: a module's offsets count on from here."""
        return self._first_string + len(self._strings)

    @property
    def end(self) -> int:
        """The end of the known type numbers: a module's count on from here."""
        return self._first + len(self._at)

    def _read(self, at: int, end: int) -> None:
        if end > len(self._data):
            raise ValueError("types end behind the section")
        known = dict(enumerate(BtfKind))
        while at < end:
            name, info, _ = self._type.unpack_from(self._data, at)
            kind = known[info >> 24 & 31]
            self._at.append(at)
            self._kinds.append(kind)
            self._names.append(name)
            at += _TYPE_SIZE + _BEHIND.get(kind, 0) + _MEMBER.get(kind, 0) * (info & 0xFFFF)
        if at > end:
            raise ValueError("a type ends behind the others")

    def string(self, offset: int) -> str:
        """Read the string at an offset."""
        if self.base and offset < self._first_string:
            return self.base.string(offset)
        start = offset - self._first_string
        return self._strings[start : self._strings.index(b"\0", start)].decode(errors="replace")

    def type(self, number: int) -> BtfType:
        """Read a type's record by its number."""
        if number == 0:
            return BtfType("", BtfKind.VOID, 0, False, 0, self._data[:0])
        holder, place = self._holder(number)
        at = holder._at[place]
        _, info, other = self._type.unpack_from(holder._data, at)
        kind, behind = holder._kinds[place], holder._data[at + _TYPE_SIZE :]
        return BtfType(self.name(number), kind, info & 0xFFFF, bool(info >> 31), other, behind)

    def _holder(self, number: int) -> tuple[Btf, int]:
        """Find whether a type is here or in vmlinux', and its place there."""
        holder = self
        while holder.base and number < holder._first:
            holder = holder.base
        if number < holder._first:
            raise IndexError(number)
        return holder, number - holder._first

    def numbers(self, name: str, kinds: frozenset[BtfKind]) -> Iterator[int]:
        """Find the types of a name, vmlinux' left out."""
        offsets = set(self._texts(name.encode()))
        for place, (kind, offset) in enumerate(zip(self._kinds, self._names, strict=True)):
            if kind in kinds and offset in offsets:
                yield self._first + place

    def _texts(self, name: bytes) -> Iterator[int]:
        """Find the offsets of a string, here and in vmlinux'."""
        at = self._strings.find(name + b"\0")
        while at >= 0:
            yield at + self._first_string
            at = self._strings.find(name + b"\0", at + 1)
        if self.base:
            yield from self.base._texts(name)

    # -- as Types

    def kind(self, number: int) -> Kind:
        """Return the kind of a type."""
        if number == 0:
            return Kind.OTHER
        holder, place = self._holder(number)
        return _KINDS.get(holder._kinds[place], Kind.OTHER)

    def name(self, number: int) -> str:
        """Read the name of a type."""
        if number == 0:
            return ""
        holder, place = self._holder(number)
        return holder.string(holder._names[place])

    def inner(self, number: int) -> int:
        """Return the type that a typedef, a qualifier, a pointer or an array is made of."""
        holder, place = self._holder(number)
        at = holder._at[place]
        if holder._kinds[place] is BtfKind.ARRAY:
            return int(self._type.unpack_from(holder._data, at + _TYPE_SIZE)[0])
        return int(self._type.unpack_from(holder._data, at)[2])

    def count(self, number: int) -> int:
        """Return the number of elements of an array."""
        return int(self._type.unpack_from(self.type(number).behind)[2])

    def bytes(self, number: int) -> int:
        """Return the size that a type states itself."""
        found = self.type(number)
        if found.kind is BtfKind.PTR:
            return _POINTER
        return found.other if found.kind in _SIZED else 0

    def fields(self, number: int) -> Iterator[Field]:
        """List the members of a structure or union."""
        found = self.type(number)
        for place in range(found.members):
            name, aim, offset = self._type.unpack_from(found.behind, _TYPE_SIZE * place)
            bits = 0
            if found.flag:
                offset, bits = offset & 0xFFFFFF, offset >> 24
            yield Field(self.string(name), aim, offset, bits)

    def enumerators(self, number: int) -> Iterator[tuple[str, int]]:
        """List the enumerators of an enumeration with their values, signed in its size."""
        found = self.type(number)
        each = _MEMBER[found.kind]
        for place in range(found.members):
            (name,) = unpack_from(f"{self.order}I", found.behind, each * place)
            value = found.behind[each * place + 4 : each * (place + 1)]
            if self.order == ">":  # of 8 bytes the lower four come first, in each order
                value = memoryview(b"".join((value[4:], value[:4])))
            order: Literal["little", "big"] = "little" if self.order == "<" else "big"
            yield self.string(name), int.from_bytes(value, order, signed=True)

    def named(self, name: str, kinds: frozenset[Kind]) -> Iterator[int]:
        """Find the types of a name."""
        wanted = frozenset(btf for btf, kind in _KINDS.items() if kind in kinds)
        yield from self.numbers(name, wanted)

    def enumerations(self) -> Iterator[int]:
        """List all enumerations, vmlinux' left out."""
        for place, kind in enumerate(self._kinds):
            if kind in (BtfKind.ENUM, BtfKind.ENUM64):
                yield self._first + place

    @cached_property
    def every(self) -> tuple[int, ...]:
        """The numbers of all types, vmlinux' left out."""
        return tuple(range(self._first, self.end))
