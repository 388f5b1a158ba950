"""Match the functions and variables of the patched object with those of the original.

Compilers number static variables and clones anew in every compilation, so a name alone
does not tell.  What cannot be told is left ambiguous: a livepatch that uses it is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from klpbuild.extract.atoms import Atom, Literal, Reference
from klpbuild.extract.linkage import Origin, Ties
from klpbuild.extract.names import UBSAN, base_name, source_name, static_number
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.sections import SectionKind, is_exit, is_init

#: Size of struct source_location (lib/ubsan.h), with which the data of a check begins: the file's
#: name, line and column, of which the kernel takes a bit to report each place once.
_LOCATION = 16


class Doubt(NamedTuple):
    """A variable of the patched object that may or may not be one that the kernel has.

    :ivar name: what messages call it.
    :ivar kernels: what messages call those of the kernel that it may be.
    :ivar fits: whether it is one that it could be, by what both hold: an author may say so.
    :ivar hint: what to do; empty where a name and a place tell which variable it is.
    """

    name: str
    kernels: str
    why: str
    fits: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Correlation:
    """Matching atoms (twins) of two objects.

    :ivar original: the original object.
    :ivar patched: the patched object.
    :ivar number: the object's place among those of the patch.
    :ivar ties: what it shares with other objects of the patch.
    :ivar to_original: the original twin of a patched atom.
    :ivar to_patched: the patched twin of an original atom.
    :ivar folded: pairs of functions that are one in one object and several in the other,
        as identical code folding leaves them; `to_original` holds one of each.
    :ivar ordered: twins that are static variables of one name in one function, which only
        their order tells apart.
    :ivar renamed: patched variables that have another name than the original's.
    :ivar ambiguous: patched variables that may or may not be one that the kernel has.
    """

    original: CodeObject
    patched: CodeObject
    number: int = 0
    ties: Ties = field(default_factory=Ties)
    to_original: dict[Atom, Atom] = field(default_factory=dict)
    to_patched: dict[Atom, Atom] = field(default_factory=dict)
    folded: list[tuple[Atom, Atom]] = field(default_factory=list)
    ordered: list[list[tuple[Atom, Atom]]] = field(default_factory=list)
    renamed: dict[Atom, Atom] = field(default_factory=dict)
    ambiguous: dict[Atom, Doubt] = field(default_factory=dict)

    def pair(self, original: Atom, patched: Atom) -> None:
        """Record two atoms as twins."""
        self.to_original[patched] = original
        self.to_patched.setdefault(original, patched)

    def part(self, original: Atom, patched: Atom) -> None:
        """Take two atoms apart that are no twins."""
        del self.to_original[patched], self.to_patched[original]

    def rename(self, original: Atom, patched: Atom) -> None:
        """Record two variables as twins that have different names or users."""
        self.pair(original, patched)
        if base_name(original.name) != base_name(patched.name):
            self.renamed[patched] = original

    def origins(self, patched: Atom) -> tuple[Origin, ...]:
        """List the kernel's symbols that an atom of the patched object had in other objects."""
        moved = self.ties.moved
        return next((moved[s.name] for s in patched.symbols if s.name in moved), ())

    def is_new(self, patched: Atom) -> bool:
        """Tell whether the running kernel has no version of an atom of the patched object."""
        return patched not in self.to_original and not self.origins(patched)

    @cached_property
    def functions_before(self) -> frozenset[str]:
        """The functions of the original by their names in the source."""
        return _function_names(self.original)

    @cached_property
    def functions_after(self) -> frozenset[str]:
        """The functions of the patched object by their names in the source."""
        return _function_names(self.patched)

    @cached_property
    def departed(self) -> dict[str, Atom]:
        """Atoms of the original that another object defines now, by the names used for them."""
        here = {name: o for name, o in self.ties.bound.items() if o.part == self.number}
        return {
            name: self.original.atom_of(origin.symbol.index)
            for name, origin in here.items()
            if origin.symbol is not None
        }


def _function_names(code: CodeObject) -> frozenset[str]:
    return frozenset(source_name(atom.name) for atom in code.atoms if atom.is_function)


def correlate(
    original: CodeObject, patched: CodeObject, number: int = 0, ties: Ties | None = None
) -> Correlation:
    """Match the atoms of two objects.

    Functions and variables go by name; clones by name without numbers where that is
    unique; static variables of functions by the functions that use them and their order;
    those that are read only by content, since one is then as good as another.
    """
    result = Correlation(original, patched, number, ties or Ties())
    _by_name(result)
    _by_base_name(result)
    statics = _Statics(result)
    statics.writable()
    statics.read_only()
    _part_outlived(result)
    return result


def _part_outlived(result: Correlation) -> None:
    """Take what was ``__init`` or ``__exit`` and no longer is for new: the kernel's is gone.

    Code of other files that refers to it has run, too.  Not variables, which hold what was written.
    """
    for patched, original in list(result.to_original.items()):
        before, after = original.section.name, patched.section.name
        ended = is_init(before) or is_exit(before)
        stays = ended and not is_init(after) and not is_exit(after)
        is_constant = patched.kind is SectionKind.DATA and not (
            original.is_writable or patched.is_writable
        )
        if stays and (patched.is_function or is_constant):
            result.part(original, patched)


def _is_copied(atom: Atom) -> bool:
    return not atom.symbols or atom.is_special_static


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
        """Map each static variable to the functions, by their names in the source, that use it."""
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
                pairs = list(zip(olds, news, strict=True))
                for old, new in pairs:
                    self.result.pair(old, new)
                if len(pairs) > 1:
                    self.result.ordered.append(pairs)
        olds = [a for a in originals if a not in self.result.to_patched]
        news = [a for a in patched if a not in self.result.to_original]
        for new in news:
            candidates = [old for old in olds if self._share_a_user(old, new)]
            if len(candidates) == 1:
                rivals = [other for other in news if self._share_a_user(candidates[0], other)]
                if len(rivals) == 1:
                    self.result.pair(candidates[0], new)

    def _share_a_user(self, old: Atom, new: Atom) -> bool:
        users = self.users_original.get(old, frozenset())
        return bool(users & self.users_patched.get(new, frozenset()))

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
    """Names for targets of references that can be compared between the two objects."""

    def __init__(self, correlation: Correlation) -> None:
        self.correlation = correlation
        self._contents: dict[tuple[bool, Atom], Hashable] = {}

    def of_original(self, atom: Atom, by_content: bool = False) -> Hashable:
        """Identify an atom of the original object."""
        if not by_content and (
            atom in self.correlation.to_patched or atom in self.correlation.departed.values()
        ):
            return atom.index
        if not by_content and atom.symbols and not atom.is_special_static:
            return ("original", atom.index)
        return self._content(False, atom)

    def of_patched(self, atom: Atom, by_content: bool = False) -> Hashable:
        """Identify an atom of the patched object: as its twin, if it has one."""
        twin = self.correlation.to_original.get(atom)
        if twin is not None and not by_content:
            return twin.index
        for origin in () if by_content else self.correlation.origins(atom):
            # elsewhere it was known by its name, if at all
            return ("moved", origin) if origin.is_local else origin.name
        if not by_content and atom.symbols and not atom.is_special_static:
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
            held = code.references(atom)
            if not name and atom.name.startswith(f"{UBSAN}data"):
                content = content[_LOCATION:]
                held = tuple(r for r in held if r.offset >= _LOCATION)
            references = tuple(self.reference(patched, r) for r in held)
            self._contents[key] = (name, content, references)
        return self._contents[key]

    def reference(self, patched: bool, reference: Reference) -> Hashable:
        """Identify a reference: where it stands, its type, what it leads to and the addend.

        The two types of a branch are one to the kernel, Linux commit b21ebf2fb4cd ("x86: Treat
        R_X86_64_PLT32 as R_X86_64_PC32"), v4.16; as(1) takes the other for static functions.
        """
        code = self.correlation.patched.instructions
        kind = code.relative if reference.type == code.branch else reference.type
        return (reference.offset, kind, *self.target(patched, reference))

    def target(self, patched: bool, reference: Reference) -> tuple[Hashable, int]:
        """Identify what a reference leads to, and return the addend."""
        target = reference.target
        if isinstance(target, Literal):
            return target.content, reference.addend
        if target is not None:
            identity = self.of_patched(target) if patched else self.of_original(target)
            return identity, reference.addend
        code = self.correlation.patched if patched else self.correlation.original
        name = code.elf.symbol_list[reference.symbol].name
        departed = self.correlation.departed.get(name) if patched else None
        bound = self.correlation.ties.bound.get(name) if patched else None
        if departed is not None:
            return departed.index, reference.addend
        if bound is not None:
            return ("moved", bound) if bound.is_local else bound.name, reference.addend
        return name, reference.addend
