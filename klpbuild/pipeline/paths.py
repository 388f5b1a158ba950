"""Names of the files that a build writes for one livepatch and one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klpbuild.graph.formats import possible_formats
from klpbuild.pipeline.extracted import RECORD
from klpbuild.report.names import INPUTS, SUFFIXES

#: Also marks a kernel's directory of outputs, whose directories are those of livepatches.
SYMBOLS = "symbols.klp"
#: A livepatch's result, in its directory of outputs.
RESULT = "result.json"

#: Objects that klpbuild makes itself; the user's of these names are in another directory.
_MADE = ("tables", "inputs")


@dataclass(frozen=True)
class Paths:
    """Paths of the files that are written for one livepatch and one kernel.

    :ivar directory: the kernel's directory of outputs.
    :ivar name: the module's name, ``livepatch-NAME``.
    :ivar symbols: the kernel's symbols.klp.
    """

    directory: Path
    name: str
    symbols: Path

    @classmethod
    def below(cls, directory: Path, name: str) -> Paths:
        """Make the paths of a livepatch, with symbols.klp beside them."""
        return cls(directory, name, directory / SYMBOLS)

    @property
    def work(self) -> Path:
        """The livepatch's own directory: what lies between two steps."""
        return self.directory / self.name

    @property
    def record(self) -> Path:
        """The record of what was extracted from patched objects."""
        return self.work / RECORD

    @property
    def tables(self) -> Path:
        """The C source with the tables that the kernel reads."""
        return self.work / "tables.c"

    @property
    def inputs(self) -> Path:
        """The object that carries the digest of the inputs."""
        return self.work / "inputs.o"

    @property
    def inputs_list(self) -> Path:
        """The list of the inputs, for the steps that follow."""
        return self.work / INPUTS

    @property
    def linked(self) -> Path:
        """The module before its conversion."""
        return self.work / "linked" / self.module.name

    @property
    def dependencies(self) -> Path:
        """The list of the kernel's objects whose symbols the module uses."""
        return self.work / "dependencies"

    @property
    def module(self) -> Path:
        """The finished module."""
        return self.directory / f"{self.name}.ko"

    @property
    def relocations(self) -> Path:
        """The report of how each reference was resolved."""
        return self.work / "relocations.json"

    @property
    def result(self) -> Path:
        """The report of `klpbuild.check` on the module, see `klpbuild.request.matrix.Result`."""
        return self.work / RESULT

    @property
    def digest(self) -> Path:
        """The digest of the module that was checked."""
        return self.work / "sha256"

    @property
    def graphs(self) -> tuple[Path, ...]:
        """The reference graph, in each format that this machine can write."""
        return tuple(self.directory / f"{self.name}.{kind}" for kind in possible_formats())

    @property
    def documents(self) -> tuple[Path, ...]:
        """Provenance, bill of materials and report page."""
        return tuple(self.directory / f"{self.name}{suffix}" for suffix in SUFFIXES)

    @property
    def left_out(self) -> Path:
        """The record of parts of C files that are left out, see `Failed` in `build`."""
        return self.work / "left-out.json"

    def part(self, name: str) -> Path:
        """Name the directory with what is made of a part's C files."""
        return self.work / "parts" / name

    def conditions(self, part: str) -> Path:
        """Name the file that says which functions a part with a list replaces."""
        return self.part(part) / "conditions.i"

    def calls(self, part: str) -> Path:
        """Name the C file that calls the functions of a part with a list."""
        return self.part(part) / "calls" / "calls.c"

    def object_of(self, source: Path, part: str = "") -> Path:
        """Name the object of a C source, the user's or `tables`.

        :param part: the part of the livepatch that it belongs to.
        """
        if part:
            return self.part(part) / f"{source.stem}.o"
        users_own = source.stem in _MADE and source.parent != self.work
        return self.work / ("sources" if users_own else "") / f"{source.stem}.o"
