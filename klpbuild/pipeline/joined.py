"""Check whether the parts of a livepatch can be in one module, and link them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from klpbuild.elf.constants import SHN_UNDEF
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import Problems
from klpbuild.kernel.tree import Kernel
from klpbuild.module.livepatch import FILE_NAME, Function
from klpbuild.module.states import allocates
from klpbuild.proof.references import rename_undefined
from klpbuild.request.chosen import Chosen
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports

#: Before a symbol's name while the linker must not take it for another one of that name.
_APART = "klpbuild_apart_"


def old_copies(parts: Mapping[str, Sequence[Path]], functions: Iterable[Function]) -> Iterator[str]:
    """Name the functions that a part has a copy of, as they were, and that another one replaces.

    :param parts: the objects of each part.
    :param functions: what the livepatch replaces.
    """
    replaced = {function.old.partition(".")[0]: function for function in functions}
    for objects in parts.values():
        elves = [ElfFile.read(path) for path in objects]
        defined = {
            symbol.name: elf.name
            for elf in elves
            for symbol in elf.symbol_list
            if symbol.is_function and symbol.is_defined
        }
        for symbol_name, place in defined.items():
            name = symbol_name.partition(".")[0]  # as in the source, without .isra.0
            function = replaced.get(name)
            if function is not None and function.new not in defined:
                yield f"{place}: has a copy of {name}(), which {function.where} replaces"


def _check_apart(parts: Mapping[str, Sequence[Path]], in_kernel: Callable[[str], bool]) -> None:
    """Check that no part defines what another one takes from the kernel.

    The linker would bind the one to the other: a part was written against the kernel alone, and
    what the livepatch's own C files define for all parts.

    :param parts: the objects of each part; own ones have no name.
    :param in_kernel: whether the kernel has a symbol of a name.
    :raises KlpError: with every symbol of which that is not so.
    """
    problems = Problems()
    read = {part: [ElfFile.read(path) for path in objects] for part, objects in parts.items()}
    defined = {
        symbol.name: part
        for part, objects in read.items()
        for elf in objects
        for symbol in elf.symbol_list
        if symbol.is_defined and not symbol.is_local
    }
    for part, objects in read.items():
        for elf in objects:
            for symbol in elf.symbol_list:
                other = defined.get(symbol.name, part)
                if symbol.st_shndx or other in ("", part):
                    continue
                if in_kernel(symbol.name):
                    problems.add(
                        f"{symbol.name!r} is the kernel's here, and {other} defines it",
                        where=elf.name,
                        why="In one module the one would be taken for the other.",
                        hint=f"Make it static in {other}, or give it another name there.",
                    )
    problems.check()


def check_states(chosen: Chosen, objects: Sequence[tuple[Path, Path]]) -> None:
    """Check that what makes shadow variables says so to the livepatch that takes its place.

    :param objects: the C files, each with its object.
    :raises KlpError: where neither the text of the C files nor a description does.
    """
    problems = Problems()
    for source, made in objects:
        part = chosen.part_of(source)
        livepatch = part.chosen.livepatch if part else chosen.livepatch
        if livepatch.own_tables or livepatch.states or not allocates(ElfFile.read(made)):
            continue
        problems.add(
            "makes shadow variables, which its text does not show",
            where=str(source),
            why="The livepatch that takes its place must know of them.",
            hint=f"Write state_version = 1 into {source.parent / FILE_NAME}.",
        )
    problems.check()


def check_parts(kernel: Kernel, parts: Mapping[str, Sequence[Path]], symbols: Path) -> None:
    """Check that the parts of a livepatch can be in one module.

    :param parts: the objects of each.
    :param symbols: the kernel's symbols.klp.
    :raises KlpError: when one defines what another one takes from the kernel.
    """
    database, exports = SymbolDatabase.read(symbols), Exports.read(kernel.module_symvers)
    _check_apart(parts, lambda n: bool(database.candidates(n)) or exports.find(n) is not None)


def set_apart(
    objects: Sequence[Path], names: Mapping[str, str]
) -> tuple[list[Path], dict[str, str]]:
    """Rename undefined symbols that must not be bound to those of the same name elsewhere.

    :param names: those that get another name after the link, see `LateNames`.
    :returns: the objects, and the names that are to be given back after the link.
    """
    back: dict[str, str] = {}
    out = []
    for path in objects:
        elf = ElfFile.read(path)
        undefined = {s.name for s in elf.symbol_list if s.st_shndx == SHN_UNDEF}
        aside = {name: f"{_APART}{name}" for name in names if name in undefined}
        if aside:
            path = path.with_suffix(".apart.o")
            rename_undefined(elf, aside).write(path)
        back |= {other: name for name, other in aside.items()}
        out.append(path)
    return out, back
