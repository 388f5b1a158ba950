"""Which atom of the patched object is which atom of the original one.

Compilers number static variables and clones anew in every compilation, so a name alone
does not tell.  What cannot be told is left ambiguous: a livepatch that uses it is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from klpbuild.extract.names import base_name, is_special_static, source_name, static_number
from klpbuild.extract.objects import Atom, CodeObject, Literal, Reference
from klpbuild.extract.sections import SectionKind


@dataclass(frozen=True)
class Correlation:
    """Twins of two objects.

    :ivar original: the original object.
    :ivar patched: the patched object.
    :ivar to_original: the original twin of a patched atom.
    :ivar to_patched: the patched twin of an original atom.
    :ivar folded: pairs of functions that are one in one object and several in the other,
        as identical code folding leaves them; `to_original` holds one of each.
    :ivar ambiguous: patched variables that may or may not be one of the original's, each
        with the reason.
    """

    original: CodeObject
    patched: CodeObject
    to_original: dict[Atom, Atom] = field(default_factory=dict)
    to_patched: dict[Atom, Atom] = field(default_factory=dict)
    folded: list[tuple[Atom, Atom]] = field(default_factory=list)
    ambiguous: dict[Atom, str] = field(default_factory=dict)

    def pair(self, original: Atom, patched: Atom) -> None:
        """Make two atoms twins."""
        self.to_original[patched] = original
        self.to_patched.setdefault(original, patched)


def correlate(original: CodeObject, patched: CodeObject) -> Correlation:
    """Find the twins.

    Functions and variables go by name; clones by name without numbers where that is
    unique; static variables of functions by the functions that use them and their order;
    those that are read only by content, since one is then as good as another.
    """
    result = Correlation(original, patched)
    _by_name(result)
    _by_base_name(result)
    statics = _Statics(result)
    statics.writable()
    statics.read_only()
    return result


def _is_copied(atom: Atom) -> bool:
    return not atom.symbols or is_special_static(atom.name)


def _is_static_local(atom: Atom) -> bool:
    return (
        atom.kind is SectionKind.DATA
        and not atom.is_global
        and static_number(atom.name) is not None
    )


def _by_name(result: Correlation) -> None:
    known: dict[tuple[SectionKind, str], list[Atom]] = defaultdict(list)
    for atom in result.original.atoms:
        if not _is_copied(atom) and not _is_static_local(atom):
            for symbol in atom.symbols:
                known[atom.kind, symbol.name].append(atom)
    for atom in result.patched.atoms:
        if _is_copied(atom) or _is_static_local(atom):
            continue
        for symbol in atom.symbols:
            namesakes = known[atom.kind, symbol.name]
            free = [a for a in namesakes if a not in result.to_patched]
            if atom not in result.to_original and (free or namesakes):
                result.pair((free or namesakes)[0], atom)
                if free:
                    continue
            twin = result.to_original.get(atom)
            if namesakes and (twin not in namesakes or result.to_patched[twin] is not atom):
                result.folded.append((namesakes[0], atom))


def _unpaired(
    atoms: Iterable[Atom], paired: dict[Atom, Atom]
) -> dict[tuple[SectionKind, str], list[Atom]]:
    found: dict[tuple[SectionKind, str], list[Atom]] = defaultdict(list)
    for atom in atoms:
        if atom not in paired and not _is_copied(atom) and not _is_static_local(atom):
            found[atom.kind, base_name(atom.name)].append(atom)
    return found


def _by_base_name(result: Correlation) -> None:
    originals = _unpaired(result.original.atoms, result.to_patched)
    patched = _unpaired(result.patched.atoms, result.to_original)
    for key, atoms in patched.items():
        twins = originals.get(key, [])
        if key[0] is SectionKind.METADATA or len(atoms) == len(twins) == 1:
            for twin, atom in zip(twins, atoms, strict=False):
                result.pair(twin, atom)


class _Statics:
    """Static variables of functions."""

    def __init__(self, result: Correlation) -> None:
        self.result = result
        self.users_original = self._users(result.original)
        self.users_patched = self._users(result.patched)

    @staticmethod
    def _users(code: CodeObject) -> dict[Atom, frozenset[str]]:
        """The functions, by their names in the source, that refer to each static variable."""
        found: dict[Atom, set[str]] = defaultdict(set)
        for atom in code.atoms:
            if atom.kind is SectionKind.METADATA:
                continue
            for reference in code.references(atom):
                if isinstance(reference.target, Atom) and _is_static_local(reference.target):
                    found[reference.target].add(source_name(atom.name))
        return {atom: frozenset(users) for atom, users in found.items()}

    def _groups(self, code: CodeObject, writable: bool) -> dict[str, list[Atom]]:
        found: dict[str, list[Atom]] = defaultdict(list)
        for atom in code.atoms:
            if _is_static_local(atom) and not _is_copied(atom) and atom.is_writable is writable:
                found[base_name(atom.name)].append(atom)
        for atoms in found.values():
            atoms.sort(key=lambda a: static_number(a.name) or 0)
        return found

    def writable(self) -> None:
        """Pair those that hold state: the livepatch must use the kernel's own."""
        originals = self._groups(self.result.original, True)
        for name, patched in self._groups(self.result.patched, True).items():
            self._pair_group(originals.get(name, []), patched)

    def _pair_group(self, originals: list[Atom], patched: list[Atom]) -> None:
        by_users: dict[frozenset[str], tuple[list[Atom], list[Atom]]]
        by_users = defaultdict(lambda: ([], []))
        for atom in originals:
            by_users[self.users_original.get(atom, frozenset())][0].append(atom)
        for atom in patched:
            by_users[self.users_patched.get(atom, frozenset())][1].append(atom)
        for olds, news in by_users.values():
            if len(olds) == len(news):
                for old, new in zip(olds, news, strict=True):
                    self.result.pair(old, new)
        olds = [a for a in originals if a not in self.result.to_patched]
        news = [a for a in patched if a not in self.result.to_original]
        for new in news:
            self._settle(new, olds, news)

    def _settle(self, new: Atom, olds: list[Atom], news: list[Atom]) -> None:
        """Pair a variable whose users changed, call it new, or leave it ambiguous."""
        users = self.users_patched.get(new, frozenset())
        candidates = [old for old in olds if self._may_be(old, users)]
        if not candidates:
            return
        rivals = [
            other
            for other in news
            if self._may_be(candidates[0], self.users_patched.get(other, frozenset()))
        ]
        old_users = self.users_original.get(candidates[0], frozenset())
        likely = bool(users & old_users) or not old_users & self._patched_functions
        if len(candidates) == len(rivals) == 1 and likely:
            self.result.pair(candidates[0], new)
            return
        names = ", ".join(old.name for old in candidates)
        self.result.ambiguous[new] = f"These of the original have its name: {names}."

    def _may_be(self, old: Atom, users: frozenset[str]) -> bool:
        """Whether a variable with these users may be an original one.

        It may if they share a user, or if a user of the original is gone: inlined into a
        user of the patched one, perhaps.
        """
        old_users = self.users_original.get(old, frozenset())
        return bool(old_users & users) or not old_users <= self._patched_functions

    @property
    def _patched_functions(self) -> frozenset[str]:
        if not hasattr(self, "_functions"):
            self._functions = frozenset(
                source_name(a.name) for a in self.result.patched.atoms if a.is_function
            )
        return self._functions

    def read_only(self) -> None:
        """Pair those that nothing writes with one of the same name and content."""
        identities = Identities(self.result)
        originals: dict[Hashable, list[Atom]] = defaultdict(list)
        for name, atoms in self._groups(self.result.original, False).items():
            for atom in atoms:
                originals[name, identities.of_original(atom, by_content=True)].append(atom)
        for name, atoms in self._groups(self.result.patched, False).items():
            for atom in atoms:
                twins = originals.get((name, identities.of_patched(atom, by_content=True)))
                if twins:
                    self.result.pair(twins.pop(0) if len(twins) > 1 else twins[0], atom)


class Identities:
    """What a reference leads to, said so that it can be compared between the two objects."""

    def __init__(self, correlation: Correlation) -> None:
        self.correlation = correlation
        self._contents: dict[tuple[bool, Atom], Hashable] = {}

    def of_original(self, atom: Atom, by_content: bool = False) -> Hashable:
        """The identity of an atom of the original object."""
        if atom in self.correlation.to_patched and not by_content:
            return atom.index
        if not by_content and atom.symbols and not is_special_static(atom.name):
            return ("original", atom.index)
        return self._content(False, atom)

    def of_patched(self, atom: Atom, by_content: bool = False) -> Hashable:
        """The identity of an atom of the patched object: its twin's, if it has one."""
        twin = self.correlation.to_original.get(atom)
        if twin is not None and not by_content:
            return twin.index
        if not by_content and atom.symbols and not is_special_static(atom.name):
            return ("patched", atom.index)
        return self._content(True, atom)

    def _content(self, patched: bool, atom: Atom) -> Hashable:
        key = patched, atom
        if key not in self._contents:
            self._contents[key] = ("itself", base_name(atom.name))  # while it is being read
            code = self.correlation.patched if patched else self.correlation.original
            name = base_name(atom.name) if atom.symbols else ""
            # a descriptor of pr_debug holds its line number, and else only what it refers to
            content = b"" if name == "__UNIQUE_ID_ddebug" else code.contents(atom)
            references = tuple(self.reference(patched, r) for r in code.references(atom))
            self._contents[key] = (name, content, references)
        return self._contents[key]

    def reference(self, patched: bool, reference: Reference) -> Hashable:
        """A reference: where it stands, its type, what it leads to and the addend."""
        return (reference.offset, reference.type, *self.target(patched, reference))

    def target(self, patched: bool, reference: Reference) -> tuple[Hashable, int]:
        """What a reference leads to, and the addend."""
        target = reference.target
        if isinstance(target, Literal):
            return target.content, reference.addend
        if target is not None:
            identity = self.of_patched(target) if patched else self.of_original(target)
            return identity, reference.addend
        code = self.correlation.patched if patched else self.correlation.original
        return code.elf.symbol_list[reference.symbol].name, reference.addend
