"""Read a compiled object as functions, variables and the references between them.

An atom is what is extracted whole or not at all: a function, a variable, or a piece
without a symbol that others refer to.  Compiled with ``-ffunction-sections
-fdata-sections`` most atoms have a section of their own, but not all: ``__sched``
functions, per-CPU variables, alternatives.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from klpbuild.arch import by_machine
from klpbuild.elf.constants import SHF, SHT, STT
from klpbuild.elf.reader import ElfFile, Section, Symbol
from klpbuild.errors import KlpError
from klpbuild.extract.atoms import Atom, Literal, Reference
from klpbuild.extract.names import CONSTANT_LABEL, is_for_modpost
from klpbuild.extract.sections import (
    OBJTOOL_TABLES,
    SectionKind,
    entry_size,
    is_watched,
    kind_of,
)
from klpbuild.extract.sizes import EntrySizes

ALTERNATIVES, REPLACEMENTS = ".altinstructions", ".altinstr_replacement"
#: Sections of code without symbols that functions jump to and that jumps back.
_OUT_OF_LINE = (".altinstr_aux", ".fixup")
_PADDING_TABLE = "__patchable_function_entries"
#: Symbol of what clang's KCFI puts before a function: the hash of its type, which callers compare.
_TYPE_HASH = "__cfi_"


#: Local labels, and where arm64's code and data begin (ELF for the Arm 64-bit Architecture).
_OF_ASSEMBLER = (".L", "$x", "$d")
#: What KASAN says of a function's variables: how many; of each offset, size, length of the name,
#: and the name with its line, at which nothing looks (mm/kasan/report_generic.c).
_FRAME = re.compile(rb"\d+(?: \d+ \d+ \d+ [\w<>]+:\d+)+\0")
_VARIABLE = re.compile(rb"\d+ ([\w<>]+):\d+")
_SHORT_JUMP = "A short jump between two functions of one section cannot be relocated."


def _without_lines(text: bytes) -> bytes:
    """Take the lines out of a description of a function's variables; return other text as it is."""
    if not _FRAME.fullmatch(text):
        return text
    return _VARIABLE.sub(lambda match: b"%d %b" % (len(match[1]), match[1]), text)


class _Raw(NamedTuple):
    offset: int
    type: int
    symbol: int
    addend: int


class CodeObject:
    """A relocatable object of one source file, from before objtool ran.

    :ivar elf: the file.
    :ivar arch: its architecture.
    :ivar instructions: those of its architecture.
    :ivar atoms: all atoms, by section and offset.
    """

    def __init__(self, elf: ElfFile, sizes: EntrySizes, tree: str = "") -> None:
        """Cut the object into atoms; file names leave out `tree`, the source's directory.

        :raises KlpError: when objtool ran over it, a table does not fit its entry size, or nothing
            tells where constants end.
        """
        self.elf, self.sizes = elf, sizes
        self.arch = by_machine(elf.e_machine, elf.name)
        self.instructions = self.arch.decoded(elf.name)
        self._is_watched = is_watched(elf)
        self._tree = f"{tree}/".encode() if tree else b""
        for section in elf.sections:
            if section.name in OBJTOOL_TABLES:
                raise KlpError(
                    f"has been through objtool: it has {section.name}",
                    where=elf.name,
                    why="objtool rewrites jumps and returns, and runs over the extracted object.",
                    hint="Compile it without the objtool step.",
                )
        self.kinds = tuple(kind_of(section) for section in elf.sections)
        self._raw = self._read_relocations()
        self._code: dict[int, bytearray] = {}
        self.atoms: list[Atom] = []
        self._in_section: dict[int, list[Atom]] = {}
        self._starts: dict[int, list[int]] = {}
        self._of_symbol: dict[int, Atom] = {}
        self.replacements: dict[tuple[int, int], Atom] = {}
        self.immovable: dict[Atom, str] = {}
        self._references: dict[Atom, tuple[Reference, ...]] = {}
        self._instruction_ends: dict[int, list[int]] = {}
        self._literals: dict[int, bytes] = {}
        self._cut()
        self._make_branches_explicit()

    def _read_relocations(self) -> dict[int, list[_Raw]]:
        found: dict[int, list[_Raw]] = {}
        for section in self.elf.relocation_sections:
            if self.kinds[section.sh_info] is SectionKind.DROPPED:
                continue
            table = self.elf.relocations(section)
            columns = (table[f"r_{name}"].tolist() for name in ("offset", "type", "sym", "addend"))
            found[section.sh_info] = sorted(map(_Raw, *columns))
        return found

    # -- atoms

    def _cut(self) -> None:
        symbols: dict[int, list[Symbol]] = defaultdict(list)
        labels: dict[int, set[int]] = defaultdict(set)
        for symbol in self.elf.symbol_list:
            is_named = symbol.type in (STT.NOTYPE, STT.OBJECT, STT.FUNC)
            if self._is_watched and symbol.is_defined and symbol.name.startswith(CONSTANT_LABEL):
                labels[symbol.st_shndx].add(symbol.st_value)
            if not symbol.is_defined or not is_named or symbol.name.startswith(_OF_ASSEMBLER):
                continue
            if not is_for_modpost(symbol.name):
                symbols[symbol.st_shndx].append(symbol)
        paddings = self._paddings()
        for section, kind in zip(self.elf.sections, self.kinds, strict=True):
            if kind not in (SectionKind.CODE, SectionKind.DATA, SectionKind.METADATA):
                continue
            if symbols[section.index] and labels[section.index]:
                raise KlpError(
                    f"{section.name} holds {symbols[section.index][0].name} and constants without"
                    " names",
                    where=self.elf.name,
                    why="It cannot be told where each of them ends.",
                )
            if symbols[section.index]:
                self._cut_by_symbols(section, symbols[section.index], paddings[section.index])
            elif section.name == REPLACEMENTS:
                self._cut_replacements(section)
            elif section.name in _OUT_OF_LINE:
                self._cut_out_of_line(section)
            elif labels[section.index]:
                self._cut_between(section, labels[section.index])
            elif section.sh_size:
                self._add(section, 0, section.sh_size, 0, ())
        for section_index, atoms in self._in_section.items():
            self._starts[section_index] = [atom.start for atom in atoms]

    def _add(
        self, section: Section, start: int, end: int, entry: int, symbols: Iterable[Symbol]
    ) -> Atom:
        # the name that outlives the compilation: global before local, typed before label
        ordered = sorted(symbols, key=lambda s: (abs(s.st_value - entry), s.is_local, not s.type))
        kind = self.kinds[section.index]
        atom = Atom(len(self.atoms), section, kind, start, end, entry, tuple(ordered))
        self.atoms.append(atom)
        self._in_section.setdefault(section.index, []).append(atom)
        for symbol in ordered:
            self._of_symbol[symbol.index] = atom
        return atom

    def _paddings(self) -> dict[int, set[int]]:
        """Find, per section, where padding for a call before the function starts."""
        found: dict[int, set[int]] = defaultdict(set)
        for section in self.elf.sections:
            if section.name == _PADDING_TABLE:
                for raw in self._raw.get(section.index, ()):
                    symbol = self.elf.symbol_list[raw.symbol]
                    found[symbol.st_shndx].add(symbol.st_value + raw.addend)
        return found

    def _cut_by_symbols(self, section: Section, symbols: list[Symbol], paddings: set[int]) -> None:
        groups: list[tuple[int, int, list[Symbol]]] = []
        names = {symbol.name for symbol in symbols}
        hashes = {s.name: s for s in symbols if s.name.removeprefix(_TYPE_HASH) in names - {s.name}}
        symbols = [symbol for symbol in symbols if symbol.name not in hashes]
        for symbol in sorted(symbols, key=lambda s: (s.st_value, -s.st_size)):
            end = symbol.st_value + symbol.st_size
            if groups and (symbol.st_value < groups[-1][1] or symbol.st_value == groups[-1][0]):
                start, old_end, members = groups[-1]
                groups[-1] = (start, max(end, old_end), [*members, symbol])
            else:
                groups.append((symbol.st_value, end, [symbol]))
        alone = len(groups) == 1
        for i, (entry, end, members) in enumerate(groups):
            if alone or end == entry:  # a label without a size
                end = section.sh_size if i + 1 == len(groups) else groups[i + 1][0]
            heads = [hashes[name] for s in members if (name := _TYPE_HASH + s.name) in hashes]
            previous = 0 if alone or not i else groups[i - 1][1]
            starts = {*paddings, *(head.st_value for head in heads), entry, 0 if alone else entry}
            start = min(place for place in starts if previous <= place <= entry)
            self._add(section, start, end, entry, [*members, *heads])

    def _cut_between(self, section: Section, labels: set[int]) -> None:
        """Cut constants without names at their labels, which KASAN's objects keep."""
        starts = sorted({0, *labels})
        for start, end in zip(starts, [*starts[1:], section.sh_size], strict=True):
            if start < end:
                self._add(section, start, end, start, ())

    def _cut_replacements(self, section: Section) -> None:
        """Cut one atom for each replacement that an entry of .altinstructions names."""
        found: set[tuple[int, int]] = set()
        length_at = self.sizes.alt_replacement_length
        for table in self.elf.sections:
            size = entry_size(table.name, self.sizes)
            if table.name != ALTERNATIVES or size is None or length_at is None:
                continue
            data = self.elf.contents(table)
            for raw in self._raw.get(table.index, ()):
                symbol = self.elf.symbol_list[raw.symbol]
                if symbol.st_shndx == section.index:
                    entry = raw.offset // size * size
                    found.add((symbol.st_value + raw.addend, data[entry + length_at]))
        for start, length in sorted(found):
            atom = self._add(section, start, start + length, start, ())
            self.replacements[start, length] = atom

    def _cut_out_of_line(self, section: Section) -> None:
        """Cut where code jumps in and what stands before does not fall through."""
        entries = {0}
        for index, raws in self._raw.items():
            kind, name = self.kinds[index], self.elf.sections[index].name
            if index == section.index or name in (".smp_locks", "__bug_table"):
                continue
            for raw in raws:
                symbol = self.elf.symbol_list[raw.symbol]
                if symbol.st_shndx == section.index:
                    bias = self.instructions.behind if kind is SectionKind.CODE else 0
                    entries.add(symbol.st_value + raw.addend + bias)
        code = bytes(self.elf.contents(section))
        stops = {0}
        for offset, size, mnemonic, _ in self.instructions.decode(code):
            if mnemonic.split()[-1] in ("jmp", "ret", "ud2", "int3"):
                stops.add(offset + size)
        starts = sorted(entries & stops)
        for start, end in zip(starts, [*starts[1:], section.sh_size], strict=True):
            self._add(section, start, end, start, ())

    # -- code

    def _make_branches_explicit(self) -> None:
        """Add relocations to branches within a section, which as(1) resolved itself."""
        for index, atoms in self._in_section.items():
            functions = [atom for atom in atoms if atom.is_function]
            if len(functions) < 2:
                continue
            data = bytes(self.elf.contents(self.elf.sections[index]))
            code = bytearray(data)
            known = {raw.offset for raw in self._raw.get(index, ())}
            added = []
            for atom in functions:
                for branch in self.instructions.branches(data[atom.start : atom.end]):
                    field, to = atom.start + branch.field, atom.start + branch.target
                    if atom.start <= to < atom.end or known.intersection(
                        range(atom.start + branch.start, atom.start + branch.end)
                    ):
                        continue
                    target = self.locate(index, to)
                    if branch.is_short or target is None or not target.symbols:
                        self.immovable[atom] = _SHORT_JUMP
                        continue
                    symbol = target.symbols[0]
                    addend = to - symbol.st_value - self.instructions.behind
                    added.append(_Raw(field, self.instructions.branch, symbol.index, addend))
                    whole = slice(atom.start + branch.start, atom.start + branch.end)
                    code[whole] = self.instructions.without_aim(data[whole])
            if added:
                self._raw[index] = sorted([*self._raw.get(index, ()), *added])
                self._code[index] = code

    def atom_of(self, symbol: int) -> Atom:
        """Look up the atom of a symbol, by its index."""
        return self._of_symbol[symbol]

    def locate(self, section: int, offset: int) -> Atom | None:
        """Find the atom at an offset of a section, or the one before it when none covers it."""
        starts = self._starts.get(section)
        if not starts:
            return None
        return self._in_section[section][max(bisect_right(starts, offset) - 1, 0)]

    def contents(self, atom: Atom) -> bytes:
        """Return an atom's bytes; zeros for one without bytes in the file."""
        if atom.section.sh_type == SHT.NOBITS:
            return bytes(len(atom))
        code = self._code.get(atom.section.index)
        data = code if code is not None else self.elf.contents(atom.section)
        return bytes(data[atom.start : atom.end])

    def _bias(self, section: int, raw: _Raw, several: bool) -> int:
        """Compute how far behind a PC-relative field the address lies that it counts from."""
        if self.kinds[section] is not SectionKind.CODE or raw.type not in self.instructions.counted:
            return 0
        data = self.elf.contents(self.elf.sections[section])
        if not several or self.instructions.is_branch_field(data, raw.offset):
            return self.instructions.behind
        if not self.instructions.to_end:
            return self.instructions.behind
        ends = self._instruction_ends.get(section)
        if ends is None:
            ends = self._instruction_ends[section] = self._read_instructions(section)
        place = bisect_right(ends, raw.offset)
        return ends[place] - raw.offset if place < len(ends) else 4

    def _read_instructions(self, section: int) -> list[int]:
        ends: list[int] = []
        for atom in self._in_section.get(section, ()):
            code = bytes(self.elf.contents(atom.section)[atom.start : atom.end])
            ends += [atom.start + step[0] + step[1] for step in self.instructions.decode(code)]
        return sorted(ends)

    # -- references

    def references(self, atom: Atom) -> tuple[Reference, ...]:
        """Resolve the relocations inside an atom, by offset."""
        found = self._references.get(atom)
        if found is None:
            found = tuple(
                self._resolve(atom.section.index, raw, atom.start)
                for raw in self.raw_between(atom.section.index, atom.start, atom.end)
            )
            self._references[atom] = found
        return found

    def raw_between(self, section: int, start: int, end: int) -> list[_Raw]:
        """Select a section's relocations with ``start <= offset < end``."""
        raws = self._raw.get(section)
        if not raws:
            return []
        first = bisect_right(raws, (start, -1))
        last = bisect_right(raws, (end, -1), first)
        return raws[first:last]

    def table_references(self, section: int, start: int, end: int) -> tuple[Reference, ...]:
        """Resolve the references of one table entry, offsets from its start."""
        return tuple(
            self._resolve(section, raw, start) for raw in self.raw_between(section, start, end)
        )

    def _resolve(self, section: int, raw: _Raw, start: int) -> Reference:
        symbol = self.elf.symbol_list[raw.symbol]
        offset = raw.offset - start
        if not symbol.is_defined:
            return Reference(offset, raw.type, raw.symbol, None, raw.addend)
        kind = self.kinds[symbol.st_shndx]
        place = symbol.st_value + raw.addend
        if kind is SectionKind.LITERALS:
            begin = symbol.st_value
            if symbol.type == STT.SECTION:
                begin = place + self._bias(section, raw, True)
            literal = self._literal(symbol.st_shndx, begin, symbol.st_size)
            return Reference(offset, raw.type, raw.symbol, literal, place - begin)
        size = entry_size(self.elf.sections[symbol.st_shndx].name, self.sizes)
        if size and kind is SectionKind.TABLE and self.kinds[section] is SectionKind.CODE:
            begin = (place + self._bias(section, raw, True)) // size * size
            if about := self.raw_between(symbol.st_shndx, begin, begin + 1):
                at = self.elf.symbol_list[about[0].symbol].st_value + about[0].addend - start
                entry = Literal(symbol.st_shndx, b"entry at %d" % at, begin)
                return Reference(offset, raw.type, raw.symbol, entry, place - begin)
        if symbol.type == STT.SECTION:
            several = len(self._in_section.get(symbol.st_shndx, ())) > 1
            target = self.locate(symbol.st_shndx, place + self._bias(section, raw, several))
        else:
            target = self._of_symbol.get(raw.symbol) or self.locate(
                symbol.st_shndx, symbol.st_value
            )
        addend = place - target.entry if target is not None else raw.addend
        return Reference(offset, raw.type, raw.symbol, target, addend)

    def _literal(self, index: int, begin: int, size: int) -> Literal:
        section = self.elf.sections[index]
        data = self.elf.contents(section)
        if not 0 <= begin < len(data):
            raise KlpError(
                f"a reference leads to offset {begin} of the {len(data)} bytes of {section.name}",
                where=self.elf.name,
                hint="Compile the object again.",
            )
        width = max(section.sh_entsize, 1)
        if not section.sh_flags & SHF.STRINGS:
            end = max(begin - begin % width + width, begin + size)
            return Literal(index, bytes(data[begin:end]))
        whole = self._literal_bytes(index)
        end = whole.find(bytes(width), begin)
        while end >= 0 and (end - begin) % width:
            end = whole.find(bytes(width), end + 1)
        end = max(end + width if end >= 0 else len(whole), begin + size)
        # gcc's sanitizers name files as on the command line, whatever -fmacro-prefix-map says
        text = whole[begin:end].removeprefix(self._tree)
        return Literal(index, _without_lines(text) if self._is_watched else text)

    def _literal_bytes(self, index: int) -> bytes:
        if index not in self._literals:
            self._literals[index] = bytes(self.elf.contents(self.elf.sections[index]))
        return self._literals[index]

    def is_branch(self, atom: Atom, reference: Reference) -> bool:
        """Tell whether a reference of a code atom is a direct jump or call."""
        if reference.type in self.instructions.branch_types:
            return True
        if (
            reference.type not in (self.instructions.relative, self.instructions.branch)
            or self.kinds[atom.section.index] is not SectionKind.CODE
        ):
            return False
        return self.instructions.is_branch_field(self.contents(atom), reference.offset)

    def is_memory_operand(self, atom: Atom, reference: Reference) -> bool:
        """Tell whether code accesses a reference's target, and does not take its address."""
        return self.instructions.is_memory_operand(self.contents(atom), reference.offset)

    def undefined(self, reference: Reference) -> Symbol | None:
        """Return the undefined symbol that a reference names, if it does."""
        symbol = self.elf.symbol_list[reference.symbol]
        return symbol if reference.target is None and symbol.st_shndx == 0 else None
