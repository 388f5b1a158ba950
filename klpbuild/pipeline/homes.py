"""Find the kernel's objects that patched objects are part of, and their functions there."""

from __future__ import annotations

from dataclasses import dataclass, field

from klpbuild.compiler.log import BuildLog
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError, Problems
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.result import ChangedFunction, Extraction
from klpbuild.extract.sizes import EntrySizes
from klpbuild.kernel.accepting import HINT, WHY
from klpbuild.kernel.threads import Threads
from klpbuild.kernel.tree import Kernel
from klpbuild.module.livepatch import Function
from klpbuild.patch.pair import CompiledPatch, ObjectPair
from klpbuild.proof.fidelity import Fidelity, prove
from klpbuild.proof.references import Home
from klpbuild.proof.shipped import shipped_file
from klpbuild.proof.staying import may_stay
from klpbuild.resolve.fate import Resolver
from klpbuild.symbols.database import Candidate
from klpbuild.symbols.entries import EntryPoints


@dataclass(frozen=True)
class Homes:
    """The objects of the kernel that a patch's objects are part of, each proven once.

    :ivar accept_threads: functions of kernel threads that may change.
    :ivar found: by the number of the patch's object; grows.
    """

    kernel: Kernel
    compiled: CompiledPatch
    resolver: Resolver
    entries: EntryPoints
    accept_threads: tuple[str, ...]
    log: BuildLog
    found: dict[int, Home] = field(default_factory=dict)

    def is_weak(self, owner: str, name: str) -> bool | None:
        """Tell whether a global symbol of the kernel is weak, None if there is none."""
        found = self.resolver.linked(owner, name)
        return None if found is None else found.kind in "VW"

    def knows(self, owner: str, name: str) -> bool:
        """Tell whether code of an object of the kernel can use a global symbol of a name."""
        return self.resolver.owner(name, owner) != ""

    def of(self, number: int) -> Home:
        """Find and prove the object of the kernel that an object of the patch is part of.

        :param number: the object's place among the patch's.
        :raises KlpError: when it is not at hand, or not what was compiled.
        """
        if number not in self.found:
            pair = self.compiled.pairs[number]
            shipped = ElfFile.read(shipped_file(self.kernel, pair.owner))
            fidelity = prove(self.kernel, self.compiled, pair, self.log.note)
            self.found[number] = Home(pair.owner, shipped, fidelity, pair.where)
        return self.found[number]

    def places(self, pair: ObjectPair) -> set[int]:
        """List where the functions and variables of an object of the patch are in the kernel."""
        located = self.of(self.compiled.pairs.index(pair)).fidelity.located
        return {found.place for found in located.values()}

    def functions(self, extraction: Extraction) -> list[Function]:
        """Make the table entries of an object's changed functions.

        :raises KlpError: with those that the kernel cannot replace.
        """
        problems, number = Problems(), extraction.number
        found = []
        for changed in extraction.changed:
            origin = changed.origin
            home = self.of(number if origin is None or origin.part is None else origin.part)
            where = f"{home.where}:{changed.name}"
            with problems.collect():
                if origin is not None and origin.part is None:
                    candidate = self.resolver.linked(home.owner, changed.name)
                    assert candidate is not None
                else:
                    _check_proven(home.fidelity, changed.name, home, where)
                    place = home.place(changed.name)
                    candidate = self.resolver.at(changed.name, where, home.owner, place)
                if self.entries.has(home.owner, changed.name, candidate.sympos) is False:
                    raise KlpError(
                        f"function {changed.name} has no ftrace entry in the kernel",
                        where=where,
                        why="Livepatch redirects a function at its entry call; this one is "
                        "notrace, or the kernel refuses to trace it.",
                        hint="Patch the functions that call it.",
                    )
                self._check_threads(changed, home, candidate, where)
                new = new_symbol(changed.symbol, number)
                found.append(Function(changed.name, new, candidate.sympos, where))
        problems.check()
        return found

    def _check_threads(
        self, changed: ChangedFunction, home: Home, candidate: Candidate, where: str
    ) -> None:
        """Refuse a function in which a kernel thread stays, unless the author accepts it."""
        name = changed.name.partition(".")[0]  # as in the source, without .isra.0
        if name in self.accept_threads or candidate.address is None:
            return
        if how := self._thread_stays(changed, home, candidate):
            raise KlpError(
                f"changed, and a kernel thread stays in it: {how}",
                where=where,
                why=f"{WHY} ({changed.why}).",
                hint=HINT.format(function=name),
            )

    def _thread_stays(self, changed: ChangedFunction, home: Home, candidate: Candidate) -> str:
        """Explain how a kernel thread comes to stay in a function, empty if none does."""
        instructions = self.kernel.arch.instructions
        if instructions is not None and instructions.registers:
            assert candidate.address is not None
            shipped, cache = shipped_file(self.kernel, home.owner), self.kernel.cache
            return Threads.staying(shipped, candidate.section, candidate.address, cache)
        pair = next(pair for pair in self.compiled.pairs if pair.where == home.where)
        return may_stay(CodeObject(ElfFile.read(pair.original), EntrySizes()), changed.name)


def new_symbol(name: str, number: int) -> str:
    """Make the global name of a function's new version, which no other object has."""
    return f"{name}.livepatch{number}"


def _check_proven(fidelity: Fidelity, name: str, home: Home, where: str) -> None:
    difference = fidelity.difference(name)
    if difference is not None:
        raise KlpError(
            f"{name} compiled here is not the function that {home.owner} ships",
            where=where,
            why=str(difference),
            hint="Compiler, configuration or source differ from the kernel's.",
        )
