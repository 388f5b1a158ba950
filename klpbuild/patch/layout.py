"""Compare layouts of structures and numbers of enumerators before and after a patch.

What exists when a livepatch is loaded keeps those that it was made with.

gcc writes them as BTF (``-gbtf``, since gcc 12; include/uapi/linux/btf.h), clang as DWARF.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from klpbuild.elf import abbreviations, btf, dwarf, dwarftypes, types
from klpbuild.elf.btf import BROKEN, Btf
from klpbuild.elf.dwarf import Dwarf, Unit
from klpbuild.elf.dwarftypes import DwarfTypes
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.types import Kind, Layout
from klpbuild.errors import KlpError, broken
from klpbuild.files.kept import code_key, content_key
from klpbuild.files.whole import write_file
from klpbuild.patch.csource import (
    Lines,
    Marks,
    closing_braces,
    closing_parentheses,
    code_alone,
    directive_lines,
    function_bodies,
    function_lines,
    without_comments,
)
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.touched import changed_lines

#: A macro that is a number, or numbers and what links them.
_NUMBER = re.compile(
    rb"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+"
    rb"((?:(?:0[xX][\da-fA-F]++|\d++)[uUlL]*|BIT(?:_ULL)?\(|[ \t()<>|*+~-])++(?:/[*/].*)?)$",
    re.MULTILINE,
)
#: All types that a file declares are wanted, used or not.
_ALL = "-fno-eliminate-unused-debug-types"
BTF_FLAGS = ("-g0", "-gbtf", _ALL)
CLANG_FLAGS = ("-g", "-gdwarf-5", _ALL)
_STRUCTURES = (Kind.STRUCT, Kind.UNION)
#: What the names of members begin with that a patch takes away, and that keep their places.
KEPT = "klpbuild_kept_"


def layouts(elf: ElfFile) -> dict[str, frozenset[Layout]]:
    """Read the layouts in an object's debug information, by names such as ``struct page``.

    A name may stand for several, in different functions.

    :raises KlpError: when the object has none.
    """
    types = _types(elf, "Layouts of structures are read from it.")
    found: dict[str, set[Layout]] = defaultdict(set)
    with broken(BROKEN, elf.name):
        for number in types.every:
            kind, name = types.kind(number), types.name(number)
            if kind is Kind.TYPEDEF:
                aim = types.plain(number)
                if types.kind(aim) in _STRUCTURES and not types.name(aim):
                    found[name].add(_as_named(types.layout(aim)))
            elif kind in _STRUCTURES and name:
                found[f"{kind.value} {name}"].add(_as_named(types.layout(number)))
    return {name: frozenset(several) for name, several in found.items()}


def _as_named(layout: Layout) -> Layout:
    """Give members that keep their places the names that they had."""
    if not any(member.name.startswith(KEPT) for member in layout.members):
        return layout
    named = (replace(member, name=member.name.removeprefix(KEPT)) for member in layout.members)
    return Layout(layout.size, tuple(sorted(named)))


def enumerators(elf: ElfFile) -> dict[str, tuple[str, int]]:
    """Read the enumerators in debug information: the enumeration and the number of each.

    That of a nameless enumeration stands for itself, as ``enumerator X``.

    :raises KlpError: when the object has none.
    """
    types = _types(elf, "Numbers of enumerators are read from it.")
    found = {}
    with broken(BROKEN, elf.name):
        for number in types.enumerations():
            own = types.name(number)
            for name, value in types.enumerators(number):
                found[name] = (f"enum {own}" if own else f"enumerator {name}"), value
    return found


def _types(elf: ElfFile, why: str) -> Btf | DwarfTypes:
    types = Btf.of(elf)
    if types is None and elf.section(".debug_info"):
        return DwarfTypes(Unit(Dwarf(elf), 0))
    if types is None:
        raise KlpError("has no debug information", where=elf.name, why=why)
    return types


@dataclass(frozen=True)
class Compared:
    """What differs of an object's structures and enumerations before and after a patch.

    :ivar before: all layouts, and so `after`; empty when nothing differs.
    :ivar layouts: structures that are laid out otherwise, and what is other about each.
    :ivar enumerators: enumerations that are numbered otherwise, and which numbers.
    """

    before: dict[str, frozenset[Layout]] = field(default_factory=dict)
    after: dict[str, frozenset[Layout]] = field(default_factory=dict)
    layouts: tuple[tuple[str, str], ...] = ()
    enumerators: tuple[tuple[str, str], ...] = ()


def compare_layouts(before: ElfFile, after: ElfFile, kept: Path) -> Compared:
    """Compare the layouts and enumerators in the debug information of two objects.

    That nothing differs is kept by the content of both and of the code that compares: reading
    all structures of a file takes longer than all else about a file that is compiled already.

    :param kept: the directory for that.
    """
    code = code_key(abbreviations, btf, dwarf, dwarftypes, types, sys.modules[__name__])
    same = kept / f"{content_key(code, before.data, after.data).hex()}.same"
    if same.is_file() or _same_btf(before, after):
        return Compared()
    olds, news = layouts(before), layouts(after)
    changed = tuple(changed_layouts(olds, news))
    others = tuple(changed_enumerators(enumerators(before), enumerators(after)))
    if not changed and not others:
        with suppress(KlpError):  # a cache that cannot be written costs time only
            write_file(same, b"")
        return Compared()
    return Compared(olds, news, changed, others)


def _same_btf(before: ElfFile, after: ElfFile) -> bool:
    """Tell whether two objects know the same types, byte by byte."""
    one, other = (elf.section(".BTF") for elf in (before, after))
    return bool(one and other and bytes(before.contents(one)) == bytes(after.contents(other)))


def changed_layouts(
    before: dict[str, frozenset[Layout]], after: dict[str, frozenset[Layout]]
) -> list[tuple[str, str]]:
    """List structures that are laid out otherwise, and what is other about each."""
    found = []
    for name in sorted(before.keys() & after.keys()):
        gone, come = before[name] - after[name], after[name] - before[name]
        if gone:
            found.append((name, _told(min(gone), min(come) if come else None)))
    return found


def changed_enumerators(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]
) -> list[tuple[str, str]]:
    """List enumerations whose enumerators have other numbers, and which these are.

    Names that tell how many there are may grow: nothing is stored as such a number.
    """
    found: dict[str, list[str]] = {}
    for name in before.keys() & after.keys():
        (key, old), (_, new) = before[name], after[name]
        if old != new and not _COUNT.search(name):
            found.setdefault(key, []).append(f"{name} is {new} instead of {old}")
    return [(key, ", ".join(sorted(told)[:3])) for key, told in sorted(found.items())]


_COUNT = re.compile(
    r"(^|_)(MAX|NUM|NUMBER|NR|N|COUNT|CNT|LAST|END|LIMIT|SIZE|TOTAL|SENTINEL)S?(_|$)",
    re.IGNORECASE,
)


def renumbered_macros(file: PatchedFile) -> list[str]:
    """Tell which macros of a file stand for another number, with the patch's line of each.

    They may be flags and states, as enumerators are; most are limits, which nothing stores.
    """
    before, after = (_numbers(text) for text in (file.original or b"", file.patched))
    return [
        f"{file.origin(line)}: {name.decode()} is {new.decode()} instead of {old.decode()}:"
        " what the running kernel has stored by it stays as it is"
        for name, (new, line) in after.items()
        for old in [before.get(name, (new, 0))[0]]
        if old != new
    ]


def _numbers(text: bytes) -> dict[bytes, tuple[bytes, int]]:
    """Map macros that stand for a number, and are defined once, to it and to their line."""
    lines, found = Lines(text), defaultdict(list)
    for match in _NUMBER.finditer(text):
        value = b" ".join(without_comments(match[2]).split())
        found[match[1]].append((value, lines.number(match.start())))
    return {name: rows[0] for name, rows in found.items() if len(rows) == 1}


def _told(old: Layout, new: Layout | None) -> str:
    if new is None:
        return "is gone"
    former = {member.name: member for member in old[1]}
    present = {member.name: member for member in new[1]}
    added = [name for name in present if name not in former]
    removed = [name for name in former if name not in present]
    moved = [name for name in former if name in present and former[name] != present[name]]
    parts = [
        f"{what} {', '.join([*dict.fromkeys(n.removesuffix('[]') for n in names)][:3])}"
        for what, names in (("gets", added), ("loses", removed), ("moves or resizes", moved))
        if names
    ]
    if old[0] != new[0]:
        parts.append(f"has {new[0]} bytes instead of {old[0]}")
    return ", ".join(parts)


def type_lines(text: bytes) -> set[int]:
    """List the numbers of the lines that declare structures, unions, enumerations and typedefs.

    Calls of macros outside of functions count: each may be a member or an enumerator where the
    file is included in a declaration (include/linux/lsm_hook_defs.h, kernel/sched/features.h).
    """
    plain = code_alone(text)
    lines, closing, ends = Lines(plain), closing_braces(plain), Marks(b";", plain)
    found: set[int] = set()
    for match in _NAMED.finditer(plain):
        found.update(lines.numbers(*match.span()))
    closed, done = closing_parentheses(plain), 0
    for match in _CALL.finditer(plain):
        if match.start() >= done:
            done = closed.get(match.end(), match.end())
            found.update(lines.numbers(match.start(), done))
    done = 0  # a type within another one is on that one's lines
    for match in _DECLARED.finditer(plain):
        if match["brace"] and match.start() >= done:
            done = ends.next(closing.get(match.start("brace"), len(plain)))
            found.update(lines.numbers(match.start(), done))
    return found


_NAMED = re.compile(rb"\btypedef\b[^;{}]*(?:;|\Z)?")
_CALL = re.compile(rb"^[A-Z]\w*[ \t]*(?=\()", re.MULTILINE)
_WORD = re.compile(rb"\w+")
_STATIC = re.compile(rb"\bstatic\b[^;{}()*]*")
_TYPE_NAME = re.compile(rb"\b(struct|union|enum)\s+(\w+)\b")
_DECLARED = re.compile(rb"\b(?:struct|union|enum)\b[^;(){}=,]*(?P<brace>\{)?")


def kept_local_types(file: PatchedFile) -> list[str]:
    """List types inside of functions that static variables have and a patch declares otherwise.

    BTF has none of these.  Variables on the stack do not outlive the function.
    """
    if file.original is None or not file.path.endswith(".c"):
        return []
    before, after = _kept_types(file.original), _kept_types(file.patched)
    return sorted(name for name in before.keys() & after.keys() if before[name] != after[name])


def _kept_types(text: bytes) -> dict[str, bytes]:
    found = {}
    for _, lines in function_bodies(code_alone(text)):
        body = b"\n".join(lines)
        closing, used, ends = closing_braces(body), _used_by_static(body), Marks(b";", body)
        before = done = 0
        for match in _DECLARED.finditer(body):
            begin, before = before, match.end()
            if not match["brace"] or match.start() < done:
                continue  # or within a type that counts as a whole
            kind, *tag = match[0].rstrip(b"{ \t\n").split()[:2]
            closed = closing.get(match.start("brace"), len(body))
            end = ends.next(closed)
            variable = _WORD.search(body, closed, end)
            statement = re.split(rb"[;{}]", body[begin : match.start()])[-1]
            name = b" ".join([kind, *(tag or [b"of", variable[0] if variable else b""])])
            if b"static" in statement.split() or name in used:
                done = end
                found[name.decode(errors="replace")] = b" ".join(body[match.start() : end].split())
    return found


def _used_by_static(body: bytes) -> set[bytes]:
    """Find the structures, unions and enumerations that static variables of a function are of."""
    ends, values, found = Marks(b"*;", body), Marks(b"=", body), set()
    for static in _STATIC.finditer(body):
        # A pointer's star, the value or the end comes first behind the type's name.
        end = ends.next(static.end())
        for match in _TYPE_NAME.finditer(static[0]):
            has_value = values.next(static.start() + match.end()) < end
            if has_value or body[end : end + 1] == b";":
                found.add(b" ".join(match.groups()))
    return found


def may_declare_variables(file: PatchedFile) -> bool:
    """Tell whether a patch may change declarations of variables that keep what they hold.

    Outside of functions any may be one; inside what is static, or a macro that may say so.
    """
    sides = zip((file.original or b"", file.patched), changed_lines(file), strict=True)
    for text, changed in sides:
        plain = code_alone(text)
        inside, lines = function_lines(plain), plain.split(b"\n")
        for number in changed:
            line = lines[number - 1] if number <= len(lines) else b""
            if line.strip() and (number not in inside or _DECLARES.search(line)):
                return True
    return False


_DECLARES = re.compile(rb"\bstatic\b|\b[A-Z][A-Z0-9_]{3,}\s*\(|[}]\s*\w+\s*(?:;|=)")


def may_change_layouts(file: PatchedFile) -> str:
    """Find where a patch changes declarations of types or directives, empty if nowhere."""
    original = file.original or b""
    gone, come = changed_lines(file)
    gone &= type_lines(original) | directive_lines(original)
    come &= type_lines(file.patched) | directive_lines(file.patched)
    if come:
        return file.origin(min(come))
    return file.where if gone else ""
