"""Find the lines of C files that errors about a linked module mean."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from klpbuild.elf.constants import STT
from klpbuild.elf.reader import ElfFile, Symbol
from klpbuild.errors import KlpError, Problem
from klpbuild.kernel.kbuild import build_environment
from klpbuild.names import AnnotatedSymbol
from klpbuild.run import run

_PLACE = re.compile(r":(?P<section>[^:+]+)\+0x(?P<offset>[0-9a-f]+)(?::[\w.]+)?")
_ANNOTATED = re.compile(r":KLP_RELOC_SYMBOL\((\w+), (\w+), ([^,)]+)\)")


@dataclass(frozen=True)
class SourcePlaces:
    """The C files of a linked module, with what the compiler made of them.

    :ivar linked: the module; its functions are where they are in the objects, but moved.
    :ivar sources: each C file and its object, with debug information.
    :ivar addr2line: the program of that name for the kernel's machine, of binutils.
    :ivar converted: what messages call the module when it is converted: all is where it was.
    """

    linked: ElfFile
    sources: Sequence[tuple[Path, Path]]
    addr2line: str
    converted: str = ""

    def name(self, error: KlpError) -> None:
        """Let the problems of an error name lines and functions instead of places in the module.

        Those stay as they are of which no line is known.
        """
        error.problems = tuple(map(self._named, error.problems))

    def _named(self, problem: Problem) -> Problem:
        rest = problem.where.removeprefix(self.converted or self.linked.name)
        rest = rest.removeprefix(self.linked.name)
        found: Iterator[tuple[Path, Path, str, int, str]] = iter(())
        if rest == problem.where:
            return problem
        if match := _PLACE.fullmatch(rest):
            found = self._in_function(match["section"], int(match["offset"], 16))
        elif match := _ANNOTATED.fullmatch(rest):
            found = self._annotated(match.groups())
        places = list(found)
        if len(places) != 1:
            return problem
        source, made, section, offset, function = places[0]
        line = self._line(source, made, section, offset)
        named = ":".join(word for word in (str(source), line, function) if word)
        return replace(problem, where=named)

    def _in_function(self, section: str, offset: int) -> Iterator[tuple[Path, Path, str, int, str]]:
        """Find a place of the module in the object that has its function or variable."""
        here = _symbol_at(self.linked, section, offset)
        if here is None:
            return
        for source, made in self.sources:
            elf = ElfFile.read(made)
            for symbol in elf.symbol_list:
                if symbol.is_defined and symbol.name == here.name and symbol.type == here.type:
                    at = symbol.st_value + offset - here.st_value
                    yield source, made, elf.sections[symbol.st_shndx].name, at, here.name

    def _annotated(
        self, parts: tuple[str | None, ...]
    ) -> Iterator[tuple[Path, Path, str, int, str]]:
        """Find the first use of an annotated symbol in each object that uses it."""
        for source, made in self.sources:
            elf = ElfFile.read(made)
            wanted = {
                symbol.index
                for symbol in elf.symbol_list
                if (read := AnnotatedSymbol.parse(symbol.name))
                and (read.gate, read.owner, read.symbol) == parts
            }
            for relocations in elf.relocation_sections if wanted else ():
                section = elf.sections[relocations.sh_info].name
                uses = [r for r in elf.relocations(relocations).tolist() if r[2] in wanted]
                if uses and not section.startswith((".debug", ".rela", "__")):
                    holder = _symbol_at(elf, section, uses[0][0])
                    yield source, made, section, uses[0][0], holder.name if holder else ""
                    break

    def _line(self, source: Path, made: Path, section: str, offset: int) -> str:
        """Ask for the number of a line of the C file; empty if it is not known, or another's."""
        command = [self.addr2line, "-e", str(made), "-j", section, hex(offset)]
        try:
            said = run(command, build_environment()).stdout.split()
        except OSError:
            return ""
        name, _, line = (said or [""])[0].rpartition(":")
        return line if posixpath.basename(name) == source.name and line.isdigit() else ""


def _symbol_at(elf: ElfFile, section: str, offset: int) -> Symbol | None:
    """Find the function or variable at a place."""
    for symbol in elf.symbol_list:
        if symbol.is_defined and symbol.type in (STT.FUNC, STT.OBJECT):
            inside = symbol.st_value <= offset < symbol.st_value + symbol.st_size
            if inside and elf.sections[symbol.st_shndx].name == section:
                return symbol
    return None
