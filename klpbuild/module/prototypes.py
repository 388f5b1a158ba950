"""Compare functions that C files define or declare with the kernel's: result and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from klpbuild.elf.btf import BROKEN
from klpbuild.elf.dwarf import Dwarf, Unit
from klpbuild.elf.prototypes import NONE, Prototype, Prototypes, in_btf
from klpbuild.errors import KlpError, Problems, broken
from klpbuild.extract.names import source_name
from klpbuild.module.livepatch import PatchedObject
from klpbuild.module.structures import KernelTypes, Source, is_own_file
from klpbuild.names import VMLINUX
from klpbuild.symbols.database import Candidate

_OBJECT = "struct klp_object"
_PRE_PATCH = Prototype(("int", f"{_OBJECT} *"), ("4 bytes", "8 bytes"))
_OTHERS = Prototype(("void", f"{_OBJECT} *"), ("void", "8 bytes"))


class Replacement(NamedTuple):
    """A function of the kernel, and the one of a C file that takes its place."""

    old: Candidate
    new: str


def check_prototypes(
    side: KernelTypes,
    sources: Iterable[Source],
    replacements: Iterable[Replacement],
    problems: Problems,
) -> tuple[str, ...]:
    """Check that each replacement can be called as the function that it replaces.

    :param problems: takes those that cannot.
    :returns: what could not be compared, and why.
    """
    wanted = tuple(replacements)
    untold: dict[str, None] = {}
    for source in sources:
        for old, new in wanted:
            for prototype in source.prototypes.functions.get(new, ()):
                if old.symbol in source.accepted:
                    continue
                if _is_clone(old):
                    untold[f"prototype of {new}: {old.symbol} is a clone"] = None
                    continue
                with problems.collect():
                    known = _kernels(side, old)
                    if not known.functions:
                        why = f"the debug information at hand does not have {old.symbol}"
                        untold[f"prototype of {new}: {why}"] = None
                    elif not any(
                        prototype.serves(other, known.tags) for other in known.functions[old.symbol]
                    ):
                        raise _difference(source, old, new, prototype, known)
    return tuple(untold)


def check_declarations(
    side: KernelTypes,
    sources: Iterable[Source],
    meant: Mapping[str, Candidate],
    problems: Problems,
) -> None:
    """Check that C files declare functions of the kernel as these are.

    :param meant: what the kernel has for each undefined symbol.
    :param problems: takes those that would be called otherwise.
    """
    for source in sources:
        names = Unit(Dwarf(source.object), 0).file_names() if source.has_types else ()
        wanted = set(filter(is_own_file(source, side.kernel), names))
        for symbol, own in source.prototypes.declared.items():
            function = meant.get(symbol)
            if (
                function is None
                or _is_clone(function)
                or function.symbol in source.accepted
                or own.file >= len(names)
                or names[own.file] not in wanted
            ):
                continue
            with problems.collect():
                known = _kernels(side, function)
                there = known.functions.get(function.symbol, [own])
                if not any(other.serves(own, known.tags) for other in there):
                    raise _difference(source, function, "", own, known)


def _is_clone(function: Candidate) -> bool:
    """Tell whether a function's parameters may not be those of its source."""
    return source_name(function.symbol) != function.symbol


def check_callbacks(
    sources: Iterable[Source], objects: Iterable[PatchedObject], problems: Problems
) -> None:
    """Check that callbacks can be called as the kernel does (include/linux/livepatch.h).

    :param problems: takes those that cannot: the kernel would read what a register holds.
    """
    every = [source.prototypes for source in sources]
    known = [(own.functions, own.tags | {_OBJECT}) for own in every]
    for each in objects:
        for when, name in (item for calls in each.all_callbacks for item in calls.items()):
            wanted = _PRE_PATCH if when == "pre_patch" else _OTHERS
            for functions, tags in known:
                for own in functions.get(name, ()):
                    if own.is_global and not own.serves(wanted, tags):
                        problems.add(
                            f"callback {name!r} is {own}",
                            where=each.where,
                            why=f"The kernel calls {when} as {wanted}.",
                            hint="Write it so.",
                        )


def _kernels(side: KernelTypes, old: Candidate) -> Prototypes:
    """Read the prototypes of the kernel's function; none where what is at hand has none."""
    functions, tags, _ = side.prototypes(old)
    every = chain.from_iterable(functions.values())
    # Of an alias, as that of a system call without parameters, only the address is known.
    found = functions.get(old.symbol) or [p for p in every if p.address == old.address]
    if found:
        return Prototypes({old.symbol: found}, tags, {})
    types = side.type_information(old.object)
    if types is None:
        return NONE
    with broken(BROKEN, types.where):
        found = list(in_btf(types, old.symbol))
    return Prototypes({old.symbol: found} if found else {}, frozenset(), {})


def _difference(
    source: Source, old: Candidate, new: str, own: Prototype, known: Prototypes
) -> KlpError:
    files = Unit(Dwarf(source.object), 0).file_names()
    name = files[own.file] if own.file < len(files) else ""
    file = source.own_file(name) or source.path
    there = " or ".join(map(str, known.functions[old.symbol]))
    kernels = old.symbol if old.object == VMLINUX else f"{old.symbol} of {old.object}"
    what = f"{new} has another result or other parameters than {kernels}, which it replaces"
    called = "The kernel calls it as the one that it replaces."
    if not new:
        what, called = (
            f"declares {kernels} otherwise than the kernel",
            "Calls of it would pass or take something else.",
        )
    return KlpError(
        what,
        where=f"{file}:{own.line}",
        why=f"It is {own}, the kernel's is {there}.\n{called}",
        hint="Take the function's head from this kernel's source.\n"
        f'If the difference does no harm, accept it: accept_layouts = ["{old.symbol}"]'
        " in livepatch.toml.",
    )
