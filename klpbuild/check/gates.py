"""Check relocations that wait for an object: all is there when it loads, nothing runs before."""

from __future__ import annotations

from collections.abc import Iterator

from klpbuild.check import catalogue
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.loaders import LOADERS
from klpbuild.check.patched import Patched
from klpbuild.check.reach import Reach
from klpbuild.check.subject import Subject, is_livepatch_section, is_relocated, place
from klpbuild.elf.constants import SHN_LIVEPATCH
from klpbuild.elf.reader import Section
from klpbuild.errors import KlpError
from klpbuild.names import VMLINUX, LivepatchSection, LivepatchSymbol

#: Empty object name: the tables' name of the module itself.
_ITSELF = "the livepatch itself"

#: A section of livepatch relocations, the section that it changes, and its gate, a module.
_Waiting = tuple[Section, Section, str]


def check_gates(subject: Subject) -> None:
    """Check the owner and the users of every place that waits for a module."""
    waiting = [
        (section, target, name.gate)
        for section, target in subject.relocation_sections
        if is_livepatch_section(section)
        and is_relocated(target)
        and (name := LivepatchSection.parse(section.name)) is not None
        and name.gate != VMLINUX
        and section.sh_size
    ]
    if subject.kernel is not None:
        with subject.guarded(catalogue.BROKEN):
            _check_owners(subject, subject.kernel, list(_foreign(subject, waiting)))
    if waiting and subject.patched is None:
        subject.not_checked(catalogue.EARLY_CODE, "its tables are made at run time")
    elif waiting and subject.patched is not None and subject.applies(catalogue.EARLY_CODE):
        _check_code(subject, subject.patched, waiting)


def _foreign(
    subject: Subject, waiting: list[_Waiting]
) -> Iterator[tuple[str, LivepatchSymbol, str]]:
    """List each gate with a symbol of another module, and where it is first used."""
    for section, target, gate in waiting:
        seen = set()
        for offset, _, index, _ in subject.elf.relocations(section).tolist():
            symbol = _livepatch_symbol(subject, index)
            if symbol is not None and index not in seen and symbol.owner not in (VMLINUX, gate):
                yield gate, symbol, place(target, offset, symbol.symbol)
            seen.add(index)


def _check_owners(
    subject: Subject, kernel: KernelSide, foreign: list[tuple[str, LivepatchSymbol, str]]
) -> None:
    """Check that the owner of each symbol is there whenever the gate is."""
    rule = catalogue.OWNER_ABSENT
    if foreign and not kernel.modules:
        subject.not_checked(rule, "the kernel's modules are not at hand")
        return
    for gate, symbol, where in foreign:
        needs = kernel.dependencies.needs(gate, symbol.owner)
        if needs is None:
            why = f"whether {gate} depends on {symbol.owner} is not known"
            subject.not_checked(rule, why, where)
        elif not needs:
            what = (
                f"{symbol.symbol} of {symbol.owner} is looked up when {gate} loads, "
                "which does not depend on it"
            )
            subject.find(rule, what, where, symbol=symbol.symbol, gate=gate)


def _check_code(subject: Subject, patched: tuple[Patched, ...], waiting: list[_Waiting]) -> None:
    """Check that code that waits for a gate cannot run before the gate is loaded."""
    try:
        reach = Reach(subject, patched, LOADERS.get(subject.elf.e_machine))
    except KlpError as error:
        subject.not_checked(catalogue.EARLY_CODE, str(error))
        return
    objects = {each.object for each in patched}
    for section, target, gate in waiting:
        if gate not in objects or target.name.startswith(".init"):
            continue  # never applied, and freed before: other rules say so
        with subject.guarded(catalogue.BROKEN):
            seen = set()
            for offset, _, index, _ in subject.elf.relocations(section).tolist():
                users = reach.users(target.index, offset)
                symbol = _livepatch_symbol(subject, index)
                if symbol is None or (index, *users) in seen:
                    continue
                seen.add((index, *users))
                where = place(target, offset, symbol.symbol)
                for user, entry in users.items():
                    early = _is_early(subject, user, gate)
                    if early is None:
                        why = f"whether {user} depends on {gate} is not known"
                        subject.not_checked(catalogue.EARLY_CODE, why, where)
                    elif early:
                        name = reach.name(target.index, offset)
                        leads = "" if entry == name else f", to which {entry} leads"
                        what = (
                            f"{name or 'code'} runs with {user or _ITSELF}{leads}, "
                            f"and waits for {gate}"
                        )
                        subject.find(catalogue.EARLY_CODE, what, where, gate=gate)


def _is_early(subject: Subject, user: str, gate: str) -> bool | None:
    """Tell whether code that runs with an object can run before its gate is loaded."""
    if user in ("", VMLINUX):
        return True
    if user == gate:
        return False
    needs = subject.kernel.dependencies.needs(user, gate) if subject.kernel else None
    return None if needs is None else not needs


def _livepatch_symbol(subject: Subject, index: int) -> LivepatchSymbol | None:
    symbol = subject.elf.symbol(index)
    return LivepatchSymbol.parse(symbol.name) if symbol.st_shndx == SHN_LIVEPATCH else None
