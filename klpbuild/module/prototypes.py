"""Compare functions that C files define or declare with the kernel's: result and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from klpbuild.elf.btf import BROKEN
from klpbuild.elf.dwarf import Dwarf, Unit
from klpbuild.elf.prototypes import NONE, Prototype, Prototypes, in_btf
from klpbuild.errors import KlpError, Problems, broken
from klpbuild.extract.names import is_clone
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
        defined = {symbol.name for symbol in source.object.symbol_list if symbol.is_defined}
        for old, new in wanted:
            if new not in defined or old.symbol in source.accepted:
                continue
            own = source.prototypes.functions.get(new, [])
            with problems.collect():
                if is_clone(old.symbol):
                    raise _of_a_clone(source, old, new, own)
                known = _kernels(side, old) if own else NONE
                if not known.functions:
                    lacks = f"the debug information at hand does not have {old.symbol}"
                    lacks = lacks if own else "compiled without debug information"
                    untold[f"prototype of {new}: {lacks}"] = None
                    continue
                there = known.functions[old.symbol]
                for each in own:
                    if not any(each.serves(other, known.tags) for other in there):
                        raise _difference(source, old, new, each, known)
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
                or is_clone(function.symbol)
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
        where=_where(source, own),
        why=f"It is {own}, the kernel's is {there}.\n{called}",
        hint="Take the function's head from this kernel's source.\n"
        f'If the difference does no harm, accept it: accept_layouts = ["{old.symbol}"]'
        " in livepatch.toml.",
    )


def _of_a_clone(source: Source, old: Candidate, new: str, own: Sequence[Prototype]) -> KlpError:
    return KlpError(
        f"{new} replaces {old.symbol}, a clone, and may be called otherwise than it is written",
        where=_where(source, own[0]) if own else str(source.path),
        why="".join(f"It is {each}.  " for each in own[:1])
        + "gcc makes clones of a function for calls that it knows: they may\n"
        "leave parameters away, or pass what one points to in its place.",
        hint="Replace the functions that call it, or make the livepatch from a patch.\n"
        f"If the clone's code takes what {new} takes, accept it: accept_layouts = "
        f'["{old.symbol}"]\nin livepatch.toml.',
    )


def _where(source: Source, own: Prototype) -> str:
    files = Unit(Dwarf(source.object), 0).file_names()
    name = files[own.file] if own.file < len(files) else ""
    return f"{source.own_file(name) or source.path}:{own.line}"
