"""Read the kernel's tables about code: alternatives, bugs, exceptions, jump labels, ...

An entry belongs to the function that its first reference into code leads to.  What
others do is told apart from what is known here: a table that is not known and refers to
extracted code is refused (`inclusion`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from klpbuild.elf.reader import Section
from klpbuild.errors import KlpError
from klpbuild.extract.atoms import Atom, Reference
from klpbuild.extract.correlate import Identities
from klpbuild.extract.objects import ALTERNATIVES, CodeObject
from klpbuild.extract.sections import SectionKind, entry_size

#: arm64 puts replacements behind the code of the section.
_ALTERNATIVE = "What replaces its instructions stands behind other functions of the section."
BUG_TABLE, JUMP_TABLE = "__bug_table", "__jump_table"
#: Hints for objtool and addresses of what the entries' own functions tell already.
_NOT_COMPARED = (".discard.", "__mcount_loc", "__patchable_function_entries", ".smp_locks")


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry of a table.

    :ivar section: the table.
    :ivar offset: where it starts in the table, in bytes.
    :ivar size: its size in bytes; the last of ``.parainstructions`` may be short.
    :ivar references: its relocations.
    :ivar owner: the code that it is about; None if it is about none.
    """

    section: Section
    offset: int
    size: int
    references: tuple[Reference, ...]
    owner: Atom | None

    @property
    def place(self) -> int:
        """Offset in the owner's section that the entry is about."""
        for reference in self.references:
            if reference.target is self.owner and self.owner is not None:
                return self.owner.entry + reference.addend
        return 0


class Tables:
    """All table entries of an object, by the code they are about."""

    def __init__(self, code: CodeObject) -> None:
        """Read the entries of all tables.

        :raises KlpError: when a table does not fit its entry size.
        """
        self.code = code
        self.by_owner: dict[Atom, list[Entry]] = defaultdict(list)
        for section, kind in zip(code.elf.sections, code.kinds, strict=True):
            if kind is SectionKind.TABLE and section.sh_size:
                for entry in self._entries(section):
                    if entry.owner is not None:
                        self.by_owner[entry.owner].append(entry)

    def of(self, atom: Atom) -> list[Entry]:
        """Return the entries about an atom, in the order of the object."""
        return self.by_owner.get(atom, [])

    def about(self, piece: Atom) -> list[Atom]:
        """List the functions with entries that lead to a piece of code, as a replacement."""
        return [
            owner
            for owner, entries in self.by_owner.items()
            if any(reference.target is piece for e in entries for reference in e.references)
        ]

    def _entries(self, section: Section) -> list[Entry]:
        size = self._entry_size(section)
        if size is None:
            return []
        found = []
        for offset in range(0, section.sh_size, size):
            length = min(size, section.sh_size - offset)
            references = self.code.table_references(section.index, offset, offset + length)
            if section.name == ALTERNATIVES:
                references = self._with_replacement(section, offset, references)
            found.append(Entry(section, offset, length, references, _owner(references)))
        return found

    def _entry_size(self, section: Section) -> int | None:
        size = entry_size(section.name, self.code.sizes)
        raws = self.code.raw_between(section.index, 0, section.sh_size)
        if size is None and section.name.startswith(".discard."):
            if not raws:
                return None
            size = section.sh_size // len(raws)
        if size is None:
            raise KlpError(
                f"table {section.name} has entries of unknown size",
                where=self.code.elf.name,
                why="The kernel's headers do not declare the table's entries.",
                hint="Give the headers of the kernel that the object was compiled for.",
            )
        whole = section.sh_size % size == 0 or section.name == ".parainstructions"
        starts = {raw.offset // size for raw in raws if raw.offset % size == 0}
        if not whole or len(starts) != -(-section.sh_size // size):
            raise KlpError(
                f"table {section.name} of {section.sh_size} bytes does not consist of"
                f" entries of {size} bytes",
                where=self.code.elf.name,
                why="Each entry begins with the address of the code that it is about.",
                hint="Give the headers of the kernel that the object was compiled for.",
            )
        return size

    def _with_replacement(
        self, section: Section, offset: int, references: tuple[Reference, ...]
    ) -> tuple[Reference, ...]:
        """Resolve each replacement by its length too: some are empty."""
        length_at = self.code.sizes.alt_replacement_length
        data = self.code.elf.contents(section)
        found = []
        owner = _owner(references)
        for reference in references:
            target = reference.target
            if isinstance(target, Atom) and target.is_function and owner is not None:
                # Another function is a callback, which chooses the instructions.
                beyond = target.entry + reference.addend >= target.end
                if beyond or (target is not owner and reference.addend):
                    self.code.immovable[owner] = _ALTERNATIVE
            if isinstance(target, Atom) and not target.symbols and length_at is not None:
                start = target.start + reference.addend
                exact = self.code.replacements.get((start, data[offset + length_at]))
                if exact is not None:
                    reference = reference._replace(target=exact, addend=start - exact.start)
            found.append(reference)
        return tuple(found)

    def contents(self, entry: Entry) -> bytes:
        """Return an entry's bytes."""
        data = self.code.elf.contents(entry.section)
        return bytes(data[entry.offset : entry.offset + entry.size])

    def meaning(
        self, atom: Atom, identities: Identities, patched: bool
    ) -> dict[str, list[tuple[int, bytes, Hashable]]]:
        """Describe what each table says of an atom, without line numbers, for comparison."""
        said: dict[str, list[tuple[int, bytes, Hashable]]] = defaultdict(list)
        for entry in self.of(atom):
            name = entry.section.name
            if name.startswith(_NOT_COMPARED):
                continue
            content = self.contents(entry)
            line = self.code.sizes.bug_line
            if name == BUG_TABLE and line is not None:
                content = content[:line] + content[line + 2 :]
            references = tuple(identities.reference(patched, r) for r in entry.references)
            said[name].append((entry.place - atom.entry, content, references))
        for entries in said.values():
            entries.sort(key=lambda item: item[:2])
        return said


def _owner(references: tuple[Reference, ...]) -> Atom | None:
    for reference in references:
        if isinstance(reference.target, Atom) and reference.target.kind is SectionKind.CODE:
            return reference.target
    return None
