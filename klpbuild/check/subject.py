"""The record of a module under check: read once, with all that was found about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from klpbuild.arch import ARCHITECTURES, by_machine
from klpbuild.check.catalogue import RULES
from klpbuild.check.generated import read_generated
from klpbuild.check.instructions import Instructions
from klpbuild.check.kernelside import KernelSide, modinfo
from klpbuild.check.layout import offsets_in_memory
from klpbuild.check.patched import Patched
from klpbuild.check.pointers import Pointers
from klpbuild.check.rule import Effect, Finding, Needs, Rule, Unchecked
from klpbuild.check.signature import Signature
from klpbuild.check.structmodule import THIS_MODULE, name_in
from klpbuild.check.tables import Tables, find_tables
from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.errors import KlpError
from klpbuild.names import object_name

if TYPE_CHECKING:
    from klpbuild.check.explain import Explainer


class Relocation(NamedTuple):
    """A record of a relocation section.

    :ivar kind: ``r_type``.
    :ivar symbol: index of its symbol.
    """

    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass
class Subject:
    """A module whose headers are sound.

    :ivar elf: the file.
    :ivar file_name: names the module where ``.modinfo`` does not.
    :ivar kernel: None when no kernel is named.
    :ivar signature: what stands behind the module, None when nothing does.
    :ivar findings: what was found so far.
    :ivar unchecked: what could not be checked.
    """

    elf: ElfFile
    file_name: str
    kernel: KernelSide | None
    signature: Signature | None = None
    findings: list[Finding] = field(default_factory=list)
    unchecked: list[Unchecked] = field(default_factory=list)

    @cached_property
    def info(self) -> dict[str, list[str]]:
        """The tags of ``.modinfo``."""
        return modinfo(self.elf, self.version)

    @cached_property
    def name(self) -> str:
        """The module's name for the kernel, from struct module."""
        section = self.elf.section(THIS_MODULE)
        return (section and name_in(self.elf, section)) or self.information_name

    @cached_property
    def information_name(self) -> str:
        """The module's name in the kernel's first messages, from ``.modinfo``."""
        names = self.info.get("name")
        return names[0] if names else object_name(self.file_name)

    @cached_property
    def patched(self) -> tuple[Patched, ...] | None:
        """The objects that its tables patch, None when it has none."""
        return self.tables.objects if self.tables else read_generated(self.elf)

    @cached_property
    def tables(self) -> Tables | None:
        """Its static tables, None when it has none."""
        return find_tables(self.pointers)

    @cached_property
    def explainer(self) -> Explainer:
        """The explainer of its functions, which check and report page ask.

        :raises KlpError: when they cannot be explained.
        """
        # The disassembler takes a tenth of a second to import: other checks do without.
        from klpbuild.check.explain import Explainer

        return Explainer(self)

    @property
    def version(self) -> tuple[int, int] | None:
        """The kernel's version."""
        return self.kernel.version if self.kernel else None

    @property
    def level(self) -> Needs:
        """The inputs that are at hand."""
        if self.kernel is None:
            return Needs.MODULE
        if self.kernel.database is None:
            return Needs.HEADERS
        code = self.kernel.kernel.vmlinux or self.kernel.kernel.modules
        return Needs.CODE if code else Needs.SYMBOLS

    def holds(self, rule: Rule) -> bool:
        """Tell whether the kernel has a rule."""
        return rule.holds_for(self.version, self.elf.e_machine)

    def applies(self, rule: Rule) -> bool:
        """Tell whether a rule holds for the kernel and can be checked with what is at hand."""
        known = rule.knows(self.elf.e_machine)
        return known and rule.needs <= self.level and self.holds(rule)

    def find(
        self, rule: Rule, what: str, where: str = "", effect: Effect | None = None, **values: object
    ) -> None:
        """Add a finding: a rule is broken, if the kernel has it.

        :param values: what stands for the ``{fields}`` of the kernel's words and of the hint.
        """
        if not self.applies(rule):
            return
        effect = effect or rule.effect
        says = rule.message(self.version, {"module": self.name, **values}, self.elf.e_machine)
        if effect is Effect.ACCEPTED:
            says = ""
        finding = Finding(rule, what, where, says, effect, hint_for(rule, values))
        if finding not in self.findings:
            self.findings.append(finding)

    def not_checked(self, rule: Rule, why: str, about: str = "") -> None:
        """Record that a rule could not be checked."""
        unchecked = Unchecked(rule, why, about)
        if self.applies(rule) and unchecked not in self.unchecked:
            self.unchecked.append(unchecked)

    @contextmanager
    def guarded(self, rule: Rule) -> Iterator[None]:
        """Convert errors of the reader in the block into findings of a rule.

        :raises KlpError: when another file is broken, one of the kernel's.
        """
        try:
            yield
        except KlpError as error:
            if not all(p.where.startswith(self.elf.name) for p in error.problems):
                raise
            for problem in error.problems:
                where = problem.where if problem.where != self.elf.name else ""
                self.find(rule, problem.what, where)

    @cached_property
    def relocation_sections(self) -> tuple[tuple[Section, Section], ...]:
        """Each SHT_RELA section with the section that it changes, in the file's order."""
        sections = self.elf.sections
        return tuple(
            (s, sections[s.sh_info])
            for s in self.elf.relocation_sections
            if s.sh_info < len(sections)
        )

    @cached_property
    def applied(self) -> dict[int, dict[int, Relocation]]:
        """Index of a section to the relocations that change it, by their offsets.

        Those that no reader can make sense of are left out: see `unreadable`.
        """
        none = [a.none for a in ARCHITECTURES if a.machine == self.elf.e_machine]
        found: dict[int, dict[int, Relocation]] = {}
        for section, target in self.relocation_sections:
            with suppress(KlpError):
                rows = self.elf.relocations(section).tolist()
                records = map(Relocation._make, rows)
                kept = {row.offset: row for row in records if row.kind not in none}
                found.setdefault(target.index, {}).update(kept)
        return found

    @cached_property
    def unreadable(self) -> frozenset[int]:
        """The sections of which some relocations are broken; `check_relocations` reports them."""
        found = set()
        for section, target in self.relocation_sections:
            try:
                self.elf.relocations(section)
            except KlpError:
                found.add(target.index)
        return frozenset(found)

    @cached_property
    def references(self) -> dict[tuple[int, int], str]:
        """Section and offset of each relocation of code to the name of its symbol."""
        return {
            (index, row.offset): self.elf.symbol_name(row.symbol)
            for index, rows in self.applied.items()
            if self.elf.sections[index].sh_flags & SHF.EXECINSTR
            for row in rows.values()
        }

    @cached_property
    def entry_calls(self) -> frozenset[tuple[int, int]]:
        """Section and offset of each relocation that names the function entries call."""
        names = {a.entry_symbol for a in ARCHITECTURES if a.entry_symbol}
        return frozenset(at for at, name in self.references.items() if name in names)

    @cached_property
    def instructions(self) -> Instructions:
        """The instructions of its code, of x86-64."""
        return Instructions(self.elf)

    @cached_property
    def offsets(self) -> dict[int, int]:
        """Where its sections will be, from the beginning of a page, by index."""
        return offsets_in_memory(self.elf)

    @cached_property
    def pointers(self) -> Pointers:
        """The pointers in its data, and what begins where."""
        return Pointers(self.elf)

    def levels_unchecked(self) -> Iterator[Unchecked]:
        """List the rules for which too little is at hand, or the architecture is not known."""
        machine = self.elf.e_machine
        for rule in RULES:
            if not self.holds(rule):
                continue
            if rule.needs > self.level:
                yield Unchecked(rule, rule.needs.missing)
            elif not rule.knows(machine):
                name = by_machine(machine).name
                why = f"what the kernel does there is not known for {name}"
                why = f"code of {name} is not followed" if rule.needs is Needs.CODE else why
                yield Unchecked(rule, why)


class _Values(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return "..."


def hint_for(rule: Rule, values: dict[str, object]) -> str:
    """Fill in a rule's hint; fields that are not known become dots."""
    return rule.hint.format_map(_Values(values))


_SET_ASIDE = (".modinfo", "__versions", ".data..percpu")


def is_relocated(section: Section) -> bool:
    """Tell whether the module loader applies relocations to a section.

    It takes SHF_ALLOC off some (rewrite_section_headers(), layout_and_allocate()), and
    gives it to the symbol table (layout_symtab()).
    """
    if section.sh_type == SHT.SYMTAB:
        return True
    return bool(section.sh_flags & SHF.ALLOC) and section.name not in _SET_ASIDE


def is_livepatch_section(section: Section) -> bool:
    """Tell whether the module loader leaves a section to livepatch."""
    return bool(section.sh_flags & SHF.RELA_LIVEPATCH)


def place(section: Section, offset: int, symbol: str = "") -> str:
    """Format a place: ``.text+0x12:printk``."""
    return f"{section.name}+{offset:#x}" + (f":{symbol}" if symbol else "")
