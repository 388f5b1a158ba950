"""Split a C file of the kernel into its top-level items, without preprocessing it.

The text is taken as it stands, so that macros and conditions stay what the author of
the kernel wrote; a parser would see only one configuration of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<comment>/\*.*?\*/|//[^\n]*)
  | (?P<directive>^[ \t]*\#(?:\\\n|/\*.*?\*/|[^\n])*)
  | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
  | (?P<word>[A-Za-z_]\w*)
  | (?P<number>\.?\d[\w.]*)
  | (?P<mark>->|\S)
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_OPEN, _CLOSE = "({[", ")}]"

#: Words with arguments that stand before or behind a function's name.
_ATTRIBUTES = re.compile(
    r"__(?:attribute__|printf|scanf|acquires|releases|must_hold|aligned|section|malloc|"
    r"alloc_size|counted_by|cond_lock|diag_ignore_all|nonstring)|asm|__asm__|__aligned"
)
#: Words that stand behind a variable's name.
_DATA_ATTRIBUTES = re.compile(
    r"__(?:read_mostly|ro_after_init|init\w*|exit\w*|refdata|refconst|used|maybe_unused|visible|"
    r"weak|cacheline_aligned\w*|page_aligned\w*|latent_entropy|always_unused|nosavedata)|"
    r"____cacheline_\w+"
)
_DEFINES_DATA = re.compile(r"(?:__)?(?:DEFINE|DECLARE)_\w+|H?LIST_HEAD|\w+_NOTIFIER_HEAD")
_EXPORTS = re.compile(r"EXPORT_\w+|module_\w+|MODULE_\w+|ALLOW_ERROR_INJECTION|NOKPROBE_SYMBOL")


class Kind(Enum):
    """Kind of a top-level item."""

    INCLUDE = "include"
    MACRO = "macro"
    FUNCTION = "function"
    PROTOTYPE = "prototype"
    TYPE = "type"
    DATA = "data"
    OTHER = "other"


class Token(NamedTuple):
    """A word, string, number, mark, comment or directive; where it begins in the file."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Item:
    """One top-level item.

    :ivar names: what it declares; empty for `Kind.OTHER`.
    :ivar text: as it stands in the file.
    :ivar line: where it begins, from 1.
    :ivar conditions: the ``#if`` that it stands in, the outermost first; each with its
        ``#elif`` and ``#else`` so far.
    """

    kind: Kind
    names: frozenset[str]
    text: str
    line: int
    conditions: tuple[tuple[str, ...], ...] = ()


def tokens(text: str) -> Iterator[Token]:
    """Split C text into tokens, comments and directives among them."""
    for match in _TOKEN.finditer(text):
        yield Token(match.lastgroup or "", match[0], match.start())


def words(text: str) -> frozenset[str]:
    """Collect the identifiers that text uses, but for the names of members."""
    found: set[str] = set()
    before = ""
    for token in tokens(text):
        if token.kind == "directive":
            # A macro or a condition uses what it names, too.
            found |= words(token.text.lstrip().lstrip("#"))
        elif token.kind == "word" and before not in (".", "->"):
            found.add(token.text)
        if token.kind != "comment":
            before = token.text
    return frozenset(found)


def renamed(text: str, names: dict[str, str]) -> str:
    """Replace identifiers in C text, outside of strings, comments and members."""
    parts, end, before = [], 0, ""
    for token in tokens(text):
        if token.kind == "word" and token.text in names and before not in (".", "->"):
            parts += [text[end : token.at], names[token.text]]
            end = token.at + len(token.text)
        if token.kind != "comment":
            before = token.text
    return "".join(parts) + text[end:]


def signature(item: Item) -> str:
    """Cut out a function's text before its body."""
    depth = 0
    for token in tokens(item.text):
        if token.text == "{" and depth == 0:
            return item.text[: token.at].rstrip()
        depth += _step(token)
    return item.text


def items(text: str) -> tuple[Item, ...]:
    """Split a C file into its top-level items, in order."""
    return tuple(_Splitter(text).split())


def _step(token: Token) -> int:
    if token.kind != "mark":
        return 0
    return (token.text in _OPEN) - (token.text in _CLOSE)


class _Splitter:
    """Walks over the tokens of one file."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.conditions: list[tuple[str, ...]] = []
        self.open: list[Token] = []  # tokens of the item that is being read
        self.depth = 0
        self.depths: list[int] = []  # at each #if inside of the item
        self.starts: list[int] = []  # of each #if around it
        self.begin = -1  # of an #if around it that ends inside of it

    def split(self) -> Iterator[Item]:
        for token in tokens(self.text):
            if token.kind == "comment":
                continue
            if token.kind == "directive":
                if self.open:
                    self._inside(token)
                else:
                    yield from self._directive(token)
                continue
            if self._is_call() and token.kind == "word" and self._starts_line(token):
                yield self._item(self.open[-1])  # a macro that needs no semicolon
            self.open.append(token)
            self.depth += _step(token)
            if self.depth <= 0 and self._ends(token):
                yield self._item(token)

    def _inside(self, token: Token) -> None:
        """Restore the depth at ``#elif`` and ``#else``: each branch begins at the same one."""
        word = _directive_word(token)
        if word.startswith("if"):
            self.depths.append(self.depth)
        elif word.startswith("el") and self.depths:
            self.depth = self.depths[-1]
        elif word == "endif" and self.depths:
            self.depths.pop()
        elif word == "endif" and self.conditions:  # two heads for one body
            self.conditions.pop()
            self.begin = self.starts.pop()

    def _directive(self, token: Token) -> Iterator[Item]:
        word = _directive_word(token)
        if word.startswith("if"):
            self.conditions.append((token.text,))
            self.starts.append(token.at)
        elif word.startswith("el") and self.conditions:
            self.conditions[-1] += (token.text,)
        elif word == "endif" and self.conditions:
            self.conditions.pop()
            self.starts.pop()
        elif word in ("include", "define", "undef"):
            kind = Kind.INCLUDE if word == "include" else Kind.MACRO
            name = re.match(r"\s*#\s*\w+\s+(\w+)", token.text)
            names = frozenset([name[1]] if name and kind is Kind.MACRO else [])
            yield Item(kind, names, token.text, self._line(token.at), tuple(self.conditions))

    def _is_call(self) -> bool:
        tops = self.open
        return (
            len(tops) > 2
            and tops[0].kind == "word"
            and tops[1].text == "("
            and self.depth == 0
            and tops[-1].text == ")"
        )

    def _starts_line(self, token: Token) -> bool:
        return token.at == 0 or self.text[token.at - 1] == "\n"

    def _ends(self, token: Token) -> bool:
        return token.text == ";" or (token.text == "}" and _is_function(self.open))

    def _item(self, last: Token) -> Item:
        found, self.open, self.depth, self.depths = self.open, [], 0, []
        begin, self.begin = (self.begin if self.begin >= 0 else found[0].at), -1
        text = self.text[begin : last.at + len(last.text)]
        kind, names = _classify(found)
        return Item(kind, names, text, self._line(begin), tuple(self.conditions))

    def _line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1


def _directive_word(token: Token) -> str:
    match = re.match(r"\s*#\s*(\w*)", token.text)
    return match[1] if match else ""


def _top(found: list[Token]) -> list[Token]:
    """Select the tokens outside of all brackets; of brackets only the opening ones."""
    depth, top = 0, []
    for token in found:
        step = _step(token)
        if depth == 0 and step >= 0:
            top.append(token)
        depth += step
    return top


def _is_function(found: list[Token]) -> bool:
    top = [token.text for token in _top(found)]
    if "{" not in top:
        return False
    head = top[: top.index("{")]
    return "(" in head and "=" not in head and "typedef" not in head


def _classify(found: list[Token]) -> tuple[Kind, frozenset[str]]:
    top = _top(found)
    texts = [token.text for token in top]
    first = next((t for t in texts if t not in ("static", "extern", "const")), "")
    is_macro = re.fullmatch(r"[A-Z][A-Z0-9_]+", first) and not _DEFINES_DATA.fullmatch(first)
    if _EXPORTS.fullmatch(first) or (is_macro and not _is_function(found)):
        return Kind.OTHER, frozenset()
    if "typedef" in texts:
        return Kind.TYPE, _typedef_names(found, top)
    if _is_function(found):
        return Kind.FUNCTION, _function_name(top)
    macro = next((t for t in texts if _DEFINES_DATA.fullmatch(t)), "")
    if macro:
        return Kind.DATA, _macro_names(found, macro)
    if first in ("struct", "union", "enum") and "{" in texts:
        head = texts[: texts.index("{")]
        if "=" not in head and "(" not in head:
            return Kind.TYPE, _type_names(found, top)
    head = texts[: texts.index("=")] if "=" in texts else texts
    if "(" in head and not _is_pointer(found):
        return (Kind.PROTOTYPE, names) if (names := _function_name(top)) else _other()
    return Kind.DATA, _data_names(found, top)


def _other() -> tuple[Kind, frozenset[str]]:
    return Kind.OTHER, frozenset()


def _macro_names(found: list[Token], macro: str) -> frozenset[str]:
    """Name what a macro such as ``DEFINE_MUTEX(name)`` or DEFINE_PER_CPU() defines."""
    texts = [token.text for token in found]
    arguments: list[list[Token]] = [[]]
    depth = 0
    for token in found[texts.index(macro) + 1 :]:
        depth += _step(token)
        if depth == 0:
            break
        if token.text == "," and depth == 1:
            arguments.append([])
        elif token.kind == "word":
            arguments[-1].append(token)
    place = 1 if "PER_CPU" in macro and len(arguments) > 1 else 0
    return frozenset(token.text for token in arguments[place][-1:])


def _is_pointer(found: list[Token]) -> bool:
    """Tell whether a declaration is of a pointer to a function, ``int (*name)(void)``."""
    texts = [token.text for token in found]
    return any(a == "(" and b == "*" for a, b in itertools.pairwise(texts))


def _function_name(top: list[Token]) -> frozenset[str]:
    for word, mark in itertools.pairwise(top):
        if mark.text == "(" and word.kind == "word" and not _ATTRIBUTES.fullmatch(word.text):
            return frozenset([word.text])
    return frozenset()


def _typedef_names(found: list[Token], top: list[Token]) -> frozenset[str]:
    texts = [token.text for token in found]
    pointers = {c for a, b, c in zip(texts, texts[1:], texts[2:], strict=False) if a + b == "(*"}
    plain = [token.text for token in top if token.kind == "word"]
    return frozenset(pointers or plain[-1:])


def _type_names(found: list[Token], top: list[Token]) -> frozenset[str]:
    """Name the tag, an enum's constants, and variables declared with the type."""
    names = {token.text for token in top if token.kind == "word"}
    names -= {"static", "const", "struct", "union", "enum", "extern", "__packed"}
    if any(token.text == "enum" for token in top):
        for mark, word in itertools.pairwise(found):
            if mark.text in ("{", ",") and word.kind == "word":
                names.add(word.text)
    return frozenset(names)


def _data_names(found: list[Token], top: list[Token]) -> frozenset[str]:
    """Find the words before ``=``, ``[``, ``,`` and ``;``, outside of brackets."""
    names = set()
    top = [token for token in top if not _DATA_ATTRIBUTES.fullmatch(token.text)]
    initialiser = False
    for word, mark in itertools.pairwise(top):
        if word.kind == "word" and mark.text in "=[,;:" and not initialiser:
            names.add(word.text)
        initialiser = mark.text == "=" or (initialiser and mark.text != ",")
    if _is_pointer(found):
        texts = [token.text for token in found]
        names |= {c for a, b, c in zip(texts, texts[1:], texts[2:], strict=False) if a + b == "(*"}
    return frozenset(names)
