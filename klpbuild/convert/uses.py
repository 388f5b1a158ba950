"""List where a linked module uses undefined symbols, and choose the gate of each use."""

from __future__ import annotations

import re

import numpy as np

from klpbuild.convert.annotations import Annotations
from klpbuild.elf.constants import SHF, SHN_UNDEF, STB
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.elf.tables import Table
from klpbuild.errors import KlpError, Problems
from klpbuild.names import VMLINUX
from klpbuild.resolve.fate import Decision, Fate, Reference, Resolver
from klpbuild.resolve.gates import Use
from klpbuild.resolve.reach import Entry, Reach

# Symbols that the linker or the module loader makes, not the kernel.
_NOT_REFERENCES = frozenset({"_GLOBAL_OFFSET_TABLE_", ".TOC."})

# Sections that the kernel reads, copies or frees while it loads the livepatch
# (kernel/module/main.c, find_module_sections and module_finalize): what is written
# there later, when a patched module loads, changes nothing any more.
_READ_AT_LOAD = re.compile(
    r"__jump_table|\.static_call(_sites|_tramp_key|\.text)|\.altinstr(uctions|_replacement|_aux)"
    r"|\.(parainstructions|smp_locks|retpoline_sites|return_sites|call_sites|ibt_endbr_seal)"
    r"|\.(cfi_sites|orc_unwind|orc_unwind_ip|modinfo|gnu\.linkonce\.this_module)"
    r"|__mcount_loc|__patchable_function_entries|__ex_table|__param|__versions|__tracepoints_ptrs"
    r"|_{2,3}k(symtab|crctab).*|_ftrace_events|\.(init\b|init_array|ctors).*|\.data\.\.percpu.*"
)


class Uses:
    """Uses of the undefined symbols of a file."""

    def __init__(self, elf: ElfFile, annotations: Annotations) -> None:
        self.elf = elf
        self.annotations = annotations
        #: Relocation section, the section that it changes, and its records.
        self.sections: list[tuple[Section, Section, Table]] = []
        shndx, names = elf.symbols["st_shndx"], elf.symbols["st_name"]
        candidates = (shndx == SHN_UNDEF) & (names != 0)
        first: dict[int, tuple[Section, int]] = {}
        for section in elf.relocation_sections:
            if section.sh_flags & SHF.RELA_LIVEPATCH:
                continue
            if section.sh_info >= len(elf.sections):
                raise KlpError(f"section {section.name} changes no section", where=elf.name)
            target = elf.sections[section.sh_info]
            rows = elf.relocations(section)
            if len(rows) and int(rows["r_sym"].max()) >= len(elf.symbols):
                raise KlpError(f"section {section.name} names a missing symbol", where=elf.name)
            mask = candidates[rows["r_sym"]] if len(rows) else np.zeros(0, bool)
            self.sections.append((section, target, rows))
            if target.index in annotations.sections:
                continue
            indexes, places = np.unique(rows["r_sym"][mask], return_index=True)
            offsets = rows["r_offset"][mask][places]
            for index, offset in zip(indexes.tolist(), offsets.tolist(), strict=True):
                # A use in code or data tells more than one in debug information.
                if index not in first or not first[index][0].sh_flags & SHF.ALLOC:
                    first[index] = (target, offset)
        self._first = first
        #: Indexes of the undefined symbols that loaded sections use.
        self.undefined = [
            index
            for index in sorted(first)
            if first[index][0].sh_flags & SHF.ALLOC
            and elf.symbol_name(index) not in _NOT_REFERENCES
        ]

    def reference(self, index: int) -> Reference:
        symbol = self.elf.symbol(index)
        target, offset = self._first[index]
        return Reference(
            symbol.name,
            f"{self.elf.name}:{target.name}+0x{offset:x}",
            symbol.bind == STB.WEAK,
            self.annotations.by_symbol.get(index),
        )


class Placed:
    """Decisions about livepatch symbols with their gates, and which records they are for.

    :ivar decided: symbol index to what it is, its gate not chosen yet.
    :ivar decisions: one for each symbol and gate.
    :ivar of_symbol: the decisions about each symbol, by its index.
    :ivar numbers: for each record of each of `Uses.sections` the number of its decision,
        from 1; 0 for records that stay, and in sections that are not in memory.
    """

    def __init__(self, uses: Uses, decided: dict[int, Decision]) -> None:
        self.decided = {i: d for i, d in decided.items() if d.fate is Fate.LIVEPATCH}
        self.decisions: list[Decision] = []
        self.of_symbol: dict[int, list[Decision]] = {}
        self.numbers: list[np.ndarray] = []
        self._uses = uses
        self._known: dict[tuple[int, str], int] = {}

    def choose_gates(self, resolver: Resolver, reach: Reach, problems: Problems) -> None:
        """Choose the gate of every livepatch relocation, and note where there is none."""
        early = np.zeros(len(self._uses.elf.symbols), np.int32)
        late = np.zeros(len(self._uses.elf.symbols), np.bool_)
        for index, decision in self.decided.items():
            if decision.target is not None and decision.target.owner == VMLINUX:
                early[index] = self._number(index, resolver.place(decision, Use("")))
            else:
                late[index] = True
        uses: dict[tuple[int, tuple[Entry, ...] | None], int] = {}
        for _, target, rows in self._uses.sections:
            read = target.index not in self._uses.annotations.sections
            if not read or not target.sh_flags & SHF.ALLOC:
                self.numbers.append(np.zeros(len(rows), np.int32))
                continue
            numbers = early[rows["r_sym"]]
            self.numbers.append(numbers)
            waiting = np.flatnonzero(late[rows["r_sym"]])
            if len(waiting) and _READ_AT_LOAD.fullmatch(target.name):
                problems.note(self._read_at_load(target, rows[waiting[0]]))
                continue
            for row, (offset, _, index, _) in zip(waiting, rows[waiting].tolist(), strict=True):
                entries = reach.entries(target.index, offset) if reach.traced else None
                if (index, entries) not in uses:
                    uses[index, entries] = 0
                    use = Use(
                        f"{self._uses.elf.name}:{target.name}+0x{offset:x}",
                        reach.name(target.index, offset),
                        entries,
                    )
                    with problems.collect():
                        decision = resolver.place(self.decided[index], use)
                        uses[index, entries] = self._number(index, decision)
                numbers[row] = uses[index, entries]

    def _number(self, index: int, decision: Decision) -> int:
        key = index, decision.gate
        if key not in self._known:
            self.decisions.append(decision)
            self.of_symbol.setdefault(index, []).append(decision)
            self._known[key] = len(self.decisions)
        return self._known[key]

    def _read_at_load(self, target: Section, row: np.void) -> KlpError:
        found = self.decided[int(row["r_sym"])].target
        assert found is not None
        return KlpError(
            f"symbol {found.symbol!r} of module {found.owner} is used in {target.name}",
            where=f"{self._uses.elf.name}:{target.name}+0x{int(row['r_offset']):x}",
            why="The kernel reads this section when the livepatch loads, "
            f"before {found.owner} is there.",
            hint="Use static_key_enabled() for a static key, "
            "a plain call through a function pointer for a static call."
            if target.name.startswith(("__jump_table", ".static_call"))
            else f"Do it in a function that runs when {found.owner} is there.",
        )
