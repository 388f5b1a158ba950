"""Types as debug information has them: layouts of structures, numbers of enumerators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """Kind of a type; the value is C's keyword for it."""

    STRUCT = "struct"
    UNION = "union"
    ENUM = "enum"
    ARRAY = "array"
    POINTER = "pointer"
    TYPEDEF = "typedef"
    QUALIFIER = "qualifier"
    OTHER = "other"


#: Limit on nested types; real ones are some ten deep.
_LEVELS_MAX = 1000
#: Limit on members of all structures of a file; all of a kernel have some 150,000.
_MEMBERS_MAX = 1_000_000
ENUMERATOR = "enumerator"
TAGGED = frozenset({Kind.STRUCT, Kind.UNION, Kind.ENUM})


@dataclass(frozen=True, order=True)
class Member:
    """A member of a structure, those of its nameless members included; or an enumerator.

    :ivar offset: in bits; an enumerator's number.
    :ivar name: ``a.b`` for a member of a member whose type has no name, ``a[].b`` for one of
        an array of these; ``a[]`` for an element of another array.
    :ivar size: in bytes; of a bit field in bits, below 0; of an enumerator 0.
    """

    offset: int
    name: str
    size: int


class Layout(NamedTuple):
    """Size of a type in bytes, and its members by offset."""

    size: int
    members: tuple[Member, ...]


class TypeName(NamedTuple):
    """Name of a type, as C writes it.

    :ivar word: ``struct``, ``union`` or ``enum``; ``enumerator`` for one of an enumeration
        without a name; empty for the name that a typedef gives.
    """

    word: str
    name: str

    def __str__(self) -> str:
        return f"{self.word} {self.name}".strip()


#: Keyword and layout of a type.
Described = tuple[str, Layout]


class Field(NamedTuple):
    """A member as its structure declares it.

    :ivar offset: in bits.
    :ivar bits: width of a bit field, else 0.
    """

    name: str
    type: int
    offset: int
    bits: int


class Types(ABC):
    """Types, known by numbers; 0 is void.

    Of damaged ones a method may raise what `klpbuild.errors.broken` takes.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._members_left = _MEMBERS_MAX

    @abstractmethod
    def kind(self, number: int) -> Kind:
        """Return the kind of a type."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Return a type's tag or name, empty when it has none."""

    @abstractmethod
    def inner(self, number: int) -> int:
        """Return the type that a typedef, a qualifier, a pointer or an array is made of."""

    @abstractmethod
    def count(self, number: int) -> int:
        """Return the number of elements of an array."""

    @abstractmethod
    def bytes(self, number: int) -> int:
        """Return the size that a type states itself; 0 when it does not."""

    @abstractmethod
    def fields(self, number: int) -> Iterator[Field]:
        """List the members of a structure or union."""

    @abstractmethod
    def enumerators(self, number: int) -> Iterator[tuple[str, int]]:
        """List the enumerators of an enumeration with their values."""

    @abstractmethod
    def named(self, name: str, kinds: frozenset[Kind]) -> Iterator[int]:
        """Find the types of a name that are defined, not only declared."""

    @abstractmethod
    def enumerations(self) -> Iterator[int]:
        """List all enumerations."""

    def plain(self, number: int) -> int:
        """Strip typedefs and qualifiers from a type."""
        return self._without(number, frozenset({Kind.TYPEDEF, Kind.QUALIFIER}))

    def bare(self, number: int) -> int:
        """Strip qualifiers from a type."""
        return self._without(number, frozenset({Kind.QUALIFIER}))

    def _without(self, number: int, kinds: frozenset[Kind]) -> int:
        for _ in range(_LEVELS_MAX):
            if self.kind(number) not in kinds:
                return number
            number = self.inner(number)
        raise ValueError("a type is made of itself")

    def size(self, number: int) -> int:
        """Compute the size of a type in bytes; 0 of what has none."""
        if number not in self._sizes:
            plain = self.plain(number)
            if self.kind(plain) is Kind.ARRAY:
                self._sizes[number] = self.count(plain) * self.size(self.inner(plain))
            else:
                self._sizes[number] = self.bytes(plain)
        return self._sizes[number]

    def layout(self, number: int) -> Layout:
        """Compute the layout of a structure, union or enumeration."""
        if self.kind(number) is Kind.ENUM:
            members = [Member(value, name, 0) for name, value in self.enumerators(number)]
        else:
            members = list(self._members(number, 0, ""))
        return Layout(self.bytes(number), tuple(sorted(members)))

    def _members(self, number: int, base: int, prefix: str) -> Iterator[Member]:
        for field in self.fields(number):
            self._members_left -= 1
            if self._members_left < 0:
                raise ValueError("a structure is in itself")
            inner, text, offset = self.bare(field.type), prefix + field.name, base + field.offset
            if field.name:
                yield Member(offset, text, -field.bits or self.size(field.type))
                if self.kind(inner) is Kind.ARRAY:
                    text += "[]"
                    inner = self._without(inner, frozenset({Kind.ARRAY, Kind.QUALIFIER}))
                    if self.kind(self.plain(inner)) not in (Kind.STRUCT, Kind.UNION):
                        # A flexible array has no size that would tell.
                        yield Member(offset, text, self.size(inner))
                if self.name(inner):
                    continue  # it is compared by its own name
                text += "."
            else:
                inner = self.plain(inner)
            if self.kind(inner) in (Kind.STRUCT, Kind.UNION):
                yield from self._members(inner, offset, text)

    def find(self, name: TypeName) -> frozenset[Described]:
        """Find the types of a name; its keyword does not count, for tags have one name space."""
        kinds = TAGGED if name.word else frozenset({Kind.TYPEDEF})
        numbers = self.named(name.name, kinds)
        if name.word == ENUMERATOR:
            numbers = self.enumerations()
        plain = (n for n in map(self.plain, numbers) if self.kind(n) in TAGGED)
        described = (self.described(name, number) for number in plain)
        return frozenset(each for each in described if each[0] != ENUMERATOR or each[1].members)

    def described(self, name: TypeName, number: int) -> Described:
        """Describe a structure, union or enumeration; by an enumerator's name that one alone."""
        if name.word == ENUMERATOR:
            found = [(n, value) for n, value in self.enumerators(number) if n == name.name]
            return name.word, Layout(0, tuple(Member(value, n, 0) for n, value in found))
        return self.kind(number).value, self.layout(number)
