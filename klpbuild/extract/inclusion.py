"""What goes into the livepatch, and what keeps a patch from being one.

Included are the changed functions, and what they reach that the running kernel does not
have.  What it has is referred to, never copied, so that the livepatch works on the
kernel's own state.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from klpbuild.arch import Architecture
from klpbuild.elf.reader import Symbol
from klpbuild.errors import Problems
from klpbuild.extract.changes import Changes, families
from klpbuild.extract.correlate import Correlation, Identities
from klpbuild.extract.names import is_special_static
from klpbuild.extract.objects import Atom, CodeObject, Literal, Reference
from klpbuild.extract.result import Key, KeyKind, KeyPolicy, KeyUse
from klpbuild.extract.sections import SectionKind, holds_variables, is_exit, is_init
from klpbuild.extract.special import JUMP_TABLE, Entry, Tables

TRAMPOLINE, CALL_KEY = "__SCT__", "__SCK__"
#: Functions begin with their entry call, behind at most an endbr64 (arch/x86, CET).
_ENTRY_REACH = 16


@dataclass(frozen=True)
class Inclusion:
    """The choice.

    :ivar atoms: included atoms of the patched object, each with the reason.
    :ivar changed: those that replace a function of the original.
    :ivar detached: jump label entries that get a key of their own.
    :ivar keys: keys with what became of their uses.
    :ivar notices: what the user should know.
    """

    atoms: dict[Atom, str] = field(default_factory=dict)
    changed: list[Atom] = field(default_factory=list)
    detached: set[Entry] = field(default_factory=set)
    keys: dict[Key, KeyUse] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def include(
    correlation: Correlation,
    changes: Changes,
    tables: Tables,
    *,
    arch: Architecture,
    where: str,
    in_module: bool,
    key_policy: KeyPolicy,
) -> Inclusion:
    """Choose what to include.

    :param tables: those of the patched object.
    :param where: what messages call the object, ``source:object``.
    :param in_module: whether the object is part of a module.
    :raises KlpError: with every reason why the change cannot be made to a running kernel.
    """
    choice = _Choice(correlation, changes, tables, arch, where, in_module, key_policy)
    choice.settle_data()
    choice.settle_functions()
    choice.reach()
    choice.look_at_metadata()
    choice.problems.check()
    return choice.result


class _Choice:
    def __init__(
        self,
        correlation: Correlation,
        changes: Changes,
        tables: Tables,
        arch: Architecture,
        where: str,
        in_module: bool,
        key_policy: KeyPolicy,
    ) -> None:
        self.correlation, self.tables, self.arch = correlation, tables, arch
        self.original, self.patched = correlation.original, correlation.patched
        self.functions = dict(changes.functions)
        self.data = dict(changes.data)
        self.where, self.in_module, self.key_policy = where, in_module, key_policy
        self.problems = Problems()
        self.result = Inclusion()
        self.copies: set[Atom] = set()
        self.families = families(self.patched)
        self.folded = changes.folded
        self.users_original = _users(self.original)
        self.users_patched = _users(self.patched)

    def refuse(self, what: str, atom: Atom | None = None, *, why: str, hint: str = "") -> None:
        where = f"{self.where}:{atom.name}" if atom is not None else self.where
        self.problems.add(what, where=where, why=why, hint=hint)

    # -- changed variables

    def settle_data(self) -> None:
        """Decide changed variables: copy constants where nobody can tell, refuse the rest.

        A constant may be replaced by a copy when only functions use it, and these take its
        content, or pass on its address while it holds no function's.  Tables of functions
        whose address is passed on (``inode->i_fop``) are compared and kept by the kernel.
        """
        for atom, difference in self.data.items():
            obstacle = self._not_a_copy(atom)
            if obstacle:
                self.refuse(
                    f"data {atom.name} changed: {difference}", atom, why=obstacle, hint=_DATA_HINT
                )
                continue
            self.copies.add(atom)
            twin = self.correlation.to_original[atom]
            use = f"uses the changed constant {atom.name}"
            for user in self.users_patched[atom] | self._twins(self.users_original[twin]):
                for member in self.families.get(user, ()):
                    if member in self.correlation.to_original:
                        self.functions.setdefault(member, use)

    def _twins(self, originals: set[Atom]) -> set[Atom]:
        twins = self.correlation.to_patched
        return {twins[atom] for atom in originals if atom in twins}

    def _not_a_copy(self, atom: Atom) -> str:
        """Why a changed variable cannot be replaced by a copy, empty if it can."""
        twin = self.correlation.to_original[atom]
        if is_init(twin.section.name) or is_exit(twin.section.name):
            return "It is used while the kernel or the module starts or ends, and not in between."
        if atom.is_writable or twin.is_writable:
            return "The running kernel has its own, and a livepatch replaces functions only."
        if not holds_variables(twin.section.name):
            return f"The kernel collects the entries of {twin.section.name}."
        if atom.is_global or twin.is_global:
            return "Other objects of the kernel use it too."
        for code, one, users in (
            (self.original, twin, self.users_original[twin]),
            (self.patched, atom, self.users_patched[atom]),
        ):
            for user in users:
                if not user.is_function:
                    return f"{user.name} refers to it, and the running kernel has its own."
                if self._has_functions(code, one) and not self._takes_content(code, user, one):
                    return (
                        "It holds addresses of functions, and"
                        f" {user.name} passes on its own address."
                    )
        return ""

    @staticmethod
    def _has_functions(code: CodeObject, atom: Atom) -> bool:
        for reference in code.references(atom):
            undefined = code.undefined(reference)
            if undefined is not None or (
                isinstance(reference.target, Atom) and reference.target.kind is SectionKind.CODE
            ):
                return True
        return False

    @staticmethod
    def _takes_content(code: CodeObject, user: Atom, atom: Atom) -> bool:
        """Whether code only reads a variable's content, and does not take its address."""
        return all(
            code.is_memory_operand(user, reference)
            for reference in code.references(user)
            if reference.target is atom
        )

    # -- changed functions

    def settle_functions(self) -> None:
        """Refuse changed functions that no livepatch can replace."""
        for atom, difference in self.folded.items():
            names = ", ".join(s.name for s in self.correlation.to_original[atom].symbols)
            self.refuse(
                f"{atom.name} changed, and shares its code with another function",
                atom,
                why="The compiler made identical functions one in only one of the versions, and a"
                f" livepatch replaces all names of an address: {names} ({difference}).",
                hint="Make the functions differ in both versions.",
            )
        stuck: dict[Atom, tuple[str, str]] = {}
        for atom in self.functions:
            twin = self.correlation.to_original[atom]
            obstacle = self._obstacle(atom, twin)
            if obstacle:
                stuck[atom] = obstacle
        for atom in self._replaced_with_callers(stuck):
            del stuck[atom]
            self.result.atoms[atom] = (
                f"changed, and only changed functions call it: {self.functions[atom]}"
            )
        for atom, (what, why) in stuck.items():
            if what:
                self.refuse(what, atom, why=why, hint=_FUNCTION_HINTS.get(what, ""))
        for atom, why in self.functions.items():
            if atom in stuck or atom in self.result.atoms:
                continue
            self.result.atoms[atom] = f"changed: {why}"
            if self._is_replaced(atom):
                self.result.changed.append(atom)

    def _obstacle(self, atom: Atom, twin: Atom) -> tuple[str, str] | None:
        section = twin.section.name
        if is_init(section):
            return (
                _INIT,
                f"It is in {section}, which is freed once it has run ({self.functions[atom]}).",
            )
        if is_exit(section) and not self.in_module:
            self.result.notices.append(
                f"{self.where}:{atom.name}: changed, and {section} is not part of vmlinux"
            )
            return "", ""
        if is_exit(section):
            return _EXIT, f"It is in {section}, and {_EXIT_RULE} ({self.functions[atom]})."
        family = self.families[atom]
        if not any(self._has_entry_call(member) for member in family):
            return _NOTRACE, f"It is in {section} and has no entry call ({self.functions[atom]})."
        return None

    def _is_replaced(self, atom: Atom) -> bool:
        return self._has_entry_call(atom)

    def _has_entry_call(self, atom: Atom) -> bool:
        """Whether the original of a function calls ftrace where it begins."""
        twin = self.correlation.to_original.get(atom)
        if twin is None:
            return False
        symbols = self.original.elf.symbol_list
        reach = twin.entry - twin.start + _ENTRY_REACH
        return any(
            symbols[reference.symbol].name == self.arch.entry_symbol
            for reference in self.original.references(twin)
            if reference.offset < reach
        )

    def _replaced_with_callers(self, stuck: dict[Atom, tuple[str, str]]) -> list[Atom]:
        """Functions without an entry call of which every caller is replaced, as inlining does."""
        private = {
            atom
            for atom, (what, _) in stuck.items()
            if what == _NOTRACE and not atom.is_global and self._is_only_called(atom)
        }
        replaced = {atom for atom in self.functions if atom not in stuck}
        while True:
            left = {
                atom
                for atom in private
                if self._all_users(atom) <= replaced | private and self._all_users(atom)
            }
            if left == private:
                return sorted(left, key=lambda atom: atom.index)
            private = left

    def _all_users(self, atom: Atom) -> set[Atom]:
        old = self.users_original[self.correlation.to_original[atom]]
        return (self.users_patched[atom] | self._twins(old)) - {atom}

    def _is_only_called(self, atom: Atom) -> bool:
        twin = self.correlation.to_original[atom]
        return not twin.is_global and all(
            code.is_branch(user, reference)
            for code, one, users in (
                (self.original, twin, self.users_original[twin]),
                (self.patched, atom, self.users_patched[atom]),
            )
            for user in users
            for reference in code.references(user)
            if reference.target is one
        )

    # -- what they reach

    def reach(self) -> None:
        """Include what the changed functions need and the kernel does not have."""
        for atom in self.patched.atoms:
            is_new = atom not in self.correlation.to_original and atom.symbols
            if is_new and atom.is_global and holds_or_runs(atom):
                self.result.atoms.setdefault(atom, "new, and other objects may use it")
        pending = list(self.result.atoms)
        while pending:
            atom = pending.pop()
            self._check_included(atom)
            for reference in self.patched.references(atom):
                self._follow(atom, reference, pending)
            for entry in self.tables.of(atom):
                detached = entry.section.name == JUMP_TABLE and self._detach(atom, entry)
                for reference in entry.references:
                    if not (detached and reference.offset == self.patched.sizes.jump_key):
                        self._follow(atom, reference, pending)

    def _follow(self, atom: Atom, reference: Reference, pending: list[Atom]) -> None:
        target = reference.target
        if isinstance(target, Literal):
            return
        if target is None:
            self._check_undefined(atom, reference)
            return
        if target in self.result.atoms:
            return
        twin = self.correlation.to_original.get(target)
        if twin is not None and target not in self.copies:
            self._check_kept(atom, target, twin)
            return
        if target in self.correlation.ambiguous:
            self.refuse(
                f"static variable {target.name} is used, and which one of the original it is"
                " cannot be told",
                atom,
                why=self.correlation.ambiguous[target] + ".",
                hint="Give the new variable another name.",
            )
            return
        self.result.atoms[target] = f"{self._kind_of_need(target)} {atom.name} needs"
        pending.append(target)

    def _kind_of_need(self, target: Atom) -> str:
        if target in self.copies:
            return f"changed constant ({self.data[target]}) that"
        if target.symbols and not is_special_static(target.name):
            return "new, and"
        return "its own, which"

    def _check_included(self, atom: Atom) -> None:
        name = atom.section.name
        if atom in self.patched.immovable:
            self.refuse(
                f"{atom.name} shares code with its neighbour in {name}",
                atom,
                why="A short jump between two functions of one section cannot be relocated.",
            )
        if is_init(name) and atom.symbols:
            self.refuse(
                f"{atom.name} is in {name}",
                atom,
                why="Code and data of a livepatch must outlive its start.",
            )
        elif atom.kind is SectionKind.DATA and not holds_variables(name):
            self.refuse(
                f"new entry in {name}",
                atom,
                why="The kernel's build or boot collects the entries of this section, a livepatch"
                " comes too late.",
            )

    def _check_kept(self, atom: Atom, target: Atom, twin: Atom) -> None:
        if is_init(twin.section.name) or (is_exit(twin.section.name) and not self.in_module):
            self.refuse(
                f"{atom.name} refers to {twin.name} in {twin.section.name}",
                atom,
                why="The kernel has freed it.",
                hint="Take the reference out of the function.",
            )
        self._note_static_call(atom, target.name)

    def _check_undefined(self, atom: Atom, reference: Reference) -> None:
        symbol = self.patched.elf.symbol_list[reference.symbol]
        if symbol.st_shndx != 0:
            self.refuse(
                f"{atom.name} refers to {symbol.name}, which cannot be extracted",
                atom,
                why="References to absolute symbols and into special sections have no place in"
                " another object.",
            )
        self._note_static_call(atom, symbol.name)

    def _note_static_call(self, atom: Atom, name: str) -> None:
        if name.startswith(TRAMPOLINE):
            key = CALL_KEY + name.removeprefix(TRAMPOLINE)
            self._ask(KeyKind.STATIC_CALL, atom, key, self._original_globals.get(key))

    # -- keys

    def _detach(self, atom: Atom, entry: Entry) -> bool:
        """Whether to detach a jump label's entry from its key."""
        at = self.patched.sizes.jump_key
        for reference in entry.references:
            if reference.offset != at:
                continue
            target = reference.target
            if isinstance(target, Atom):
                twin = self.correlation.to_original.get(target)
                if twin is None or target in self.copies:
                    return False
                symbol: Symbol | None = twin.symbols[0]
                name = twin.name
            else:
                name = self.patched.elf.symbol_list[reference.symbol].name
                symbol = self._original_globals.get(name)
            if self._ask(KeyKind.STATIC_BRANCH, atom, name, symbol) is KeyUse.DETACHED:
                self.result.detached.add(entry)
                return True
        return False

    def _ask(self, kind: KeyKind, atom: Atom, name: str, symbol: Symbol | None) -> KeyUse:
        index = symbol.index if symbol is not None else None
        key = Key(kind, name, index, symbol is not None and symbol.is_defined)
        answer = self.result.keys.get(key)
        if answer is None:
            told = self.key_policy(key)
            if isinstance(told, str):
                self.refuse(f"{atom.name} uses {kind.value} key {name}", atom, why=told)
                told = KeyUse.DETACHED
            answer = self.result.keys[key] = told
        return answer

    @cached_property
    def _original_globals(self) -> dict[str, Symbol]:
        return {s.name: s for s in self.original.elf.symbol_list if not s.is_local}

    # -- what the build, the boot or the loader reads

    def look_at_metadata(self) -> None:
        """Refuse initcalls and unknown tables of what is included; mention the rest."""
        for atom in self.patched.atoms:
            if atom.kind is SectionKind.METADATA:
                self._look_at_entry(atom)
        identities = Identities(self.correlation)
        before = _collected(self.original)
        for name, atoms in _collected(self.patched).items():
            for atom in atoms:
                self._look_at_collected(atom)
            olds = [identities.of_original(old) for old in before.get(name, ())]
            if olds != [identities.of_patched(atom) for atom in atoms]:
                self.refuse(
                    f"table {name} changed",
                    why="The kernel has read it when it or the module started.",
                    hint="Do from a callback of the livepatch what its new entries ask for.",
                )

    def _look_at_collected(self, atom: Atom) -> None:
        """Refuse a table that leads into the middle of included functions: to change them."""
        for reference in self.patched.references(atom):
            target = reference.target
            if (
                isinstance(target, Atom)
                and target.kind is SectionKind.CODE
                and target in self.result.atoms
                and reference.addend
            ):
                self.refuse(
                    f"table {atom.section.name} has an entry for it that klpbuild does not know",
                    target,
                    why="The kernel changes the code that such a table names, at boot or when a"
                    " module is loaded.",
                )

    def _look_at_entry(self, atom: Atom) -> None:
        if atom in self.correlation.to_original or not atom.symbols:
            return
        name = atom.section.name
        if is_init(name):
            self.refuse(
                f"{atom.name} is new in {name}",
                atom,
                why="The kernel or the module has started, and will not run it.",
                hint="Call it from a callback of the livepatch.",
            )
        elif name.startswith("___ksymtab"):
            self.result.notices.append(
                f"{self.where}:{atom.name}: a new export has no effect in a livepatch"
            )
        elif name == "__param":
            self.result.notices.append(
                f"{self.where}:{atom.name}: a new module parameter has no effect in a livepatch"
            )


_DATA_HINT = (
    "Change it from a callback of the livepatch, or keep the new state in shadow variables."
)
_INIT = "__init code changed"
_NOTRACE = "changed, and cannot be livepatched"
_EXIT = "__exit code changed"
_EXIT_RULE = "__exit functions have no entry call"
_FUNCTION_HINTS = {
    _EXIT: "Leave it out of the patch.",
    _INIT: "Leave it out of the patch, or do in a callback what it would do.",
    _NOTRACE: "Change its callers instead, so that they call a new function.",
}


def _collected(code: CodeObject) -> dict[str, list[Atom]]:
    """What has no symbol in sections that hold no variables: entries for the kernel to read."""
    found: dict[str, list[Atom]] = defaultdict(list)
    for atom in code.atoms:
        name = atom.section.name
        if atom.kind is SectionKind.DATA and not atom.symbols and not holds_variables(name):
            found[name].append(atom)
    return found


def holds_or_runs(atom: Atom) -> bool:
    """Whether a new global can be of use to other objects of the livepatch."""
    name = atom.section.name
    if is_init(name) or is_exit(name):
        return False
    if atom.kind is SectionKind.DATA:
        return holds_variables(name)
    return atom.kind is SectionKind.CODE


def _users(code: CodeObject) -> dict[Atom, set[Atom]]:
    """Which atoms refer to an atom; what has no symbol stands for those that refer to it."""
    found: dict[Atom, set[Atom]] = defaultdict(set)
    for atom in code.atoms:
        for reference in code.references(atom):
            if isinstance(reference.target, Atom):
                found[reference.target].add(atom)
    return found
