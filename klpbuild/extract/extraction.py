"""Two compilations of one source file in, an object with what changed out."""

from __future__ import annotations

from klpbuild.arch import X86_64, Architecture
from klpbuild.elf.constants import ET
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.extract.assemble import assemble
from klpbuild.extract.changes import compare
from klpbuild.extract.correlate import Correlation, correlate
from klpbuild.extract.inclusion import Inclusion, include
from klpbuild.extract.names import source_name
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.result import (
    ChangedFunction,
    Extraction,
    Included,
    Key,
    KeyPolicy,
    KeyUse,
)
from klpbuild.extract.sections import SectionKind
from klpbuild.extract.sizes import EntrySizes
from klpbuild.extract.special import Tables


def keep_all_keys(key: Key) -> KeyUse:
    """The key policy for an object of vmlinux: all its keys are known when a module loads."""
    return KeyUse.SWITCHED


def extract(
    original: ElfFile,
    patched: ElfFile,
    *,
    entry_sizes: EntrySizes,
    arch: Architecture,
    source_file: str,
    target: str = "",
    in_module: bool = False,
    key_policy: KeyPolicy = keep_all_keys,
    renewed: frozenset[str] = frozenset(),
) -> Extraction:
    """Extract the functions that a patch changes, and what they need.

    Both objects are compiled with ``-ffunction-sections -fdata-sections`` and were not
    read by objtool.

    :param entry_sizes: sizes of the table entries of this kernel.
    :param source_file: the source file, for messages and the STT_FILE symbol.
    :param target: what messages call the object; its file's name when it is empty.
    :param in_module: whether the object belongs to a module, where ``__exit`` code runs.
    :param renewed: global functions that are declared otherwise: the patched ones are new, and
        the kernel keeps its own.
    :param key_policy: decides about static keys and calls that the object does not own.
    :return: without changed functions when all that is new are globals, which another
        object of the same livepatch may use.
    :raises UnchangedError: when nothing changes.
    :raises KlpError: with every reason why the change cannot be
        made to a running kernel.
    """
    _check_kind(original, patched, arch)
    where = f"{source_file}:{target or original.name}"
    before, after = CodeObject(original, entry_sizes), CodeObject(patched, entry_sizes)
    correlation = correlate(before, after)
    _separate(correlation, renewed, where)
    tables = Tables(after)
    changes = compare(correlation, Tables(before), tables)
    chosen = include(
        correlation,
        changes,
        tables,
        arch=arch,
        where=where,
        in_module=in_module,
        key_policy=key_policy,
    )
    if not chosen.atoms:
        raise _nothing_changes(where, chosen)
    made, references, sections = assemble(correlation, chosen, tables, source_file)
    changed = []
    for atom in sorted(chosen.changed, key=lambda a: a.index):
        twin = correlation.to_original[atom]
        symbol = twin.symbols[0]
        why = chosen.atoms[atom].removeprefix("changed: ")
        changed.append(ChangedFunction(symbol.name, symbol.index, atom.name, why))
    return Extraction(
        object=made,
        changed=tuple(changed),
        new=tuple(atom.name for atom in changes.new if atom in chosen.atoms),
        globals=tuple(
            symbol.name
            for atom in sections
            if correlation.to_original.get(atom) is None
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
        notices=tuple(chosen.notices),
    )


def _separate(correlation: Correlation, names: frozenset[str], where: str) -> None:
    """Take functions of the patched object for new ones, which the original does not have.

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


def _check_kind(original: ElfFile, patched: ElfFile, arch: Architecture) -> None:
    for elf in (original, patched):
        if elf.e_type != ET.REL or elf.symtab is None:
            raise KlpError("is not a relocatable object with symbols", where=elf.name)
        if elf.e_machine != X86_64.machine or arch is not X86_64:
            raise KlpError(
                "is not an x86-64 object",
                where=elf.name,
                why="Source patches are built for x86-64 only.",
                hint="Write the livepatch by hand: that works on every architecture.",
            )


class UnchangedError(KlpError):
    """Both versions of an object are the same to a running kernel."""


def _nothing_changes(where: str, chosen: Inclusion) -> UnchangedError:
    return UnchangedError(
        "the patch changes no code that runs",
        where=where,
        why="Both versions compile to the same functions and variables.",
        hint="\n".join(chosen.notices),
    )
