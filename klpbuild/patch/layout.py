"""Layouts of structures and numbers of enumerators: what exists when a livepatch is loaded
keeps those that it was made with.

gcc writes them as BTF (``-gbtf``, since gcc 12; include/uapi/linux/btf.h).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct, unpack_from

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, broken
from klpbuild.patch.csource import (
    Lines,
    Marks,
    closing_braces,
    code_alone,
    directive_lines,
    function_bodies,
)
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.touched import changed_lines

#: All types that a file declares are wanted, used or not; not those inside of functions.
BTF_FLAGS = ("-g0", "-gbtf", "-fno-eliminate-unused-debug-types")

_MAGIC = 0xEB9F
_TYPE = Struct("<III")
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = range(1, 9)
_VOLATILE, _CONST, _RESTRICT, _FUNC, _PROTO, _VAR, _DATASEC, _FLOAT = range(9, 17)
_DECL_TAG, _TYPE_TAG, _ENUM64 = range(17, 20)
_MODIFIERS = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)
#: Bytes that follow a type, by kind: fixed, and for each of its members.
_TAILS = {_INT: (4, 0), _ARRAY: (12, 0), _STRUCT: (0, 12), _UNION: (0, 12), _ENUM: (0, 8)}
_TAILS |= {_PROTO: (0, 8), _VAR: (4, 0), _DATASEC: (0, 12), _DECL_TAG: (4, 0), _ENUM64: (0, 12)}


#: Of all structures of an object together; all of a kernel have some 150,000.
_MEMBERS_MAX = 1_000_000
_BROKEN = "has broken type information (BTF)"


@dataclass(frozen=True, order=True)
class Member:
    """A member of a structure, those of its nameless members included.

    :ivar offset: in bits.
    :ivar size: in bytes; of a bit field in bits.
    """

    offset: int
    name: str
    size: int


#: Size in bytes and members of a structure.
Layout = tuple[int, tuple[Member, ...]]


def layouts(elf: ElfFile) -> dict[str, frozenset[Layout]]:
    """The layouts in an object's BTF, by names such as ``struct page``.

    A name may stand for several, in different functions.

    :raises KlpError: when the object has no BTF.
    """
    section = elf.section(".BTF")
    if section is None:
        raise KlpError("has no BTF", where=elf.name, why="Layouts of structures are read from it.")
    with broken(_BROKEN, elf.name):
        return _Types(bytes(elf.contents(section)), elf.name).layouts()


def enumerators(elf: ElfFile) -> dict[str, tuple[str, int]]:
    """The enumerators in an object's BTF: of which enumeration each is, and its number.

    That of a nameless enumeration stands for itself, as ``enumerator X``.

    :raises KlpError: when the object has no BTF.
    """
    section = elf.section(".BTF")
    if section is None:
        raise KlpError("has no BTF", where=elf.name, why="Numbers of enumerators are read from it.")
    with broken(_BROKEN, elf.name):
        return _Types(bytes(elf.contents(section)), elf.name).enumerators()


class _Types:
    """The types of a BTF section, by number from 1."""

    def __init__(self, data: bytes, where: str) -> None:
        magic, _, _, length, types, types_size, strings, _ = unpack_from("<HBBIIIII", data)
        if magic != _MAGIC:
            raise KlpError("has BTF of an unknown form", where=where)
        self._data = data
        self._strings = length + strings
        self._starts = [0]
        self._kinds = [0]
        at, end = length + types, length + types + types_size
        while at < end:
            _, info, _ = _TYPE.unpack_from(data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            fixed, each = _TAILS.get(kind, (0, 0))
            self._starts.append(at)
            self._kinds.append(kind)
            at += _TYPE.size + fixed + each * count
        if at > end:
            raise ValueError("a type ends behind the section")
        self._sizes: dict[int, int] = {}
        self._members_left = _MEMBERS_MAX

    def layouts(self) -> dict[str, frozenset[Layout]]:
        found: dict[str, set[Layout]] = {}
        for number, kind in enumerate(self._kinds[1:], 1):
            name = self._name(_TYPE.unpack_from(self._data, self._starts[number])[0])
            if kind == _TYPEDEF:
                aim = self._plain(number)
                if self._kinds[aim] in (_STRUCT, _UNION) and not self._own_name(aim):
                    found.setdefault(name, set()).add(self._layout(aim))
            elif kind in (_STRUCT, _UNION) and name:
                word = "struct" if kind == _STRUCT else "union"
                found.setdefault(f"{word} {name}", set()).add(self._layout(number))
        return {name: frozenset(several) for name, several in found.items()}

    def enumerators(self) -> dict[str, tuple[str, int]]:
        found = {}
        for number, kind in enumerate(self._kinds):
            if kind not in (_ENUM, _ENUM64):
                continue
            start = self._starts[number]
            _, info, _ = _TYPE.unpack_from(self._data, start)
            wide = kind == _ENUM64
            for i in range(info & 0xFFFF):
                at = start + _TYPE.size + (12 if wide else 8) * i
                (text,) = unpack_from("<I", self._data, at)
                value = self._data[at + 4 : at + (12 if wide else 8)]
                name, own = self._name(text), self._own_name(number)
                key = f"enum {own}" if own else f"enumerator {name}"
                found[name] = key, int.from_bytes(value, "little", signed=True)
        return found

    def _name(self, offset: int) -> str:
        start = self._strings + offset
        return self._data[start : self._data.index(b"\0", start)].decode(errors="replace")

    def _own_name(self, number: int) -> str:
        return self._name(_TYPE.unpack_from(self._data, self._starts[number])[0])

    def _plain(self, number: int) -> int:
        """A type without typedefs and qualifiers; 0 is void."""
        for _ in self._kinds:
            if self._kinds[number] not in _MODIFIERS:
                return number
            number = _TYPE.unpack_from(self._data, self._starts[number])[2]
        raise ValueError("a type is named after itself")

    def _layout(self, number: int) -> Layout:
        size = _TYPE.unpack_from(self._data, self._starts[number])[2]
        return size, tuple(sorted(self._members(number, 0)))

    def _members(self, number: int, base: int) -> Iterator[Member]:
        start = self._starts[number]
        _, info, _ = _TYPE.unpack_from(self._data, start)
        self._members_left -= info & 0xFFFF
        if self._members_left < 0:
            raise ValueError("a structure is in itself")
        for i in range(info & 0xFFFF):
            name, aim, offset = _TYPE.unpack_from(self._data, start + _TYPE.size * (i + 1))
            bits = 0
            if info >> 31:
                offset, bits = offset & 0xFFFFFF, offset >> 24
            plain = self._plain(aim)
            text = self._name(name)
            if not text and self._kinds[plain] in (_STRUCT, _UNION):
                yield from self._members(plain, base + offset)
            else:
                yield Member(base + offset, text, bits or self._size(plain))

    def _size(self, number: int) -> int:
        """Size of a type in bytes; 0 of what has none."""
        if number not in self._sizes:
            kind = self._kinds[number]
            value = _TYPE.unpack_from(self._data, self._starts[number])[2] if number else 0
            if kind == _PTR:
                value = 8
            elif kind == _ARRAY:
                place = self._starts[number] + _TYPE.size
                element, _, count = _TYPE.unpack_from(self._data, place)
                value = count * self._size(self._plain(element))
            elif kind not in (_INT, _STRUCT, _UNION, _ENUM, _ENUM64, _FLOAT):
                value = 0
            self._sizes[number] = value
        return self._sizes[number]


def changed_layouts(
    before: dict[str, frozenset[Layout]], after: dict[str, frozenset[Layout]]
) -> list[tuple[str, str]]:
    """Structures that are laid out otherwise, and what is other about each."""
    found = []
    for name in sorted(before.keys() & after.keys()):
        gone, come = before[name] - after[name], after[name] - before[name]
        if gone:
            found.append((name, _told(min(gone), min(come) if come else None)))
    return found


def changed_enumerators(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]
) -> list[tuple[str, str]]:
    """Enumerations whose enumerators have other numbers, and which these are.

    Names that tell how many there are may grow: nothing is stored as such a number.
    """
    found: dict[str, list[str]] = {}
    for name in before.keys() & after.keys():
        (key, old), (_, new) = before[name], after[name]
        if old != new and not _COUNT.search(name):
            found.setdefault(key, []).append(f"{name} is {new} instead of {old}")
    return [(key, ", ".join(sorted(told)[:3])) for key, told in sorted(found.items())]


_COUNT = re.compile(
    r"(^|_)(MAX|NUM|NUMBER|NR|N|COUNT|CNT|LAST|END|LIMIT|SIZE|TOTAL|SENTINEL)S?(_|$)",
    re.IGNORECASE,
)


def _told(old: Layout, new: Layout | None) -> str:
    if new is None:
        return "is gone"
    former = {member.name: member for member in old[1]}
    present = {member.name: member for member in new[1]}
    added = [name for name in present if name not in former]
    removed = [name for name in former if name not in present]
    moved = [name for name in former if name in present and former[name] != present[name]]
    parts = [
        f"{what} {', '.join(names[:3])}"
        for what, names in (("gets", added), ("loses", removed), ("moves or resizes", moved))
        if names
    ]
    if old[0] != new[0]:
        parts.append(f"has {new[0]} bytes instead of {old[0]}")
    return ", ".join(parts)


def type_lines(text: bytes) -> set[int]:
    """Numbers of the lines on which structures, unions, enumerations and names of types are."""
    plain = code_alone(text)
    lines, closing, ends = Lines(plain), closing_braces(plain), Marks(b";", plain)
    found: set[int] = set()
    for match in _NAMED.finditer(plain):
        found.update(lines.numbers(*match.span()))
    done = 0  # a type within another one is on that one's lines
    for match in _DECLARED.finditer(plain):
        if match["brace"] and match.start() >= done:
            done = ends.next(closing.get(match.start("brace"), len(plain)))
            found.update(lines.numbers(match.start(), done))
    return found


_NAMED = re.compile(rb"\btypedef\b[^;{}]*(?:;|\Z)?")
_WORD = re.compile(rb"\w+")
_STATIC = re.compile(rb"\bstatic\b[^;{}()*]*")
_TYPE_NAME = re.compile(rb"\b(struct|union|enum)\s+(\w+)\b")
_DECLARED = re.compile(rb"\b(?:struct|union|enum)\b[^;(){}=,]*(?P<brace>\{)?")


def kept_local_types(file: PatchedFile) -> list[str]:
    """Types inside of functions that static variables have and a patch declares otherwise.

    BTF does not have them.  Variables on the stack do not outlive the function.
    """
    if file.original is None or not file.path.endswith(".c"):
        return []
    before, after = _kept_types(file.original), _kept_types(file.patched)
    return sorted(name for name in before.keys() & after.keys() if before[name] != after[name])


def _kept_types(text: bytes) -> dict[str, bytes]:
    found = {}
    for _, lines in function_bodies(code_alone(text)):
        body = b"\n".join(lines)
        closing, used, ends = closing_braces(body), _used_by_static(body), Marks(b";", body)
        before = done = 0
        for match in _DECLARED.finditer(body):
            begin, before = before, match.end()
            if not match["brace"] or match.start() < done:
                continue  # or within a type that counts as a whole
            kind, *tag = match[0].rstrip(b"{ \t\n").split()[:2]
            closed = closing.get(match.start("brace"), len(body))
            end = ends.next(closed)
            variable = _WORD.search(body, closed, end)
            statement = re.split(rb"[;{}]", body[begin : match.start()])[-1]
            name = b" ".join([kind, *(tag or [b"of", variable[0] if variable else b""])])
            if b"static" in statement.split() or name in used:
                done = end
                found[name.decode(errors="replace")] = b" ".join(body[match.start() : end].split())
    return found


def _used_by_static(body: bytes) -> set[bytes]:
    """The structures, unions and enumerations that static variables of a function are of."""
    ends, values, found = Marks(b"*;", body), Marks(b"=", body), set()
    for static in _STATIC.finditer(body):
        # A pointer's star, the value or the end comes first behind the type's name.
        end = ends.next(static.end())
        for match in _TYPE_NAME.finditer(static[0]):
            has_value = values.next(static.start() + match.end()) < end
            if has_value or body[end : end + 1] == b";":
                found.add(b" ".join(match.groups()))
    return found


def may_change_layouts(file: PatchedFile) -> str:
    """Where a patch changes declarations of types or preprocessor lines, empty if nowhere."""
    original = file.original or b""
    gone, come = changed_lines(file)
    gone &= type_lines(original) | directive_lines(original)
    come &= type_lines(file.patched) | directive_lines(file.patched)
    if come:
        return file.origin(min(come))
    return file.where if gone else ""
