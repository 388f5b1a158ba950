"""Extract what changed between two compilations of one source file into an object."""

from __future__ import annotations

from collections.abc import Iterator

from klpbuild.arch import Architecture, by_machine
from klpbuild.elf.constants import ET
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.assemble import assemble
from klpbuild.extract.atoms import Literal
from klpbuild.extract.changes import compare
from klpbuild.extract.correlate import Correlation
from klpbuild.extract.inclusion import Inclusion, include
from klpbuild.extract.names import source_name
from klpbuild.extract.part import Part
from klpbuild.extract.result import (
    ChangedFunction,
    Extraction,
    Included,
    Key,
    KeyPolicy,
    KeyUse,
)
from klpbuild.extract.sections import SectionKind
from klpbuild.extract.words import words
from klpbuild.terminal.stopwatch import measured


def keep_all_keys(key: Key) -> KeyUse:
    """Keep all keys: the key policy for vmlinux, whose keys are known when a module loads."""
    return KeyUse.SWITCHED


def extract(
    part: Part,
    arch: Architecture,
    key_policy: KeyPolicy = keep_all_keys,
    renewed: frozenset[str] = frozenset(),
) -> Extraction:
    """Extract as `extract_part` does, and refuse an object of which a livepatch takes nothing.

    :raises UnchangedError: when nothing changes.
    :raises OnlyStartError: when nothing but ``__init`` code changes.
    :raises KlpError: with every reason why the change cannot be made to a running kernel.
    """
    found = extract_part(part, arch, key_policy, renewed)
    if found.left_out and not found.changed and not found.words:
        raise OnlyStartError.together(left.problem for left in found.left_out)
    if not found.included and not found.words:
        raise UnchangedError(
            "the patch changes no code that runs",
            where=part.where,
            why="Both versions compile to the same functions and variables.",
            hint="\n".join(found.notices),
        )
    return found


@measured("take out what changes")
def extract_part(
    part: Part,
    arch: Architecture,
    key_policy: KeyPolicy = keep_all_keys,
    renewed: frozenset[str] = frozenset(),
) -> Extraction:
    """Extract the functions that a patch changes in one of its objects, and what they need.

    Both versions are compiled with ``-ffunction-sections -fdata-sections`` and were not
    read by objtool.

    :param part: the object, with its `Ties` to the others.
    :param key_policy: decides about static keys and calls that the object does not own.
    :param renewed: global functions that are declared otherwise: the patched ones are new, and
        the kernel keeps its own.
    :returns: with nothing included when nothing changes, and without changed functions when
        all that is new are globals, which another object of the same livepatch may use.
    :raises KlpError: with every reason why the change cannot be made to a running kernel.
    """
    _check_kind(part.original, part.patched, arch)
    correlation, tables = part.correlation, part.new.tables
    _separate(correlation, renewed, part.where)
    changes = compare(correlation, part.old.tables, tables, part.known)
    chosen = include(part, changes, arch, key_policy)
    made, references, sections = assemble(correlation, chosen, tables, part.source)
    return Extraction(
        number=part.number,
        object=made.to_bytes(),
        changed=tuple(_replaced(correlation, chosen)),
        new=tuple(atom.name for atom in changes.new if atom in chosen.atoms),
        globals=tuple(
            symbol.name
            for atom in sections
            if correlation.is_new(atom)
            for symbol in atom.symbols
            if not symbol.is_local
        ),
        removed=tuple(atom.name for atom in changes.removed),
        references=references,
        keys=tuple(sorted(chosen.keys.items(), key=lambda item: item[0].name)),
        included=tuple(
            Included(atom.name, sections[atom], len(atom), chosen.atoms[atom])
            for atom in sections
            if atom.symbols
        ),
        notices=(
            *chosen.notices,
            *(
                f"{part.where}: {name} moves to {other}"
                for name, other in part.ties.left.items()
                if name not in part.after
            ),
        ),
        words=sum(len(words(correlation, atom)) for atom in chosen.written),
        written=tuple(correlation.to_original[a].symbols[0].name for a in chosen.written),
        stays=any(
            isinstance(word.becomes.target, Literal) or word.becomes.target in chosen.atoms
            for atom in chosen.written
            for word in words(correlation, atom)
            if word.becomes is not None
        ),
        left_out=tuple(chosen.left_out),
        state=frozenset(chosen.state),
    )


def _separate(correlation: Correlation, names: frozenset[str], where: str) -> None:
    """Treat functions of the patched object as new ones, which the original does not have.

    :raises KlpError: when one's address is kept, for the kernel would go on with its own.
    """
    patched = correlation.patched
    separated = {a for a in patched.atoms if a.is_function and source_name(a.name) in names}
    for atom in separated & correlation.to_original.keys():
        twin = correlation.to_original.pop(atom)
        correlation.to_patched.pop(twin, None)
    for user in patched.atoms if separated else ():
        if user.kind is SectionKind.METADATA:
            continue
        for reference in patched.references(user):
            if reference.target in separated and not patched.is_branch(user, reference):
                raise KlpError(
                    f"{user.name} keeps the address of a function that is declared otherwise",
                    where=where,
                    why="Who calls it by that address need not know its new declaration.",
                    hint="Add a function of another name.",
                )


def _replaced(correlation: Correlation, chosen: Inclusion) -> Iterator[ChangedFunction]:
    """List the functions of the kernel that are replaced, and by what."""
    for atom in sorted(chosen.changed, key=lambda a: a.index):
        why = chosen.atoms[atom].removeprefix("changed: ")
        twin = correlation.to_original.get(atom)
        if twin is not None:
            runs = [s for s in twin.symbols if s.name not in correlation.ties.overridden]
            symbol = (runs or twin.symbols)[0]
            yield ChangedFunction(symbol.name, symbol.index, atom.name, why)
        for origin in correlation.origins(atom):
            index = origin.symbol.index if origin.symbol is not None else None
            yield ChangedFunction(origin.name, index, atom.name, why, origin)


def _check_kind(original: ElfFile, patched: ElfFile, arch: Architecture) -> None:
    for elf in (original, patched):
        if elf.e_type != ET.REL or elf.symtab is None:
            raise KlpError("is not a relocatable object with symbols", where=elf.name)
        arch.decoded(elf.name)
        if by_machine(elf.e_machine, elf.name) is not arch:
            raise KlpError(f"is not an object for {arch.name}", where=elf.name)


class UnchangedError(KlpError):
    """The patch changes nothing of an object in a running kernel."""


class OnlyStartError(KlpError):
    """The patch changes nothing but ``__init`` code, which has run."""
