"""List the words of a changed variable that a callback of the livepatch writes."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from klpbuild.extract.atoms import Atom, Literal, Reference
from klpbuild.extract.correlate import Correlation, Identities
from klpbuild.extract.objects import CodeObject
from klpbuild.extract.sections import (
    Memory,
    SectionKind,
    holds_variables,
    is_exit,
    is_init,
    memory_of,
)

_WORD = 8


@dataclass(frozen=True)
class Word:
    """An aligned word of a variable whose content changes.

    :ivar offset: from the variable's first byte.
    :ivar size: 1, 2, 4 or 8 bytes.
    :ivar old: what the kernel has there, without what `was` adds.
    :ivar new: what the patch makes of it, without what `becomes` adds.
    :ivar was: the pointer that the kernel has there.
    :ivar becomes: the pointer that the patch puts there.
    """

    offset: int
    size: int
    old: bytes
    new: bytes
    was: Reference | None = None
    becomes: Reference | None = None


def why_not_written(correlation: Correlation, atom: Atom) -> str:
    """Explain why no callback can write what changes in a variable; empty if one can."""
    twin = correlation.to_original[atom]
    memory = memory_of(twin.section)
    if len(twin) != len(atom):
        return "its size changes"
    if twin.kind is not SectionKind.DATA or not holds_variables(twin.section.name):
        return "it is no variable"
    if is_init(twin.section.name) or is_exit(twin.section.name):
        return "it is used at the start or the end only"
    if memory is Memory.PER_CPU or memory is not memory_of(atom.section):
        return "it is in other memory"
    pointer = correlation.patched.arch.absolute_64
    for code, one in ((correlation.original, twin), (correlation.patched, atom)):
        for reference in code.references(one):
            place = reference.offset - (one.entry - one.start)
            if reference.type != pointer or place % _WORD or _alignment(twin) % _WORD:
                return "it has a reference that is no aligned pointer"
    for word in words(correlation, atom):
        if word.was is not None and not _is_named(correlation.original, word.was):
            return "a pointer to something without a name was there"
    return ""


def words(correlation: Correlation, atom: Atom) -> tuple[Word, ...]:
    """List what changes in a variable of the patched object, by offset."""
    twin = correlation.to_original[atom]
    identities = Identities(correlation)
    codes = (correlation.original, twin, False), (correlation.patched, atom, True)
    contents = [code.contents(one)[one.entry - one.start :] for code, one, _ in codes]
    pointers = [
        {
            reference.offset - (one.entry - one.start): reference
            for reference in code.references(one)
        }
        for code, one, _ in codes
    ]
    found = []
    offset, length = 0, len(contents[1])
    while offset < length:
        size = _alignment(twin)
        while offset % size or offset + size > length:
            size //= 2
        old, new = (content[offset : offset + size] for content in contents)
        was, becomes = (there.get(offset) for there in pointers)
        meaning = [
            identities.target(patched, reference) if reference is not None else None
            for reference, patched in ((was, False), (becomes, True))
        ]
        if old != new or meaning[0] != meaning[1]:
            found.append(Word(offset, size, old, new, was, becomes))
        offset += size
    return tuple(found)


def _alignment(atom: Atom) -> int:
    """Compute how a variable is surely aligned, up to a word."""
    align = max(atom.section.sh_addralign, 1)
    return gcd(align, atom.entry or align, _WORD)


def _is_named(code: CodeObject, reference: Reference) -> bool:
    target = reference.target
    if isinstance(target, Literal):
        return False
    return bool(target.symbols) if target is not None else code.undefined(reference) is not None
