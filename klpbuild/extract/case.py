"""State of one object's extraction: both versions, references between functions, problems."""

from __future__ import annotations

from collections import defaultdict

from klpbuild.arch import Architecture
from klpbuild.errors import Problem, Problems
from klpbuild.extract.atoms import Atom
from klpbuild.extract.changes import Changes, families
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.part import Part
from klpbuild.names import VMLINUX


class Case:
    """State of one object's extraction.

    :ivar functions: changed functions with what differs; decisions may add to them.
    :ivar accepted_data: names of variables whose content, type or name may change.
    :ivar written: those of them of which callbacks write what changes.
    :ivar startup: changed ``__init`` code and data, with the refusal if anything depends on it.
    :ivar where: what messages call the object, ``source:object``.
    :ivar in_module: whether the object is part of a module.
    :ivar original_tables: the tables of the original object.
    :ivar patched_tables: those of the patched one.
    :ivar families: pieces of the patched object's code that only work together.
    :ivar users_original: which atoms of the original refer to one.
    :ivar users_patched: which atoms of the patched object refer to one.
    :ivar notices: what the user should know and is no fault.
    """

    def __init__(self, part: Part, changes: Changes, arch: Architecture) -> None:
        self.correlation, self.changes, self.arch = part.correlation, changes, arch
        self.original, self.patched = self.correlation.original, self.correlation.patched
        self.where = part.where
        self.original_tables, self.patched_tables = part.old.tables, part.new.tables
        self.in_module = part.owner != VMLINUX
        self.functions = dict(changes.functions)
        self.accepted_data = part.accepted_data
        self.written: list[Atom] = []
        self.startup: dict[Atom, Problem] = {}
        self.families = families(self.patched)
        self.users_original = _users(self.original)
        self.users_patched = _users(self.patched)
        self.problems = Problems()
        self.notices: list[str] = []

    def refuse(self, what: str, atom: Atom | None = None, *, why: str, hint: str = "") -> None:
        """Record why the patch cannot be a livepatch, and go on."""
        self.problems.add(what, where=self.place(atom), why=why, hint=hint)

    def refuse_startup(self, what: str, atom: Atom, *, why: str, hint: str) -> None:
        """Record why ``__init`` code or data cannot be part of a livepatch, to be decided later."""
        self.startup[atom] = Problem(what, self.place(atom), why, hint)

    def place(self, atom: Atom | None) -> str:
        """Name where an atom is, for messages."""
        return f"{self.where}:{atom.name}" if atom is not None else self.where

    def twin(self, atom: Atom) -> Atom | None:
        """Look up the original twin of an atom of the patched object."""
        return self.correlation.to_original.get(atom)

    def users(self, atom: Atom) -> set[Atom]:
        """List atoms of the patched object that refer to one, or whose twins refer to its twin."""
        twin = self.twin(atom)
        olds = self.users_original[twin] if twin is not None else set()
        twins = self.correlation.to_patched
        return self.users_patched[atom] | {twins[old] for old in olds if old in twins}

    def both(self, atom: Atom) -> tuple[tuple[CodeObject, Atom, set[Atom]], ...]:
        """Return an atom that has a twin, and that twin, each with its object and its users."""
        twin = self.correlation.to_original[atom]
        return (
            (self.original, twin, self.users_original[twin]),
            (self.patched, atom, self.users_patched[atom]),
        )


def _users(code: CodeObject) -> dict[Atom, set[Atom]]:
    found: dict[Atom, set[Atom]] = defaultdict(set)
    for atom in code.atoms:
        for reference in code.references(atom):
            if isinstance(reference.target, Atom):
                found[reference.target].add(atom)
    return found
