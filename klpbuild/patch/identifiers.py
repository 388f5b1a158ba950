"""Find the objects that can see what patches change in headers, by the identifiers that change.

A change inside an inline function, a macro, an enumeration or a declaration makes no difference to
an object of which no text names it.  What names it in a header, an inline function or a macro,
is a name to look for itself; anything else there concerns all that include the header.  So does
a structure, unless it keeps its layout and a member gets another type: then its name counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from klpbuild.kernel.prepare import PreparedTree
from klpbuild.patch.csource import LITERAL, directives
from klpbuild.patch.includes import IncludeGraph
from klpbuild.patch.patched import PatchedFile, PatchedSource
from klpbuild.patch.regions import Changed, HeaderText, blanked, changed_names
from klpbuild.patch.touched import Touched

#: Number of bytes before a name that are looked at.
_FAR = 2000
_LITERAL, _WORD = re.compile(LITERAL), re.compile(rb"\w+")
_PARAMETERS = re.compile(rb"\([^()]*\)")
_MACRO = re.compile(rb"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)
#: Makes blanks of all bytes but those of words: what is left is split faster than searched.
_BLANKS = bytes(c if chr(c).isascii() and (chr(c).isalnum() or c == 95) else 32 for c in range(256))
_FIRST, _LAST = re.compile(rb"\w+"), re.compile(rb"\w+\Z")
#: What `IncludeGraph` does not follow: a header that a macro names (TRACE_INCLUDE() names the
#: one that it stands in, once more), and files that are called otherwise.
_COMPUTED = re.compile(
    rb"^[ \t]*#[ \t]*include[ \t]*"
    rb"(?:(?<=[ \t])(?!TRACE_INCLUDE\b)[A-Za-z_]|[\"<][^\">\n]*(?<!\.[hc])[\">])",
    re.MULTILINE,
)


def without_blind(
    touched: Touched,
    includes: IncludeGraph,
    patched: PatchedSource,
    tree: PreparedTree,
    notes: list[str],
    keeps_layouts: bool = True,
) -> Touched:
    """Drop units, of very many, that name nothing of what patches change in headers.

    :param tree: where the build's own headers are.
    :param notes: takes how many are left out.
    :param keeps_layouts: whether all structures do that headers declare otherwise.
    """
    if len(touched.units) <= MANY:
        return touched
    headers = [file for file in patched.files if not file.path.endswith(".c")]
    each = [changed_names(file) for file in headers]
    known = [changed for changed in each if changed is not None]
    if not headers or len(known) < len(each):
        return touched
    if not keeps_layouts and any(changed.structures for changed in known):
        return touched
    sides = zip(*known, strict=True)
    changed = Changed(*(frozenset().union(*side) for side in sides))
    files = {file.path: file for file in patched.files}
    generated = [
        *tree.build.glob("include/generated"),
        *tree.build.glob("arch/*/include/generated"),
    ]
    sources = dict.fromkeys(unit.source for unit in touched.units)
    seen = seen_by(tree.source, includes, generated, changed, files, sources)
    if seen is None:
        return touched
    kept = frozenset(
        unit
        for units in touched.by_file.values()
        for number, unit in enumerate(sorted(units, key=lambda unit: unit.source not in seen))
        if unit.source in seen or not number  # one tells that it changes nothing
    )
    left = len(touched.units) - len(kept)
    notes.append(f"{left} objects name nothing that changes in headers; not compiled")
    return replace(
        touched,
        units=tuple(unit for unit in touched.units if unit in kept),
        by_file={
            path: tuple(unit for unit in units if unit in kept)
            for path, units in touched.by_file.items()
        },
        unsure=touched.unsure & kept,
    )


#: Number of units from which on texts are looked at: fewer are compiled as fast.
MANY = 64


def seen_by(
    source: Path,
    includes: IncludeGraph,
    generated: Iterable[Path],
    changed: Changed,
    files: Mapping[str, PatchedFile],
    sources: Iterable[str],
) -> frozenset[str] | None:
    """Select the C files that can see a difference; None if that is not known.

    :param source: the source tree.
    :param generated: directories of headers that the build made.
    :param changed: what changes, see `changed_names`.
    :param files: the patched files, by path.
    :param sources: C files that may include the headers that change.
    """
    wanted = list(sources)
    closure = includes.closure(wanted)
    others = [path for path in closure if path not in set(wanted)]
    texts = {path: _texts(source / path, files.get(path)) for path in others}
    texts |= {
        str(path): _texts(path, None)
        for directory in generated
        for path in sorted(directory.rglob("*.h"))
        if path.is_file()
    }
    # What no header names is new: code that is as it was cannot mean it, unless by its whole name.
    before = (
        v for p, versions in texts.items() for v in (versions[:1] if p in files else versions)
    )
    names = changed.names | changed.members
    fresh = names.difference(*(version.tokens for version in before))
    members = _Members(changed.members - changed.names - fresh, texts)
    found = _spread(names - fresh, members, texts)
    if found is None:
        return None
    names, direct = found
    # Which header a macro names is not followed.
    direct |= {p for p, t in texts.items() if any(_COMPUTED.search(v.text) for v in t)}
    if direct & {path for path in texts if path.startswith("/")}:
        return None  # who includes a generated header is not known
    pieces = _Pieces(names, texts)
    if pieces.make(texts):
        return None
    everywhere = {path for header in direct for path in includes.includers(header, wanted)}
    seen, whole = set(), (names - members.names) | fresh
    for path in wanted:
        versions = _texts(source / path, files.get(path))
        is_named = any(v.tokens & whole or _COMPUTED.search(v.text) for v in versions)
        is_named = is_named or any(map(members.are_in, versions))
        if path in everywhere or path in files or is_named or pieces.make({path: versions}):
            seen.add(path)
    return frozenset(seen)


@dataclass(frozen=True)
class _Version:
    """A file's text, and all words and numbers in it, those in comments, too."""

    text: bytes
    tokens: frozenset[bytes]

    @classmethod
    def of(cls, text: bytes) -> _Version:
        return cls(text, frozenset(text.translate(_BLANKS).split()))


def _texts(path: Path, patched: PatchedFile | None) -> list[_Version]:
    if patched is not None:
        return [_Version.of(text) for text in (patched.original or b"", patched.patched)]
    try:
        return [_Version.of(path.read_bytes())]
    except OSError:
        return []


def _any(names: Iterable[bytes]) -> re.Pattern[bytes]:
    return re.compile(rb"\b(?:%b)\b" % b"|".join(sorted(map(re.escape, names))))


def _spread(
    names: frozenset[bytes], members: _Members, texts: Mapping[str, list[_Version]]
) -> tuple[frozenset[bytes], set[str]] | None:
    """Collect the names with all that use them in headers, and headers with other uses.

    :param members: those that only members of structures have.
    """
    known = set(names)
    direct: set[str] = set()
    cut: dict[tuple[str, int], HeaderText] = {}
    fresh = set(names)
    while fresh:
        wanted, fresh = fresh, set()
        pattern = _any(wanted)
        for path, versions in texts.items():
            for number, version in enumerate(versions):
                if wanted.isdisjoint(version.tokens):
                    continue
                if not path.endswith(".h"):
                    direct.add(path)
                    continue
                key = path, number
                if key not in cut:
                    cut[key] = HeaderText(version.text)
                for match in pattern.finditer(cut[key].text):
                    if match[0] in members.names and not members.may_be(cut[key].text, match):
                        continue
                    region = cut[key].at(match.start())
                    if region is None or region.structure:
                        direct.add(path)
                    elif not (region.is_declaration and match[0] in region.names):
                        fresh |= region.names - (known - members.names)
                        members.names -= region.names
        known |= fresh
        if len(known) > _NAMES_MAX:
            return None
    return frozenset(known), direct


class _Members:
    """Names that members of structures have, and where texts may mean one by such a name.

    :ivar names: shrinks when something else is found to have one of them.
    """

    def __init__(self, names: Iterable[bytes], texts: Mapping[str, list[_Version]]) -> None:
        self.names = set(names)
        every = (v.text for versions in texts.values() for v in versions) if self.names else ()
        self._macros = {name for text in every for name in _MACRO.findall(text)}

    def are_in(self, version: _Version) -> bool:
        """Tell whether a text may name one of the members."""
        named = self.names & version.tokens
        if not named:
            return False
        own = set(_MACRO.findall(version.text))
        text = blanked(version.text)
        return any(self.may_be(text, match, own) for match in _any(named).finditer(text))

    def may_be(self, text: bytes, match: re.Match[bytes], own: Collection[bytes] = ()) -> bool:
        """Tell whether a name may be a member's: behind a point or an arrow, or for a macro.

        In a macro it may be anything but a parameter.

        :param own: the names of macros that only this text has.
        """
        place = match.start()
        begin = text.rfind(b"\n", 0, place)
        while begin > 0 and text[begin - 1 : begin] == b"\\":
            begin = text.rfind(b"\n", 0, begin)
        line = text[begin + 1 : match.end()]
        if line.lstrip()[:1] == b"#":
            macro = _MACRO.match(line)
            parameters = _PARAMETERS.match(text, begin + 1 + macro.end()) if macro else None
            named = _WORD.findall(parameters[0]) if parameters else ()
            return macro is not None and match[0] not in named and not _in_literal(line)
        before = text[max(0, place - _FAR) : place].rstrip()
        if before.endswith((b".", b"->")) or not before:
            return True
        if before[-1:] in b"{," and text[match.end() :][:_FAR].lstrip()[:1] == b":":
            return True  # { member: value }
        return before[-1:] in b"(," and any(
            name in self._macros or name in own or not name for name in _callers(before)
        )


def _in_literal(line: bytes) -> bool:
    """Tell whether a line ends within a string."""
    return any(match.end() == len(line) and match[0].count(b'"') == 1
               for match in _LITERAL.finditer(line))  # fmt: skip


def _callers(before: bytes) -> Iterator[bytes]:
    """Find what is called around the end of a text, the innermost first; empty if that is cut."""
    depth = 0
    for at in range(len(before) - 1, -1, -1):
        byte = before[at : at + 1]
        if byte == b")":
            depth += 1
        elif byte == b"(" and depth:
            depth -= 1
        elif byte == b"(":
            called = _LAST.search(before[:at].rstrip())
            yield called[0] if called else b"("
        elif byte in b";{}":
            return
    yield b""


#: With more names almost all objects are concerned.
_NAMES_MAX = 500


#: Words of up to so many letters are in most texts anyway.
_SHORT = 2


class _Pieces:
    """Tokens in texts of which two, or three, may be pasted to one of some names."""

    def __init__(self, names: frozenset[bytes], texts: Mapping[str, list[_Version]]) -> None:
        self._halves = [(n[:i], n[i:]) for n in names for i in range(1, len(n))]
        self._names = names
        parts = {n[i:j] for n in names for i in range(len(n)) for j in range(i + 1, len(n) + 1)}
        self._parts = parts - names
        self._tokens, self._fragments = self._read(texts)

    def _read(self, texts: Mapping[str, list[_Version]]) -> tuple[set[bytes], set[bytes]]:
        """Find the pieces that are there, and those beside a ``##``."""
        tokens: set[bytes] = set()
        fragments: set[bytes] = set()
        for version in (version for versions in texts.values() for version in versions):
            found = self._parts & version.tokens
            if any(len(part) > _SHORT for part in found):  # it may be a comment's
                found &= _Version.of(blanked(version.text)).tokens
            tokens |= found
            if b"##" in version.text:
                fragments |= self._parts.intersection(_beside_pasting(version.text))
        return tokens, fragments

    def make(self, texts: Mapping[str, list[_Version]]) -> bool:
        """Tell whether ``##`` may make a name of pieces of these texts and of those before."""
        more, beside = self._read(texts)
        tokens, fragments = self._tokens | more, self._fragments | beside
        for one, other in self._halves:
            if one not in tokens or other not in tokens or not (one in more or other in more):
                continue
            if one in fragments or other in fragments or _stand_together(one, other, texts):
                return True
        for name in self._names:
            ends = [f for f in fragments if name.endswith(f)]
            for start in fragments if ends else ():
                if name.startswith(start):
                    middles = {name[len(start) : len(name) - len(end)] for end in ends}
                    if middles & tokens and {start, *ends, *middles} & more:
                        return True
        return False


def _beside_pasting(text: bytes) -> Iterator[bytes]:
    """List the words before and behind each ``##`` that are no parameters of their macro."""
    rest = bytearray(text)
    for directive in directives(text):
        line = directive[0]
        if b"##" in line:
            macro = _MACRO.match(line)
            parameters = _PARAMETERS.match(line, macro.end()) if macro else None
            named = _WORD.findall(parameters[0]) if parameters else ()
            yield from (word for word in _words_beside(line) if word not in named)
            rest[directive.start() : directive.end()] = b" " * len(line)
    if b"##" in rest:
        yield from _words_beside(bytes(rest))


def _words_beside(text: bytes) -> Iterator[bytes]:
    """List the words before and behind each ``##``, across comments and continued lines."""
    pieces = blanked(text.replace(b"\\\n", b" ")).split(b"##")
    for before, after in pairwise(pieces):
        for match in (
            _LAST.search(b"".join(before.rsplit(None, 1)[-1:])),
            _FIRST.match(b"".join(after.split(None, 1)[:1])),
        ):
            if match:
                yield match[0]


def _stand_together(one: bytes, other: bytes, texts: Mapping[str, list[_Version]]) -> bool:
    """Tell whether two words are in one line, as arguments of a macro would be."""
    pattern = re.compile(rb"\b%b\b[^\n]*\b%b\b" % (re.escape(one), re.escape(other)))
    return any(pattern.search(v.text) for versions in texts.values() for v in versions)
