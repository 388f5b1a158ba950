"""Compare the original with the patched object: changed functions, data and tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from klpbuild.elf.constants import SHF
from klpbuild.extract.atoms import Atom, Literal, Reference
from klpbuild.extract.correlate import Correlation, Identities
from klpbuild.extract.names import cold_parent
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.sections import Memory, SectionKind, is_init, memory_of
from klpbuild.extract.special import Tables


@dataclass(frozen=True)
class Changes:
    """Differences between the two objects, each described.

    :ivar functions: changed functions and other code of the patched object.
    :ivar data: changed variables of the patched object that the original has.
    :ivar new: functions of the patched object that the original does not have.
    :ivar folded: functions that differ and are one with others in one of the objects.
    :ivar removed: functions of the original that the patched object does not have.
    :ivar are_equal: tells whether a function of the original and one of the patched object do
        the same.
    """

    are_equal: Callable[[Atom, Atom], bool]

    functions: dict[Atom, str] = field(default_factory=dict)
    data: dict[Atom, str] = field(default_factory=dict)
    new: list[Atom] = field(default_factory=list)
    folded: dict[Atom, str] = field(default_factory=dict)
    removed: list[Atom] = field(default_factory=list)


def compare(
    correlation: Correlation,
    original_tables: Tables,
    patched_tables: Tables,
    known: Collection[str] = (),
) -> Changes:
    """Compare all twins: bytes, what references lead to, table entries.

    Not a change: line numbers in bug tables, strings and constants that moved, numbers
    in the names of static variables and clones.

    :param known: names of functions that change though these two objects do not show it.
    """
    comparison = _Comparison(correlation, original_tables, patched_tables)
    changes = Changes(lambda old, new: not comparison.difference(old, new))
    for atom in correlation.patched.atoms:
        if atom.kind is SectionKind.METADATA:
            continue
        twin = correlation.to_original.get(atom)
        if twin is None:
            if atom.is_function and correlation.is_new(atom):
                changes.new.append(atom)
            continue
        difference = comparison.difference(twin, atom)
        if not difference and twin.is_function and twin.name in known:
            difference = "it differs when it is compiled as the kernel is"
        if difference and atom.kind is SectionKind.CODE:
            changes.functions[atom] = difference
        elif difference:
            changes.data[atom] = difference
    for atom in correlation.original.atoms:
        left = atom.name in correlation.ties.left
        if atom.is_function and atom not in correlation.to_patched and not left:
            changes.removed.append(atom)
    _spread(correlation, changes)
    for old, atom in correlation.folded:
        others = (atom, correlation.to_patched.get(old))
        known = [changes.functions[other] for other in others if other in changes.functions]
        found = comparison.difference(old, atom)
        if found or known:
            changes.folded[atom] = found or known[0]
    return changes


class _Comparison:
    def __init__(
        self, correlation: Correlation, original_tables: Tables, patched_tables: Tables
    ) -> None:
        self.original, self.patched = correlation.original, correlation.patched
        self.tables = original_tables, patched_tables
        self.identities = Identities(correlation)

    def difference(self, original: Atom, patched: Atom) -> str:
        """Describe the first difference of two twins, empty if there is none."""
        old_code, new_code = self.original.contents(original), self.patched.contents(patched)
        if patched.kind is SectionKind.DATA and len(original) != len(patched):
            return f"its size was {len(original)} bytes and is {len(patched)}"
        olds, news = self.original.references(original), self.patched.references(patched)
        for old, new in zip(olds, news, strict=False):
            if self.identities.reference(False, old) != self.identities.reference(True, new):
                if old.offset == new.offset and old_code[: old.offset] == new_code[: new.offset]:
                    return f"{_at(old.offset, original)} refers to {self._other(old, new)}"
                break
        if old_code != new_code:
            return f"{_at(_first_difference(old_code, new_code), original)} differs"
        old_meaning, new_meaning = (
            {self.identities.reference(patched, r): r.offset for r in references}
            for patched, references in ((False, olds), (True, news))
        )
        if old_meaning != new_meaning:
            offset = min(offset for _, offset in old_meaning.items() ^ new_meaning.items())
            return f"{_at(offset, original)} differs"
        before = self.tables[0].meaning(original, self.identities, False)
        after = self.tables[1].meaning(patched, self.identities, True)
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                return f"an entry of {name} differs"
        if patched.kind is SectionKind.DATA and _is_reached_otherwise(original, patched):
            return f"it moved from {original.section.name} to {patched.section.name}"
        return ""

    def _other(self, old: Reference, new: Reference) -> str:
        """Describe what a reference leads to now and led to before."""
        former, present = _named(self.original, old), _named(self.patched, new)
        if former != present:
            return f"{present} instead of {former}"
        same = self.identities.target(False, old)[0] == self.identities.target(True, new)[0]
        if same:
            return f"another place in {present}"
        return f"another {present.removeprefix('a ')}"


def _is_reached_otherwise(original: Atom, patched: Atom) -> bool:
    """Tell whether a variable moves to memory that is reached or protected in another way."""
    old, new = memory_of(original.section), memory_of(patched.section)
    if is_init(original.section.name) != is_init(patched.section.name):
        return True
    if Memory.PER_CPU in (old, new):
        return old is not new
    return old in (Memory.READ_ONLY, Memory.AFTER_INIT) and new is Memory.ORDINARY


def _first_difference(old: bytes, new: bytes) -> int:
    for i, (a, b) in enumerate(zip(old, new, strict=False)):
        if a != b:
            return i
    return min(len(old), len(new))


def _at(offset: int, atom: Atom) -> str:
    what = "code" if atom.kind is SectionKind.CODE else "content"
    return f"{what} at +{offset - (atom.entry - atom.start):#x}"


def _named(code: CodeObject, reference: Reference) -> str:
    target = reference.target
    if isinstance(target, Literal):
        is_text = code.elf.sections[target.section].sh_flags & SHF.STRINGS
        text = target.content.rstrip(b"\0").decode(errors="replace")
        return repr(text) if is_text else "a constant"
    if target is not None:
        return target.name
    return code.elf.symbol_list[reference.symbol].name


def families(code: CodeObject) -> dict[Atom, frozenset[Atom]]:
    """Group the pieces of code that only work together: a function and its cold parts.

    They belong together by name, and where one jumps into the middle of another.
    """
    parent: dict[Atom, Atom] = {}

    def root(atom: Atom) -> Atom:
        while parent.get(atom, atom) is not atom:
            atom = parent[atom]
        return atom

    by_name = {symbol.name: a for a in code.atoms if a.is_function for symbol in a.symbols}
    for atom in code.atoms:
        if not atom.is_function:
            continue
        name = cold_parent(atom.name)
        if name in by_name:
            parent[root(atom)] = root(by_name[name])
        for reference in code.references(atom):
            target = reference.target
            if not isinstance(target, Atom) or not target.is_function or target is atom:
                continue
            if code.is_branch(atom, reference) and reference.addend != -code.instructions.behind:
                parent[root(atom)] = root(target)
    found: dict[Atom, set[Atom]] = defaultdict(set)
    for atom in code.atoms:
        if atom.is_function:
            found[root(atom)].add(atom)
    return {atom: frozenset(members) for members in found.values() for atom in members}


def _spread(correlation: Correlation, changes: Changes) -> None:
    """Mark a function as changed when another member of its family is."""
    olds, news = families(correlation.original), families(correlation.patched)
    for atom, family in news.items():
        twin = correlation.to_original.get(atom)
        if twin is None or atom in changes.functions:
            continue
        cause = next((m for m in family if m in changes.functions), None)
        if cause is not None:
            changes.functions[atom] = f"its part {cause.name} changed"
            continue
        before = {correlation.to_patched.get(m) for m in olds[twin]}
        if len(family) > 1 and before != set(family):
            changes.functions[atom] = "it is split into other parts"
