"""Prove that an object compiled here is the one that runs, and find its symbols there.

The linker keeps each section of an object in one piece.  So a section of ours is found
in the shipped binary when all its symbols stand there, at the same distances; its bytes
must then be the same but for relocated fields, and what the shipped fields lead to says
where other sections and symbols are.  Names alone prove nothing: a kernel has hundreds
of functions that share theirs.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from klpbuild.arch.base import Part
from klpbuild.elf.constants import SHF, SHT, STB, STT
from klpbuild.elf.reader import ElfFile, Section, Symbol
from klpbuild.errors import KlpError
from klpbuild.files.kept import code_key, content_key, kept_or_made
from klpbuild.files.records import settled_state
from klpbuild.kernel.prepare import Log, build_environment
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX
from klpbuild.patch.pair import CompiledPatch, ObjectPair
from klpbuild.proof.shipped import ShippedBinary, Target, shipped_file
from klpbuild.run import run

_NONE = 0
#: resolve_btfids writes the numbers of types there, after the last link.
_FILLED_LATER = ".BTF_ids"
#: Sections that the linker scripts of vmlinux and modules leave out.
_DISCARDED = (".discard", ".exitcall.exit", ".modinfo", ".comment", ".note")


class Proof(Enum):
    """How a symbol's place in the shipped binary was found."""

    SECTION = "its section stands there, symbol for symbol"
    REFERENCE = "the shipped code refers to it"
    LINK = "the linker knows one global symbol of its name"
    NAME = "no other symbol has its name"


@dataclass(frozen=True)
class Located:
    """A symbol of our object in the shipped binary.

    :ivar place: address in vmlinux; in a module see `klpbuild.proof.shipped`.
    :ivar index: index in the shipped symbol table, None without a symbol of its name there.
    """

    name: str
    place: int
    index: int | None
    proof: Proof


@dataclass(frozen=True)
class Difference:
    """A place where the shipped binary is not what we compiled.

    :ivar symbol: the function or variable.
    :ivar section: of our object.
    :ivar offset: in the symbol.
    """

    symbol: str
    section: str
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.section}:{self.symbol}+{self.offset:#x}: {self.what}"


@dataclass(frozen=True)
class Fidelity:
    """Result of comparing an object with the shipped binary.

    :ivar located: by symbol name, what was found; an object's names are its own.
    :ivar imported: names of symbols that the shipped module also takes from elsewhere.
    :ivar proven: functions and variables whose bytes and references are the shipped ones.
    :ivar differences: all that differs.
    """

    located: dict[str, Located]
    imported: frozenset[str]
    proven: frozenset[str]
    differences: tuple[Difference, ...]

    def find(self, name: str) -> Located | None:
        """Look up where a symbol of the object is in the shipped binary."""
        return self.located.get(name)

    def difference(self, name: str) -> Difference | None:
        """Look up the first difference in a function or variable."""
        return next((found for found in self.differences if found.symbol == name), None)

    def to_json(self) -> bytes:
        """Serialise the result; an object has hundreds of symbols, so that rows stand for them."""
        rows = [(f.name, f.place, f.index, f.proof.name) for f in self.located.values()]
        differences = [(d.symbol, d.section, d.offset, d.what) for d in self.differences]
        return json.dumps([rows, [*self.imported], [*self.proven], differences]).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Fidelity:
        """Read what `to_json` wrote."""
        rows, imported, proven, differences = json.loads(data)
        located = {n: Located(n, place, index, Proof[how]) for n, place, index, how in rows}
        told = tuple(Difference(*each) for each in differences)
        return cls(located, frozenset(imported), frozenset(proven), told)


def prove(kernel: Kernel, compiled: CompiledPatch, pair: ObjectPair, log: Log) -> Fidelity:
    """Compare the original object of a pair with what the kernel ships.

    :raises KlpError: when objtool refuses the object, or the owner is not at hand.
    """
    objtool = pair.command.objtool
    if not objtool and compiled.tree.objtool_runs_late:
        module = pair.owner != VMLINUX
        objtool = tuple(a for a in compiled.tree.objtool if module or a != "--module")
    plain, shipped = pair.plain.read_bytes(), shipped_file(kernel, pair.owner)

    def proven() -> Fidelity:
        finished = _finished(compiled, pair, objtool, log) if objtool else plain
        return compare(ElfFile(finished, pair.target), ShippedBinary.read(shipped))

    state = settled_state(shipped)
    if state is None:
        return proven()
    words = shlex.join(objtool), str(shipped), repr(state)
    key = content_key(plain, *words, code_key())
    path = compiled.tree.kept / "objects" / f"{pair.target[:-2]}.proof"
    return kept_or_made(path, key, proven, Fidelity.to_json, Fidelity.from_json)


def _finished(compiled: CompiledPatch, pair: ObjectPair, objtool: Sequence[str], log: Log) -> bytes:
    """Run objtool over the original object.

    :raises KlpError: when objtool refuses the object.
    """
    finished = pair.patched.with_suffix(".shipped.o")
    finished.write_bytes(pair.plain.read_bytes())
    command = [*objtool, str(finished)]
    log(shlex.join(command))
    done = run(command, build_environment(), compiled.tree.build)
    log(done.stderr)
    if done.returncode:
        raise KlpError("objtool refuses the object", where=pair.target, why=done.stderr.strip())
    return finished.read_bytes()


def compare(plain: ElfFile, shipped: ShippedBinary) -> Fidelity:
    """Compare an object with the binary that it was linked into.

    :param plain: compiled with kbuild's own command, after objtool.
    :param shipped: vmlinux or the module.
    """
    return _Comparison(plain, shipped).run()


@dataclass
class _Comparison:
    plain: ElfFile
    shipped: ShippedBinary
    bases: dict[int, int] = field(default_factory=dict)
    undefined: dict[int, int] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)
    differences: list[Difference] = field(default_factory=list)
    singles: dict[int, int] = field(default_factory=dict)
    _grouped: dict[int, dict[tuple[int, int, Part], list[tuple[int, int]]]] = field(
        default_factory=dict
    )

    def run(self) -> Fidelity:
        self.masks = {
            kind: np.frombuffer(field.mask(self.shipped.arch.order), np.uint8)
            for kind, field in self.shipped.fields.items()
        }
        self._told: set[tuple[str, str]] = set()
        self._astray: set[int] = set()
        self._symbols: dict[int, list[Symbol]] = defaultdict(list)
        for symbol in self.plain.symbol_list:
            if symbol.is_defined and symbol.type in (STT.FUNC, STT.OBJECT) and symbol.name:
                self._symbols[symbol.st_shndx].append(symbol)
        self._relocations = {s.sh_info: s for s in self.plain.relocation_sections}
        sections = [s for s in self.plain.sections if self._is_placed(s)]
        choices = {s.index: self._places(s) for s in sections}
        alone = [section for section in sections if len(choices[section.index]) == 1]
        waiting = [(section, choices[section.index][0]) for section in alone]
        while waiting:
            section, base = waiting.pop()
            if section.index in self.bases:
                continue
            self.bases[section.index] = base
            for index, place in self._follow(section, base).items():
                if self._is_placed(self.plain.sections[index]):
                    waiting.append((self.plain.sections[index], place))
        for section in sections:
            if section.index not in self.bases and self._symbols[section.index]:
                self._one_by_one(section, bool(choices[section.index]))
        self._doubt_references()
        return self._result()

    def _is_placed(self, section: Section) -> bool:
        """Tell whether the linker keeps a section in one piece."""
        return (
            bool(section.sh_flags & SHF.ALLOC)
            and not section.sh_flags & SHF.MERGE
            and section.sh_type in (SHT.PROGBITS, SHT.NOBITS)
            and not section.name.startswith(_DISCARDED)
        )

    def _places(self, section: Section) -> list[int]:
        """Find where all symbols of a section stand in the shipped binary."""
        votes: Counter[int] = Counter()
        voters = 0
        symbols = self._symbols[section.index]
        # another object's definition may have taken a weak symbol's name
        for symbol in [s for s in symbols if s.bind != STB.WEAK] or symbols:
            voters += 1
            votes.update(
                {
                    found.place - symbol.st_value
                    for found in self.shipped.named(symbol.name)
                    if found.size == symbol.st_size and found.type == symbol.type
                }
            )
        return [place for place, count in votes.items() if count == voters]

    def _follow(self, section: Section, base: int) -> dict[int, int]:
        """Compare a section at its place; return where its references lead, by section index."""
        for symbol in self._symbols[section.index]:
            if symbol.bind != STB.WEAK and not self._stands(symbol, base):
                self._differ(section, symbol.st_value, self._instead(symbol))
                self._astray.add(symbol.index)
        if section.sh_type == SHT.NOBITS:
            return {}
        ours = np.frombuffer(self.plain.contents(section), np.uint8)
        data = self.shipped.bytes_at(base, len(ours))
        if data is None:
            self._differ(section, 0, "the shipped binary ends before it")
            return {}
        theirs = np.frombuffer(data, np.uint8)
        differs = ours != theirs
        found: dict[int, Counter[int]] = defaultdict(Counter)
        is_code = section.sh_flags & SHF.EXECINSTR
        for offset, kind, index, addend in self._fields(section):
            if kind not in self.shipped.fields:
                self._differ(section, offset, f"has a relocation of type {kind}, not known here")
                continue
            mask = self.masks[kind]
            span = slice(offset, offset + len(mask))
            differs[span] = ((ours[span] ^ theirs[span]) & ~mask) != 0
            target = self._target(section, base, offset, kind, index, addend)
            symbol = self.plain.symbol(index)
            if target is None:
                self._differ(section, offset, f"has no relocation to {_called(symbol, self.plain)}")
            elif target.place is None:
                if symbol.st_shndx != 0 or symbol.name != target.name:
                    what = f"refers to {target.name}, not {_called(symbol, self.plain)}"
                    self._differ(section, offset, what)
                self.imported.add(target.name)
            elif symbol.st_shndx == 0:
                known = self.undefined.setdefault(index, self._linked(symbol, target.place))
                if known != target.place:
                    self._differ(section, offset, f"does not refer to {symbol.name}")
            elif symbol.is_defined and symbol.bind != STB.WEAK:
                found[symbol.st_shndx][target.place - symbol.st_value] += 1
                if not is_code and not self._same_string(symbol, addend, target):
                    self._differ(section, offset, "uses another string")
        if section.name == _FILLED_LATER:
            return {}
        for offset in np.flatnonzero(differs).tolist():
            self._differ(section, offset, "has other bytes")
        result = {index: places.most_common(1)[0][0] for index, places in found.items()}
        for index, place in result.items():
            known = self.bases.get(index, place)
            if len(found[index]) > 1 or known != place:
                self._disagree(section, base, index, known)
        return result

    def _same_string(self, symbol: Symbol, addend: int, target: Target) -> bool:
        """Tell whether a pointer leads to the same text, if it leads to text at all.

        The linker merges strings, so that their sections are not in one piece.  Code is
        not asked: it compares with addresses behind a string's end.
        """
        holder = self.plain.sections[symbol.st_shndx]
        if not holder.sh_flags & SHF.STRINGS or target.place is None:
            return True
        data = bytes(self.plain.contents(holder))[symbol.st_value + addend :]
        text = data.partition(b"\0")[0] + b"\0"
        shipped = self.shipped.bytes_at(target.place + addend, len(text))
        return shipped is not None and bytes(shipped) == text

    def _doubt_references(self) -> None:
        """Add a difference for whatever refers to a symbol that is elsewhere."""
        for number in self.bases if self._astray else ():
            section = self.plain.sections[number]
            for offset, kind, index, addend in self._fields(section):
                symbol = self.plain.symbol(index)
                field = self.shipped.fields.get(kind)
                if symbol.type == STT.SECTION and field is not None:
                    place = addend + field.behind
                    symbol = self._symbol_at(symbol.st_shndx, place) or symbol
                if symbol.index in self._astray:
                    self._differ(section, offset, f"does not refer to {symbol.name}")

    def _symbol_at(self, section: int, offset: int) -> Symbol | None:
        for symbol in self._symbols[section]:
            if symbol.st_value <= offset < symbol.st_value + max(symbol.st_size, 1):
                return symbol
        return None

    def _linked(self, symbol: Symbol, place: int) -> int:
        """Find where the linker must have found a symbol that our object does not define."""
        places = [f.place for f in self.shipped.named(symbol.name) if f.is_global]
        if place in places or (symbol.bind == STB.WEAK and not places):
            return place
        return places[0] if places else -1

    def _disagree(self, section: Section, base: int, target: int, place: int) -> None:
        """Record the references to a section that lead elsewhere than to its place."""
        if not self._is_placed(self.plain.sections[target]):
            return
        for offset, kind, index, addend in self._fields(section):
            symbol = self.plain.symbol(index)
            if (
                symbol.st_shndx != target
                or symbol.bind == STB.WEAK
                or kind not in self.shipped.fields
            ):
                continue
            found = self._target(section, base, offset, kind, index, addend)
            if found is not None and found.place != place + symbol.st_value:
                self._differ(section, offset, f"does not refer to {_called(symbol, self.plain)}")

    def _target(
        self, section: Section, base: int, offset: int, kind: int, index: int, addend: int
    ) -> Target | None:
        """Find what a shipped field leads to; two instructions may hold one address."""
        part, rest = self.shipped.fields[kind].part, None
        if self.shipped.linked and part in (Part.PAGE, Part.LOW):
            others = self._parts(section)[
                index, addend, Part.LOW if part is Part.PAGE else Part.PAGE
            ]
            if not others:
                return None
            nearest = min(others, key=lambda other: abs(other[0] - offset))
            rest = base + nearest[0], nearest[1]
        return self.shipped.target(base + offset, kind, addend, rest)

    def _parts(self, section: Section) -> dict[tuple[int, int, Part], list[tuple[int, int]]]:
        """Group the fields that hold parts of addresses, by symbol, addend and part."""
        if section.index not in self._grouped:
            found = self._grouped[section.index] = defaultdict(list)
            for offset, kind, index, addend in self._fields(section):
                if kind in self.shipped.fields:
                    found[index, addend, self.shipped.fields[kind].part].append((offset, kind))
        return self._grouped[section.index]

    def _fields(self, section: Section) -> list[tuple[int, int, int, int]]:
        table = self._relocations.get(section.index)
        if table is None:
            return []
        rows = self.plain.relocations(table)
        columns = (rows[name].tolist() for name in ("r_offset", "r_type", "r_sym", "r_addend"))
        return [row for row in zip(*columns, strict=True) if row[1] != _NONE]

    def _differ(self, section: Section, offset: int, what: str) -> None:
        symbol = self._symbol_at(section.index, offset)
        name, start = (symbol.name, symbol.st_value) if symbol else ("", 0)
        if (name, what) not in self._told:
            self._told.add((name, what))
            self.differences.append(Difference(name, section.name, offset - start, what))

    def _stands(self, symbol: Symbol, base: int) -> bool:
        """Tell whether the shipped binary has a symbol of this name and size in its place."""
        return any(
            found.place == base + symbol.st_value and found.size == symbol.st_size
            for found in self.shipped.named(symbol.name)
        )

    def _instead(self, symbol: Symbol) -> str:
        """Describe what the shipped binary has of a symbol that is not in its place."""
        sizes = sorted({found.size for found in self.shipped.named(symbol.name)})
        if not sizes:
            return "is not in the shipped binary"
        if symbol.st_size in sizes:
            return "stands elsewhere in its file"
        shipped = ", ".join(str(size) for size in sizes[:4])
        return f"has {symbol.st_size} bytes here and {shipped} in the shipped binary"

    def _one_by_one(self, section: Section, several: bool) -> None:
        """Look up each symbol of a section that is found nowhere, or at several places."""
        for symbol in self._symbols[section.index]:
            found = self.shipped.named(symbol.name)
            same = [f for f in found if f.size == symbol.st_size and f.type == symbol.type]
            if len(found) == 1 and same:
                self.singles[symbol.index] = same[0].place
            elif not several and symbol.bind != STB.WEAK:
                self._differ(section, symbol.st_value, self._instead(symbol))

    def _result(self) -> Fidelity:
        located: dict[str, Located] = {}
        doubtful = {difference.symbol for difference in self.differences}
        proven = set()
        for symbol in self.plain.symbol_list:
            if not symbol.name or symbol.type in (STT.SECTION, STT.FILE):
                continue
            base = self.bases.get(symbol.st_shndx) if symbol.is_defined else None
            if base is not None:
                place, proof = base + symbol.st_value, Proof.SECTION
                if symbol.name not in doubtful:
                    proven.add(symbol.name)
            elif symbol.index in self.undefined:
                place, proof = self.undefined[symbol.index], Proof.REFERENCE
            elif symbol.index in self.singles:
                place, proof = self.singles[symbol.index], Proof.NAME
            elif not symbol.is_defined and symbol.name not in self.imported:
                if symbol.name in self.shipped.imports:
                    self.imported.add(symbol.name)
                    continue
                linked = [found for found in self.shipped.named(symbol.name) if found.is_global]
                if len(linked) != 1:
                    continue
                place, proof = linked[0].place, Proof.LINK
            else:
                continue
            same = [f.index for f in self.shipped.named(symbol.name) if f.place == place]
            index = same[0] if same else None
            located[symbol.name] = Located(symbol.name, place, index, proof)
        return Fidelity(
            located, frozenset(self.imported), frozenset(proven), tuple(self.differences)
        )


def _called(symbol: Symbol, plain: ElfFile) -> str:
    if symbol.name:
        return symbol.name
    return plain.sections[symbol.st_shndx].name if symbol.is_defined else "nothing"
