"""Hold what a compiled object consists of: atoms, literals, and the references between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from klpbuild.elf.reader import Section, Symbol
from klpbuild.extract.names import cold_parent
from klpbuild.extract.sections import SectionKind, is_special_static, is_writable


@dataclass(frozen=True, eq=False)
class Atom:
    """A run of bytes in one section.

    :ivar index: its place among the object's atoms.
    :ivar start: offset in the section; a function's includes padding and type's hash before it.
    :ivar end: offset behind it.
    :ivar entry: offset of its first symbol, `start` if it has none.
    :ivar symbols: its symbols, the one that names it first.
    """

    index: int
    section: Section
    kind: SectionKind
    start: int
    end: int
    entry: int
    symbols: tuple[Symbol, ...]

    @property
    def name(self) -> str:
        return self.symbols[0].name if self.symbols else self.section.name

    @property
    def is_function(self) -> bool:
        return self.kind is SectionKind.CODE and bool(self.symbols)

    @property
    def is_cold(self) -> bool:
        """Whether it is the cold part of a function: its address is that of a label."""
        return self.is_function and cold_parent(self.name) is not None

    @property
    def is_global(self) -> bool:
        return any(not symbol.is_local for symbol in self.symbols)

    @property
    def is_writable(self) -> bool:
        return is_writable(self.section)

    @property
    def is_special_static(self) -> bool:
        """Whether it is a static variable of which a livepatch takes its own copy."""
        return is_special_static(self.name, self.section, len(self))

    def __len__(self) -> int:
        return self.end - self.start


class Literal(NamedTuple):
    """A string or a constant of a mergeable section, known by its content.

    :ivar entry: offset of an entry of a table that code refers to: since Linux 6.19 a WARN() with
        a format hands over that of ``__bug_table``.  Its content is then where it stands in the
        code; -1 for no entry.
    """

    section: int
    content: bytes
    entry: int = -1


class Reference(NamedTuple):
    """A relocation, with what it leads to.

    :ivar offset: of the field, from the start of its atom or of its table entry.
    :ivar type: relocation type.
    :ivar symbol: index of the symbol it names.
    :ivar target: what it leads to; None for an undefined symbol, and for what cannot be
        extracted.
    :ivar addend: what is added to the address of the target's `Atom.entry`, of the literal's
        first byte or of the undefined symbol.
    """

    offset: int
    type: int
    symbol: int
    target: Atom | Literal | None
    addend: int
