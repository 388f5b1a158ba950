"""Find the objects that can see what patches change in headers, by the identifiers that change.

A change inside an inline function, a macro, an enumeration or a declaration makes no difference to
an object of which no text names it.  What names it in a header, an inline function or a macro,
is a name to look for itself; anything else there concerns all that include the header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from klpbuild.kernel.prepare import PreparedTree
from klpbuild.patch.csource import LITERAL, closing_braces, code_alone, directives
from klpbuild.patch.includes import IncludeGraph
from klpbuild.patch.patched import PatchedFile, PatchedSource
from klpbuild.patch.touched import Touched, changed_lines

_COMMENTS = re.compile(rb"(%b)|//(?:[^\n\\]|\\.)*|/\*.*?(?:\*/|\Z)" % LITERAL, re.DOTALL)
_CALLED = re.compile(rb"\b([A-Za-z_]\w*)\s*\(")
_WORD = re.compile(rb"[A-Za-z_]\w*")
#: Makes blanks of all bytes but those of words: what is left is split faster than searched.
_BLANKS = bytes(c if chr(c).isascii() and (chr(c).isalnum() or c == 95) else 32 for c in range(256))
_DEFINE = re.compile(rb"\A[ \t]*#[ \t]*define[ \t]+(\w+)")
_ITEM = re.compile(rb"(?:^|,)\s*(\w+)")
_FIRST, _LAST = re.compile(rb"\w+"), re.compile(rb"\w+\Z")
_PROTOTYPE = re.compile(rb"\s*(?:extern\s+)?[a-z_]\w*(?:[\s*]+\w+)*[\s*]+([a-z_]\w*)\s*\(")
_NOT_PROTOTYPE = re.compile(rb"\b(?:static|typedef|asm|__asm__)\b|[={}]")
#: What `IncludeGraph` does not follow: a header that a macro names (TRACE_INCLUDE() names the
#: one that it stands in, once more), and files that are called otherwise.
_COMPUTED = re.compile(
    rb"^[ \t]*#[ \t]*include[ \t]*"
    rb"(?:(?<=[ \t])(?!TRACE_INCLUDE\b)[A-Za-z_]|[\"<][^\">\n]*(?<!\.[hc])[\">])",
    re.MULTILINE,
)
#: Enumerators whose values could make an enumeration wider.
_WIDE = re.compile(rb"<<|0[xX]\w{8}|\b\d+[uU]?[lL]+\b|\bBIT")


def without_blind(
    touched: Touched,
    includes: IncludeGraph,
    patched: PatchedSource,
    tree: PreparedTree,
    notes: list[str],
) -> Touched:
    """Drop units, of very many, that name nothing of what patches change in headers.

    :param tree: where the build's own headers are.
    :param notes: takes how many are left out.
    """
    headers = [file for file in patched.files if not file.path.endswith(".c")]
    names = [changed_names(file) for file in headers] if len(touched.units) > MANY else []
    known = frozenset[bytes]().union(*(each for each in names if each is not None))
    if not known or None in names:
        return touched
    files = {file.path: file for file in patched.files}
    generated = [
        *tree.build.glob("include/generated"),
        *tree.build.glob("arch/*/include/generated"),
    ]
    sources = dict.fromkeys(unit.source for unit in touched.units)
    seen = seen_by(tree.source, includes, generated, known, files, sources)
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


@dataclass(frozen=True)
class _Region:
    """A piece of a header that only matters where its names are.

    :ivar start: its first byte; `end`: the byte behind it.
    :ivar is_declaration: whether it does nothing but declare its names.
    """

    start: int
    end: int
    names: frozenset[bytes]
    is_declaration: bool = False


_KEYWORDS = frozenset(b"int void long char short unsigned signed bool sizeof typeof if".split())


def _called(head: bytes) -> frozenset[bytes]:
    """Find the words before parentheses, of which one is the function's name."""
    return frozenset(_CALLED.findall(head)) - _KEYWORDS


def _without_comments(text: bytes) -> bytes:
    """Blank out comments."""
    return _COMMENTS.sub(lambda m: m[1] or re.sub(rb"[^\n]", b" ", m[0]), text)


class _Text:
    """A header's text, cut into regions."""

    def __init__(self, text: bytes) -> None:
        self.text = _without_comments(text)
        self.plain = code_alone(text)
        macros = [
            _Region(match.start(), match.end(), frozenset(_DEFINE.findall(match[0])[:1]))
            for match in directives(self.text)
        ]
        self.regions = sorted([*macros, *self._code()], key=lambda r: r.start)

    def _code(self) -> Iterator[_Region]:
        closing = closing_braces(self.plain)
        done = 0
        for match in re.finditer(rb"[{;]", self.plain):
            if match.start() < done:
                continue
            head = self.plain[done : match.start()]
            begin = done + len(head) - len(head.lstrip())
            if match[0] == b";":
                if _PROTOTYPE.match(head) and not _NOT_PROTOTYPE.search(head):
                    names = _called(head)
                    yield _Region(begin, match.end(), names, is_declaration=True)
                elif re.match(rb"\s*_?[sS]tatic_assert\b", head):
                    yield _Region(begin, match.end(), frozenset(_WORD.findall(head)), True)
                done = match.end()
                continue
            end = closing.get(match.start())
            if end is None:
                return  # nothing behind it is known
            body = self.plain[match.end() : end - 1]
            if re.search(rb"^(?:\}|static\b)", body, re.MULTILINE):
                return  # a condition of the preprocessor opens more braces than are closed
            words = set(_WORD.findall(head))
            if b"static" in words and words & {b"inline", b"__always_inline"} and b"(" in head:
                yield _Region(begin, end, _called(head))
            elif b"enum" in words and b"(" not in head and not _WIDE.search(body):
                yield _Region(begin, end, frozenset(_ITEM.findall(body)))
            done = end

    def at(self, place: int) -> _Region | None:
        """Find the region at an offset; a macro inside of a function counts as both."""
        found = [r for r in self.regions if r.start <= place < r.end and r.names]
        if len(found) < 2:
            return found[0] if found else None
        names = frozenset().union(*(region.names for region in found))
        return _Region(found[0].start, found[0].end, names)


def changed_names(file: PatchedFile) -> frozenset[bytes] | None:
    """Find the names that a patch changes in a header; None where that is not known."""
    if file.original is None or not file.path.endswith(".h"):
        return None
    gone, come = changed_lines(file)
    names: set[bytes] = set()
    cuts = _Text(file.original), _Text(file.patched)
    if not _keeps_lines(file, *cuts):
        return None
    for cut, text, numbers in zip(cuts, (file.original, file.patched), (gone, come), strict=True):
        starts = [0, *(m.end() for m in re.finditer(rb"\n", text))]
        for number in numbers:
            start = starts[number - 1]
            line = cut.text[start : starts[number] if number < len(starts) else len(text)]
            if not line.strip():
                continue
            first, last = (start + len(line) - len(line.lstrip()), start + len(line.rstrip()) - 1)
            region = cut.at(first)
            if region is None or region != cut.at(last):
                return None
            names |= region.names
    return frozenset(names) if _keeps_regions(file, *cuts, names) else None


def _keeps_lines(file: PatchedFile, old: _Text, new: _Text) -> bool:
    """Tell whether lines that stay are code, comments and preprocessor lines as before."""
    for before, after in ((old.text, new.text), (old.plain, new.plain)):
        olds, news = before.split(b"\n"), after.split(b"\n")
        for number, line in enumerate(file.lines):
            if line.old is not None and olds[line.old - 1] != news[number]:
                return False
    return True


def _keeps_regions(file: PatchedFile, old: _Text, new: _Text, names: set[bytes]) -> bool:
    """Tell whether lines that stay belong to what they did, or to what changes."""
    starts = [
        [0, *(m.end() for m in re.finditer(rb"\n", cut.text)), len(cut.text)] for cut in (old, new)
    ]
    for number, line in enumerate(file.lines):
        if line.old is None or not line.text.strip():
            continue
        indent = len(line.text) - len(line.text.lstrip())
        regions = old.at(starts[0][line.old - 1] + indent), new.at(starts[1][number] + indent)
        was, becomes = (region.names if region else frozenset() for region in regions)
        if was != becomes and not was | becomes <= names:
            return False
    return True


def seen_by(
    source: Path,
    includes: IncludeGraph,
    generated: Iterable[Path],
    names: frozenset[bytes],
    files: Mapping[str, PatchedFile],
    sources: Iterable[str],
) -> frozenset[str] | None:
    """Select the C files that can see a difference; None if that is not known.

    :param source: the source tree.
    :param generated: directories of headers that the build made.
    :param names: what changes, see `changed_names`.
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
    fresh = names.difference(*(version.tokens for version in before))
    found = _spread(names - fresh, texts)
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
    seen = set()
    for path in wanted:
        versions = _texts(source / path, files.get(path))
        is_named = any(v.tokens & (names | fresh) or _COMPUTED.search(v.text) for v in versions)
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
    names: frozenset[bytes], texts: Mapping[str, list[_Version]]
) -> tuple[frozenset[bytes], set[str]] | None:
    """Collect the names with all that use them in headers, and headers with other uses."""
    known = set(names)
    direct: set[str] = set()
    cut: dict[tuple[str, int], _Text] = {}
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
                    cut[key] = _Text(version.text)
                for match in pattern.finditer(cut[key].text):
                    region = cut[key].at(match.start())
                    if region is None:
                        direct.add(path)
                    elif not (region.is_declaration and match[0] in region.names):
                        fresh |= region.names - known
        known |= fresh
        if len(known) > _NAMES_MAX:
            return None
    return frozenset(known), direct


#: With more names almost all objects are concerned.
_NAMES_MAX = 500


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
            tokens |= self._parts & version.tokens
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
    """List the words before and behind each ``##``, across comments and continued lines."""
    pieces = _without_comments(text.replace(b"\\\n", b" ")).split(b"##")
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
