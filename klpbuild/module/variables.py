"""Compare variables that C files declare themselves with the kernel's: sizes and kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from klpbuild.elf.btf import BROKEN, BtfKind
from klpbuild.elf.dwarf import Dwarf, Unit
from klpbuild.elf.dwarftypes import DwarfTypes
from klpbuild.elf.types import Types
from klpbuild.elf.variables import Variable, at_address, fits, told, variables
from klpbuild.errors import KlpError, Problems, broken
from klpbuild.extract.names import base_name
from klpbuild.module.structures import KernelTypes, Source, is_own_file
from klpbuild.names import VMLINUX
from klpbuild.symbols.database import Candidate

#: Letters of nm for variables.
_VARIABLES = "bBdDrRvVgGsS?"


def check_variables(
    side: KernelTypes,
    sources: Iterable[Source],
    meant: Mapping[str, Candidate],
    problems: Problems,
) -> tuple[str, ...]:
    """Check that C files declare variables of the kernel as these are.

    :param meant: what the kernel has for each undefined symbol.
    :param problems: takes those that would be read or written otherwise.
    :returns: what could not be compared, and why.
    """
    untold: dict[str, None] = {}
    for source in sources:
        if not source.has_types:
            if b"extern" in source.path.read_bytes():
                why = "compiled without debug information"
                untold[f"variables of {source.path.name}: {why}"] = None
            continue
        unit = Unit(Dwarf(source.object), 0)
        names, types = unit.file_names(), DwarfTypes(unit)
        is_own = is_own_file(source, side.kernel)
        for own in variables(unit):
            there = meant.get(own.symbol)
            if (
                there is None
                or not own.is_declared
                or there.kind not in _VARIABLES
                or there.symbol in source.accepted
                or own.file >= len(names)
                or not is_own(names[own.file])
            ):
                continue
            with problems.collect():
                known = list(_kernels(side, there))
                if not known:
                    why = f"the debug information at hand does not have {there.symbol}"
                    untold[f"type of {own.name}: {why}"] = None
                elif not any(fits(types, own.type, *each) for each in known):
                    raise _difference(source, names[own.file], own, types, there, known[0])
    return tuple(untold)


def _kernels(side: KernelTypes, there: Candidate) -> Iterator[tuple[Types, int]]:
    """Find the type of a variable of the kernel; of BTF those of all variables of its name.

    BTF has per-CPU variables alone.
    """
    name, found = base_name(there.symbol), False
    dwarf = side.debug_information(there.object)
    if dwarf is not None and there.address is not None:
        section = dwarf.elf.section(there.section) if there.object != VMLINUX else None
        number = section.index if section else 0
        for unit, variable in at_address(dwarf, there.address, number):
            if variable.name == name:  # not another one that the linker puts there, too
                found = True
                yield DwarfTypes(unit), variable.type
    types = side.type_information(there.object)
    if types is None or found:
        return
    with broken(BROKEN, types.where):
        for number in types.numbers(name, frozenset({BtfKind.VAR})):
            yield types, types.type(number).other


def _difference(
    source: Source,
    file: str,
    own: Variable,
    types: Types,
    there: Candidate,
    known: tuple[Types, int],
) -> KlpError:
    kernels = there.symbol if there.object == VMLINUX else f"{there.symbol} of {there.object}"
    return KlpError(
        f"declares {kernels} otherwise than the kernel",
        where=f"{source.own_file(file) or source.path}:{own.line}",
        why=f"It is {told(types, own.type)}; the kernel's is {told(*known)}.\n"
        "Code would read or write something else.",
        hint="Take the declaration from this kernel's source.\n"
        f'If the difference does no harm, accept it: accept_layouts = ["{there.symbol}"]'
        " in livepatch.toml.",
    )
