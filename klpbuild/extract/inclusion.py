"""Decide what an extracted object includes, and refuse what no livepatch can do.

Included are the changed functions, and what they reach that the running kernel does not
have.  What it has is referred to, never copied, so that the livepatch works on the
kernel's own state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from klpbuild.arch import Architecture
from klpbuild.elf.reader import Symbol
from klpbuild.extract.atoms import Atom, Literal, Reference
from klpbuild.extract.case import Case
from klpbuild.extract.changes import Changes
from klpbuild.extract.functions import notice_handed_on, settle_functions
from klpbuild.extract.metadata import look_at_metadata
from klpbuild.extract.names import base_name
from klpbuild.extract.part import Part
from klpbuild.extract.result import Key, KeyKind, KeyPolicy, KeyUse, LeftOut
from klpbuild.extract.sections import (
    RUNTIME,
    RUNTIME_POINTER,
    SectionKind,
    holds_variables,
    is_exit,
    is_init,
)
from klpbuild.extract.special import JUMP_TABLE, Entry
from klpbuild.extract.startup import settle_startup, state_in_use
from klpbuild.extract.texts import settle_texts
from klpbuild.extract.variables import notice_own_state, settle_variables
from klpbuild.extract.words import words

TRAMPOLINE, CALL_KEY = "__SCT__", "__SCK__"


@dataclass(frozen=True)
class Inclusion:
    """What the extracted object includes.

    :ivar atoms: included atoms of the patched object, each with the reason.
    :ivar changed: those that replace a function of the original.
    :ivar detached: jump label entries that get a key of their own.
    :ivar keys: keys, each with the `KeyUse` of the code that it switches.
    :ivar notices: what the user should know.
    :ivar written: accepted variables, of which callbacks write what changes.
    :ivar left_out: changed ``__init`` code and data that the livepatch does without.
    :ivar state: names of the state that included code uses.
    """

    atoms: dict[Atom, str] = field(default_factory=dict)
    changed: list[Atom] = field(default_factory=list)
    detached: set[Entry] = field(default_factory=set)
    keys: dict[Key, KeyUse] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    written: list[Atom] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    state: set[str] = field(default_factory=set)


def include(part: Part, changes: Changes, arch: Architecture, key_policy: KeyPolicy) -> Inclusion:
    """Choose what to include.

    :raises KlpError: with every reason why the change cannot be made to a running kernel.
    """
    case, tables = Case(part, changes, arch), part.new.tables
    for new, old in part.correlation.renamed.items():
        case.notices.append(f"{case.place(new)}: is the running kernel's {old.name}")
    choice = _Choice(case, part, key_policy)
    choice.reach()
    notice_handed_on(case, choice.result.atoms)
    notice_own_state(case, choice.result.atoms)
    settle_texts(case, choice.result.atoms)
    look_at_metadata(case, choice.result.atoms)
    result = choice.result
    result.left_out.extend(settle_startup(case, result.atoms, result.changed, tables))
    result.state.update(state_in_use(case, result.atoms, tables))
    case.problems.check()
    return result


_ACCEPT = (
    "\nIf the running kernel's holds what the new code expects, accept it:\n"
    '--accept-data {name}, or accept_data = ["{name}"] in livepatch.toml.'
)


class _Choice:
    def __init__(self, case: Case, part: Part, key_policy: KeyPolicy) -> None:
        self.case, self.tables, self.key_policy = case, part.new.tables, key_policy
        self.retyped = part.retyped
        self._compared: set[Atom] = set()
        self._doubts: set[tuple[str, str]] = set()
        self.correlation, self.refuse = case.correlation, case.refuse
        self.original, self.patched = case.original, case.patched
        self.copies = settle_variables(case)
        replaced = settle_functions(case)
        self.result = Inclusion(
            dict(replaced.atoms), replaced.changed, notices=case.notices, written=case.written
        )

    # -- what they reach

    def reach(self) -> None:
        """Include what the changed functions need and the kernel does not have."""
        for atom in self.patched.atoms:
            is_new = atom.symbols and self.correlation.is_new(atom)
            if is_new and atom.is_global and holds_or_runs(atom) and not self._is_doubtful(atom):
                self.result.atoms.setdefault(atom, "new, and other objects may use it")
        pending = list(self.result.atoms)
        for variable in self.result.written:
            for word in words(self.correlation, variable):
                if word.becomes is not None:
                    self._follow(variable, word.becomes, pending)
        while pending:
            atom = pending.pop()
            self._check_included(atom)
            for reference in self.patched.references(atom):
                self._follow(atom, reference, pending)
            for entry in self.tables.of(atom):
                if entry.section.name.startswith(RUNTIME):
                    self._check_runtime_constant(atom, entry)
                    continue
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
        if twin is not None and target not in self.copies and not self._has_labels(target):
            self._check_kept(atom, target, twin)
            return
        if self.correlation.origins(target) or self._is_doubtful(target):
            return
        self.result.atoms[target] = f"{self._kind_of_need(target)} {atom.name} needs"
        pending.append(target)

    def _is_doubtful(self, variable: Atom) -> bool:
        """Refuse a variable that may be one that the kernel has."""
        doubt = self.correlation.ambiguous.get(variable)
        if doubt is not None and (doubt.kernels, doubt.why) not in self._doubts:
            self._doubts.add((doubt.kernels, doubt.why))
            more = _ACCEPT.format(name=base_name(variable.name)) if doubt.fits else ""
            self.refuse(
                f"{doubt.name} may be the running kernel's {doubt.kernels}",
                variable,
                why=doubt.why,
                hint=doubt.hint
                or "Keep its name and its place if it is.  If it is new, give it another name,"
                f" and keep {doubt.kernels} declared, with __used."
                + more,
            )
        return doubt is not None

    def _has_labels(self, table: Atom) -> bool:
        """Tell whether a constant holds places of labels in included code (``&&label``).

        The kernel's own leads into the code that is replaced, and looks the same where a change
        moves nothing.
        """
        held = self.patched.references(table) if table.kind is SectionKind.DATA else ()
        into = [(r.addend, r.target) for r in held if r.target in self.result.atoms]
        labels = [
            target
            for addend, target in into
            if isinstance(target, Atom) and target.is_function and (addend or target.is_cold)
        ]
        if labels and table.is_writable:
            self.refuse(
                f"{table.name} holds places of labels in {labels[0].name}, which is replaced",
                table,
                why="The running kernel's leads into the old code.",
                hint="Make it const, so that the livepatch may have its own.",
            )
        return bool(labels)

    def _kind_of_need(self, target: Atom) -> str:
        if target in self.copies:
            return f"changed constant ({self.case.changes.data[target]}) that"
        if target.symbols and not target.is_special_static:
            return "new, and"
        return "its own, which"

    def _check_included(self, atom: Atom) -> None:
        name = atom.section.name
        if atom in self.patched.immovable:
            self.refuse(
                f"{atom.name} shares code with its neighbour in {name}",
                atom,
                why=self.patched.immovable[atom],
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
        if is_init(twin.section.name) or (is_exit(twin.section.name) and not self.case.in_module):
            self.refuse(
                f"{atom.name} refers to {twin.name} in {twin.section.name}",
                atom,
                why="The kernel has freed it.",
                hint="Take the reference out of the function.",
            )
        self._note_static_call(atom, target.name)
        if twin in self._compared:  # several functions may use it
            return
        self._compared.add(twin)
        why = self.retyped(twin, target)
        name = base_name(target.name)
        if why and name in self.case.accepted_data:
            told = "has another type than the running kernel's: accepted"
            self.case.notices.append(f"{self.case.place(target)}: {told}")
        elif why:
            self.refuse(
                f"{target.name} has another type than the running kernel's",
                target,
                why=f"{why}\nThe running kernel's holds what the old code put there.",
                hint="Keep its type.  If it is new, give it another name, and keep"
                f" {twin.name} declared, with __used." + _ACCEPT.format(name=name),
            )

    def _check_runtime_constant(self, atom: Atom, entry: Entry) -> None:
        """Allow a constant that the kernel writes into its code if a load can stand there."""
        name = entry.section.name
        code, place = self.patched.contents(atom), entry.place - atom.start
        is_pointer = name.startswith(RUNTIME_POINTER)
        if not is_pointer or self.patched.instructions.as_load(code, place) is None:
            self.refuse(
                f"{atom.name} uses {name}",
                atom,
                why="The kernel writes this constant into the code of vmlinux at boot.",
                hint="Use the variable itself in the function.",
            )

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
        """Decide whether to detach a jump label's entry from its key."""
        at = self.patched.sizes.jump_key
        for reference in entry.references:
            if reference.offset != at:
                continue
            target = reference.target
            if isinstance(target, Atom):
                symbol = self._kernel_symbol(target)
                if symbol is None or target in self.copies:
                    return False
                name = symbol.name
            else:
                name = self.patched.elf.symbol_list[reference.symbol].name
                bound = self.correlation.ties.bound.get(name)
                symbol = bound.symbol if bound is not None else self._original_globals.get(name)
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

    def _kernel_symbol(self, target: Atom) -> Symbol | None:
        """Find the kernel's symbol of an atom, None for a new one."""
        twin = self.correlation.to_original.get(target)
        if twin is not None:
            return twin.symbols[0]
        return next((origin.symbol for origin in self.correlation.origins(target)), None)

    @cached_property
    def _original_globals(self) -> dict[str, Symbol]:
        return {s.name: s for s in self.original.elf.symbol_list if not s.is_local}


def holds_or_runs(atom: Atom) -> bool:
    """Tell whether a new global can be of use to other objects of the livepatch."""
    name = atom.section.name
    if is_init(name) or is_exit(name):
        return False
    if atom.kind is SectionKind.DATA:
        return holds_variables(name)
    return atom.kind is SectionKind.CODE
