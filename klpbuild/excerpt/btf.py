"""The heads of functions, from the kernel's type information (BTF).

The format is that of Documentation/bpf/btf.rst.  A module's information continues
vmlinux': its types and strings are counted on from there.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, broken
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX, object_name

_MAGIC = 0xEB9F
_BROKEN = "is damaged"
#: Of a declaration, in characters; of real ones it is some hundred.
_DECLARATION_MAX = 100_000
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")


class _Kind(IntEnum):
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


#: Bytes behind a type, and behind it for each of its members.
_BEHIND = {_Kind.INT: 4, _Kind.ARRAY: 12, _Kind.VAR: 4, _Kind.DECL_TAG: 4}
_MEMBER = {
    _Kind.STRUCT: 12,
    _Kind.UNION: 12,
    _Kind.ENUM: 8,
    _Kind.FUNC_PROTO: 8,
    _Kind.DATASEC: 12,
    _Kind.ENUM64: 12,
}
_QUALIFIERS = {_Kind.VOLATILE: "volatile", _Kind.CONST: "const", _Kind.RESTRICT: "restrict"}
_TAGGED = {_Kind.STRUCT: "struct", _Kind.UNION: "union", _Kind.ENUM: "enum", _Kind.ENUM64: "enum"}


class TypeInformation:
    """The types of vmlinux, or of a module over vmlinux'."""

    def __init__(
        self, data: bytes | memoryview, base: TypeInformation | None = None, where: str = ""
    ) -> None:
        """Read a ``.BTF`` section.

        :param base: vmlinux' for a module's.
        :raises KlpError: when it is not BTF.
        """
        data = bytes(data)
        with broken(_BROKEN, where):
            magic, _, _, size, types, types_size, strings, strings_size = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise KlpError("is not BTF of this machine's byte order", where=where)
        self._data = data
        self._strings = data[size + strings : size + strings + strings_size]
        self._base = base
        self._first_string = base.strings_end if base else 0
        self._first = base.end if base else 1
        self._at: list[int] = []
        self._functions: dict[str, int] = {}
        self._where = where
        with broken(_BROKEN, where):
            self._read(size + types, size + types + types_size)

    @property
    def strings_end(self) -> int:
        """The offset of the first string that is not known here."""
        return self._first_string + len(self._strings)

    @property
    def end(self) -> int:
        """The number of the first type that is not known here."""
        return self._first + len(self._at)

    def _read(self, at: int, end: int) -> None:
        while at < end:
            name, info, _ = _TYPE.unpack_from(self._data, at)
            kind = _Kind(info >> 24 & 31)
            if kind is _Kind.FUNC:
                self._functions.setdefault(self._string(name), self._first + len(self._at))
            self._at.append(at)
            at += _TYPE.size + _BEHIND.get(kind, 0) + _MEMBER.get(kind, 0) * (info & 0xFFFF)

    def _string(self, offset: int) -> str:
        if self._base and offset < self._first_string:
            return self._base._string(offset)
        start = offset - self._first_string
        return self._strings[start : self._strings.index(b"\0", start)].decode(errors="replace")

    def _type(self, number: int) -> tuple[str, _Kind, int, int, int]:
        """Name, kind, number of members, size or type, and place of what is behind."""
        if self._base and number < self._first:
            raise KeyError(number)
        at = self._at[number - self._first]
        name, info, other = _TYPE.unpack_from(self._data, at)
        kind = _Kind(info >> 24 & 31)
        return self._string(name), kind, info & 0xFFFF, other, at + _TYPE.size

    def head(self, function: str, new: str) -> str | None:
        """A function's head in C, None when it is not known.

        :param function: its name.
        :param new: the name to write.
        :raises KlpError: when it is damaged.
        """
        if function not in self._functions:
            return self._base.head(function, new) if self._base else None
        with broken(_BROKEN, self._where):
            prototype = self._type(self._functions[function])[3]
            return self._declared(prototype, new, named=True)

    def _declared(self, number: int, name: str, named: bool = False) -> str:
        """The C declaration of a name with a type, from the inside out."""
        if number == 0:
            return f"void {name}".strip()
        if len(name) > _DECLARATION_MAX:
            raise ValueError("a type is part of itself")
        if self._base and number < self._first:
            return self._base._declared(number, name, named)
        own, kind, count, other, behind = self._type(number)
        if kind is _Kind.PTR:
            inner = self._kind(other)
            grouped = f"(*{name})" if inner in (_Kind.ARRAY, _Kind.FUNC_PROTO) else f"*{name}"
            return self._declared(other, grouped)
        if kind in _QUALIFIERS:
            word = _QUALIFIERS[kind]
            if self._kind(other) is _Kind.PTR:
                return self._declared(other, f"{word} {name}")
            return f"{word} {self._declared(other, name)}"
        if kind is _Kind.ARRAY:
            element, _, length = struct.unpack_from("<III", self._data, behind)
            return self._declared(element, f"{name}[{length}]")
        if kind is _Kind.FUNC_PROTO:
            return self._declared(other, f"{name}({self._parameters(count, behind, named)})")
        if kind is _Kind.TYPE_TAG:
            return self._declared(other, name)
        word = _TAGGED.get(kind, "")
        if kind is _Kind.FWD:
            word = "struct"
        return f"{word} {own} {name}".strip()

    def _kind(self, number: int) -> _Kind | None:
        if number == 0:
            return None
        if self._base and number < self._first:
            return self._base._kind(number)
        return self._type(number)[1]

    def _parameters(self, count: int, behind: int, named: bool) -> str:
        parameters: list[str] = []
        length = 0
        for i in range(count):
            name, number = struct.unpack_from("<II", self._data, behind + 8 * i)
            if not name and not number:
                parameters.append("...")
                continue
            word = self._string(name) or (f"argument{i + 1}" if named else "")
            parameters.append(self._declared(number, word if named else ""))
            length += len(parameters[-1])
            if length > _DECLARATION_MAX:
                raise ValueError("a type is part of itself")
        return ", ".join(parameters) or "void"


def type_information(kernel: Kernel, owner: str) -> TypeInformation | None:
    """What is known of an object's types; None when nothing is at hand.

    :raises KlpError: when it is damaged.
    """
    # Debian's headers have a vmlinux that holds nothing else.
    places = [path for path in (kernel.vmlinux, kernel.config.parent / "vmlinux") if path]
    files = (ElfFile.read(path) for path in places if path.is_file())
    base = next((found for elf in files if (found := _of(elf, None))), None)
    if base is None or owner == VMLINUX:
        return base
    for path in kernel.modules:
        if object_name(path.name) == owner:
            return _of(ElfFile.read(path), base)
    return None


def _of(elf: ElfFile, base: TypeInformation | None) -> TypeInformation | None:
    section = elf.section(".BTF")
    if section is None:
        return None
    return TypeInformation(elf.contents(section), base, f"{elf.name}:.BTF")
