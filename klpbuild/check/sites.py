"""Check the tables about code that the kernel reads as it loads a module: where entries lead.

apply_alternatives(), apply_returns(), apply_retpolines() and their kind
(arch/*/kernel/alternative.c), jump_label_add_module(), static_call_add_module(),
module_bug_finalize() and search_exception_tables() trust what compiler and objtool wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from klpbuild.check import catalogue
from klpbuild.check.entries import Entry, Layout, Malformed, Target, called, entries
from klpbuild.check.instructions import Instruction
from klpbuild.check.keys import Keys
from klpbuild.check.rule import Rule
from klpbuild.check.subject import Subject, place
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import Section

#: MAX_PATCH_LEN: apply_alternatives() of x86 has a buffer of so many bytes and a BUG_ON() for more.
LONGEST = 254
#: Tables of code that is replaced.
_REPLACING = (".altinstructions", ".parainstructions")
_BY_KEY = "__jump_table"
#: Rules for malformed entries, by table; `catalogue.SITE` for other tables.
_MALFORMED = {
    ".smp_locks": catalogue.NO_EFFECT,
    ".call_sites": catalogue.NO_EFFECT,
    ".orc_unwind_ip": catalogue.UNWIND,
}
#: Tables in which nothing may be named twice: what the kernel finds there is changed already.
_ONCE = frozenset({
    ".return_sites", ".retpoline_sites", ".ibt_endbr_seal", ".static_call_sites", "__jump_table",
    "__bug_table", ".parainstructions",
})  # fmt: skip

#: The rule that an entry breaks, where in it, and what is wrong.
Faults = Iterator[tuple[Rule, int, str]]


@dataclass(frozen=True)
class Alternative:
    """Code that may be replaced.

    :ivar replacement: by which code; the place itself where the kernel makes that.
    :ivar by: how many bytes that has.
    """

    site: Target
    replacement: Target
    length: int
    by: int


@dataclass(frozen=True)
class Model:
    """The tables of an architecture.

    :ivar layout: how a table's entries are laid out; None where that is not known.
    :ivar meanings: what is wrong with an entry whose addresses are there, by table.
    :ivar jumps_to: where the jump or call at a target leads; None for another instruction.
    :ivar trap: the instruction that BUG() and WARN() are, as messages call it.
    :ivar is_trap: whether an instruction is that.
    """

    layout: Callable[[Subject, Section], Layout | None]
    meanings: Mapping[str, Meaning]
    jumps_to: Callable[[Subject, Target], Target | None]
    trap: str
    is_trap: Callable[[Instruction], bool]


@dataclass
class Tables:
    """The tables of one module.

    :ivar listed: what the tables name so far, by table.
    """

    subject: Subject
    model: Model
    listed: dict[str, set[tuple[int, int]]] = field(default_factory=dict)

    @cached_property
    def keys(self) -> Keys:
        """The static keys that it uses."""
        return Keys(self.subject)

    def check(self) -> None:
        """Check the entries of each table."""
        for table in self.subject.elf.sections:
            layout, meaning = self._layout(table), self.model.meanings.get(table.name)
            if layout is not None and meaning is not None:
                with self.subject.guarded(catalogue.BROKEN):
                    self._check(table, layout, meaning)

    def _check(self, table: Section, layout: Layout, meaning: Meaning) -> None:
        if table.name == _BY_KEY and self.subject.offsets.get(table.index, 0) % 4:
            # static_key_set_entries() keeps two bits in the address.
            self._find(catalogue.SITE, table, 0, f"{table.name} will not be aligned")
        for entry in entries(self.subject, table, layout):
            if isinstance(entry, Malformed):
                rule = _MALFORMED.get(table.name, catalogue.SITE)
                rule = catalogue.NO_EFFECT if entry.harmless else rule
                self._find(rule, table, entry.offset, entry.what)
                continue
            for rule, at, what in meaning(self, entry):
                said = f"an entry of {table.name} {what}"
                self._find(rule, table, entry.offset + at, said)
            first = entry.targets[0].place
            if table.name in _ONCE and first in self.listed.setdefault(table.name, set()):
                what = f"{table.name} names {called(self.subject, entry.targets[0])} twice"
                self._find(catalogue.SITE, table, entry.offset, what)
            self.listed.setdefault(table.name, set()).add(first)

    def _find(self, rule: Rule, table: Section, offset: int, what: str) -> None:
        self.subject.find(rule, what, place(table, offset))

    @cached_property
    def alternatives(self) -> tuple[Alternative, ...]:
        """The code that may be replaced as the module is loaded."""
        found = []
        for table in self.subject.elf.sections:
            layout = self._layout(table)
            if table.name not in _REPLACING or layout is None:
                continue
            for entry in entries(self.subject, table, layout):
                if isinstance(entry, Entry):
                    length, by = (entry.data[at] for at in layout.lengths)
                    pair = entry.targets[0], entry.targets[-1]
                    by = by if len(entry.targets) > 1 else 0
                    found.append(Alternative(*pair, length, by))
        return tuple(found)

    def replacement(self, alternative: Alternative) -> bytes:
        """Read the bytes that may replace code."""
        return self.bytes_at(alternative.replacement)[: alternative.by]

    def bytes_at(self, target: Target) -> bytes:
        """Read the bytes of the module at a target, and behind it."""
        data = self.subject.elf.contents(self.subject.elf.sections[target.section])
        return bytes(data[max(target.offset, 0) :][:LONGEST])

    @cached_property
    def replaced(self) -> dict[int, list[tuple[int, int]]]:
        """Where alternatives may stand, by section: they have instructions of their own."""
        found: dict[int, list[tuple[int, int]]] = {}
        for each in self.alternatives:
            section, at = each.site.place
            found.setdefault(section, []).append((at, at + each.length))
        return found

    def _layout(self, table: Section) -> Layout | None:
        return self.model.layout(self.subject, table)

    # --- what a target is ---

    def instruction(self, target: Target) -> Instruction | None:
        """Find the instruction that begins at a target."""
        return self.subject.instructions.at(*target.place) if target.section else None

    def code(self, target: Target) -> bytes:
        """Read the bytes of the instruction at a target."""
        found = self.instruction(target)
        section = self.subject.elf.sections[target.section]
        data = self.subject.elf.contents(section)
        return bytes(data[target.offset : found.end]) if found else b""

    def astray(self, target: Target, *, end: bool = False) -> str:
        """Explain why no instruction begins at a target; empty when one does.

        :param end: the end of a section will do.
        """
        elf = self.subject.elf
        leads = f"leads to {called(self.subject, target)}, "
        section = elf.sections[target.section]
        inside = 0 <= target.offset <= section.sh_size
        if not target.section or not section.sh_flags & SHF.EXECINSTR or not inside:
            return leads + "which is no code"
        if end and target.offset == section.sh_size:
            return ""
        if self.instruction(target) is None:
            return leads + "where no instruction begins"
        return ""

    def strays(self, target: Target) -> str:
        """Explain why code cannot go on at a target; empty when it can."""
        section, at = target.place
        if any(start < at < end for start, end in self.replaced.get(section, ())):
            return f"leads to {called(self.subject, target)}, amid code that may be replaced"
        return self.astray(target)

    def leaves(self, code: Target, target: Target) -> str:
        """Explain why a function does not go on at a target; empty when it is its own code.

        Labels of an asm goto are in the function, or in what the compiler split off as cold,
        which goes by another name where a livepatch's author gave the function one.
        """
        pointers = self.subject.pointers
        here, there = (pointers.function_of(each.place) for each in (code, target))
        if not here or not there or here == there or ".cold" in here + there:
            return ""
        return f"leads from {here} to {called(self.subject, target)}, which is in {there}"

    def jumps_to(self, target: Target) -> Target | None:
        """Find where the jump or call at a target leads; None for another instruction."""
        return self.model.jumps_to(self.subject, target) if target.section else None

    def name_of(self, target: Target) -> str:
        """Name the function or variable at a target."""
        return target.symbol or self.subject.pointers.name_at(target.place)


Meaning = Callable[[Tables, Entry], Faults]
