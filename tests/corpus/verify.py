"""A second opinion on built livepatches.

Each function in a module is compared with the one that the compiler made of the patched
source: the same bytes, and each reference leads to what has the same name, at the same
distance, or to a copy with the same content.  No copy may hold state that the running
kernel has.  Nothing of klpbuild's extraction is used for it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from elftools.elf.constants import SH_FLAGS

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX
from klpbuild.pipeline.extracted import RECORD, Extracted
from tests.corpus.objects import LIVEPATCH_SYMBOL, Object, Piece

_NUMBERS = re.compile(r"(\.\d+)+$|(?<=__UNIQUE_ID_ddebug)_?\d+(\.\d+)?$")
#: Code of alternatives that many functions share a section for, and how much of it is compared.
_OUT_OF_LINE, _LOOK = ".altinstr_aux", 8
#: Directories of objects that are compiled to prove something.
_ASIDE = re.compile(r"^pair/(asking|grown|some-\d+|whole)/")
_SUFFIX = re.compile(r"\.livepatch\d+$")
#: State that a copy may begin anew: warnings that come once, rate limits, debug messages.
_FRESH = re.compile(
    r"(__warned|__already_done|__print_once|_rs|__key|descriptor|__UNIQUE_ID_ddebug"
    r"|__func__|__msg|CSWTCH|_entry|_entry_ptr)$"
)


@dataclass
class Verdict:
    """What was compared, and what is not as it should be.

    :ivar positions: livepatch symbols whose name the kernel has more than once.
    """

    functions: int = 0
    references: int = 0
    positions: int = 0
    problems: list[str] = field(default_factory=list)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.functions + other.functions,
            self.references + other.references,
            self.positions + other.positions,
            self.problems + other.problems,
        )


def verify(module: Path, work: Path, shipped: Shipped) -> Verdict:
    """Compare a built module with what the compiler made of the patched source.

    :param work: the livepatch's directory of outputs, with all intermediate files.
    """
    verdict = Verdict()
    built = Object(module)
    shipped.check_positions(built, work, verdict)
    extracted = Extracted.read(work / RECORD)
    objects = {}
    for path in extracted.objects:
        number, _, stem = path.name.removesuffix(".named.o").partition("-")
        asks = any(f"{stem}.o: asks static keys" in line for line in extracted.report)
        compiled = (work / "pair/asking" if asks else work / "pair").rglob(f"{stem}.patched.o")
        (patched,) = (p for p in compiled if asks or not _ASIDE.search(str(p.relative_to(work))))
        objects[number] = stem, Object(patched)
    for number, (stem, code) in objects.items():
        owners = [
            patched.name
            for patched in extracted.functions
            if any(f.new.endswith(f".livepatch{number}") for f in patched.functions)
        ]
        state = shipped.state(owners[0], stem) if owners else frozenset()
        others = frozenset(
            name for _, other in objects.values() if other is not code for name in other.pieces
        )
        comparison = _Comparison(built, code, state, others, verdict)
        if owners:
            comparison.replacing(number)
        else:
            comparison.added()
    return verdict


class Shipped:
    """Where the kernel's own files say that a symbol is from."""

    def __init__(self, vmlinux: Path, system_map: Path, debug_modules: Path) -> None:
        self._modules = {path.stem.replace("-", "_"): path for path in debug_modules.rglob("*.ko")}
        self._files: dict[str, dict[str, list[str]]] = {}
        self._vmlinux = vmlinux
        self._addresses: dict[str, list[int]] = defaultdict(list)
        for line in system_map.read_text().splitlines():
            address, _, name = line.split(" ")
            self._addresses[name].append(int(address, 16))

    @classmethod
    def of(cls, kernel: Kernel) -> Shipped:
        """:raises KlpError: when the kernel's debug symbols are not at hand."""
        if not (kernel.vmlinux and kernel.system_map and kernel.debug_modules):
            raise KlpError("the kernel's debug symbols are not at hand", where=kernel.name)
        return cls(kernel.vmlinux, kernel.system_map, kernel.debug_modules)

    def files(self, owner: str, name: str) -> list[str]:
        """The source file of each symbol of a name, in the order of its positions.

        A local symbol stands behind the STT_FILE symbol of its source; a global one's is "".
        """
        if owner not in self._files:
            self._files[owner] = self._read(owner)
        return self._files[owner].get(name, [])

    def state(self, owner: str, source: str) -> frozenset[str]:
        """The plain names of what a source file brings to the kernel, and of all globals."""
        self.files(owner, "")
        return frozenset(
            plain(name)
            for name, files in self._files[owner].items()
            if {file.split(".")[0] for file in files} & {source, ""}
        )

    def _read(self, owner: str) -> dict[str, list[str]]:
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        source = ""
        code = Object(self._vmlinux if owner == VMLINUX else self._modules[owner])
        for number, symbol in enumerate(code.symbols):
            if symbol["st_info"]["type"] == "STT_FILE":
                source = symbol.name
            elif symbol.name and symbol["st_shndx"] != "SHN_UNDEF":
                is_local = symbol["st_info"]["bind"] == "STB_LOCAL"
                place = symbol["st_value"] if owner == VMLINUX else number
                if owner != VMLINUX or place in self._addresses[symbol.name]:
                    found[symbol.name].append((place, source if is_local else ""))
        return {name: [file for _, file in sorted(rows)] for name, rows in found.items()}

    def check_positions(self, built: Object, work: Path, verdict: Verdict) -> None:
        """Whether each position is that of a global, or of a symbol of the patched sources."""
        sources = {path.name.split(".")[0] for path in (work / "pair").rglob("*.patched.o")}
        for symbol in built.symbols:
            match = LIVEPATCH_SYMBOL.match(symbol.name)
            if match is None:
                continue
            files = self.files(match["owner"], match["name"])
            position = int(match["position"])
            fits = len(files) == 1 if position == 0 else position <= len(files)
            if not fits or not {files[max(position, 1) - 1].split(".")[0]} & {*sources, ""}:
                verdict.problems.append(f"{symbol.name}: the kernel has {files}")
            verdict.positions += position > 0


def plain(name: str) -> str:
    """A name without the numbers that differ between any two compilations."""
    return _NUMBERS.sub("", _SUFFIX.sub("", name))


@dataclass
class _Comparison:
    built: Object
    patched: Object
    state: frozenset[str]
    others: frozenset[str]
    verdict: Verdict
    seen: set[Piece] = field(default_factory=set)

    def added(self) -> None:
        """Compare what a new file brings, under its own names."""
        names = self.built.pieces.keys() & self.patched.pieces.keys()
        if not names:
            self.verdict.problems.append(f"{self.patched.elf.stream.name}: nothing is added")
        for name in sorted(names):
            self.piece(name, self.built.pieces[name])

    def replacing(self, number: str) -> None:
        """Compare each function that the object gives to the module, and what it needs."""
        suffix = f".livepatch{number}"
        # objtool adds __pfx_ symbols for the padding before functions
        names = [
            name
            for name in self.built.pieces
            if name.endswith(suffix) and not name.startswith("__pfx_")
        ]
        if not names:
            self.verdict.problems.append(f"{self.patched.elf.stream.name}: nothing is replaced")
        for name in names:
            self.piece(name.removesuffix(suffix), self.built.pieces[name])

    def piece(self, name: str, here: Piece) -> None:
        """Compare a function or variable of the module with the patched object's."""
        if here in self.seen:
            return
        self.seen.add(here)
        there = self.patched.pieces.get(name)
        if there is None and name in self.others:  # compared with the object that has it
            return
        if there is None:
            self.verdict.problems.append(f"{name}: not in the patched object")
            return
        self._check_state(name, here)
        is_code = self.built.sections[here.section]["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
        self.verdict.functions += bool(is_code)
        if self._masked(self.built, here) != self._masked(self.patched, there):
            self.verdict.problems.append(f"{name}: other bytes")
        self._references(name, here, there)

    def _check_state(self, name: str, here: Piece) -> None:
        section = self.built.sections[here.section]
        if not section["sh_flags"] & SH_FLAGS.SHF_WRITE or _FRESH.search(plain(name)):
            return
        if plain(name) in self.state:
            self.verdict.problems.append(f"{name}: a copy of state that the kernel has")

    def _masked(self, code: Object, piece: Piece) -> bytes:
        data = bytearray(code.bytes_of(piece))
        for section, offset in code.jump_labels:
            if section == piece.section and piece.start <= offset < piece.start + piece.size:
                at = offset - piece.start
                short = data[at] == 0xEB or data[at : at + 2] == b"\x66\x90"
                data[at : at + (2 if short else 5)] = bytes(2 if short else 5)
        return bytes(data)

    def _references(self, name: str, here: Piece, there: Piece) -> None:
        ours, theirs = self.built.references(here), self.patched.references(there)
        labels = self.patched.jump_labels
        for at in sorted(ours.keys() | theirs.keys()):
            one, other = ours.get(at), theirs.get(at)
            where = f"{name}+{at:#x}"
            if one is None or other is None:
                # objtool makes no-operations of the entry call and of a switched jump
                known = other is not None and other.name == "__fentry__"
                if not known and (there.section, there.start + at - 1) not in labels:
                    self.verdict.problems.append(f"{where}: {one} and {other}")
                continue
            self.verdict.references += 1
            if one.content or other.content:
                if one.content != other.content:
                    self.verdict.problems.append(f"{where}: {one.content!r}, {other.content!r}")
                continue
            if one.name == other.name == _OUT_OF_LINE and one.place and other.place:
                ends = [Piece(place[0], place[1], _LOOK) for place in (one.place, other.place)]
                if self.built.bytes_of(ends[0]) != self.patched.bytes_of(ends[1]):
                    self.verdict.problems.append(f"{where}: other code out of line")
                continue
            if plain(one.name) != plain(other.name) or one.offset != other.offset:
                self.verdict.problems.append(f"{where}: {one} and {other}")
                continue
            if one.place is not None:
                self._follow(one.name, other.name, one.place)

    def _follow(self, name: str, there: str, place: tuple[int, int]) -> None:
        """Compare a copy that the module brings, too."""
        piece = self.built.pieces.get(name)
        if piece is not None and piece.section == place[0]:
            self.piece(there, piece)
            return
        # a table of jumps or a constant without a symbol: the whole section
        section = self.built.sections[place[0]]
        index = next(
            (i for i, s in enumerate(self.patched.sections) if s.name == section.name), None
        )
        here = Piece(place[0], 0, section["sh_size"])
        if here in self.seen or index is None:
            if index is None:
                self.verdict.problems.append(f"{section.name}: not in the patched object")
            return
        self.seen.add(here)
        other = Piece(index, 0, self.patched.sections[index]["sh_size"])
        if self._masked(self.built, here) != self._masked(self.patched, other):
            self.verdict.problems.append(f"{section.name}: other bytes")
        self._references(section.name, here, other)
