"""Extract a function of a C file with all that it needs of that file, as a file of its own."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from klpbuild.excerpt.cfile import Item, Kind, items, renamed, signature, words

#: Words that must not be in a declaration of something that is defined elsewhere.
_STORAGE = re.compile(
    r"\b(?:static|inline|__always_inline|__inline|noinline|__init|__weak|__ro_after_init|"
    r"__read_mostly|__cold|__latent_entropy|noinline_for_stack)\b[ \t]*|"
    r"__attribute__\s*\(\(\s*_*weak_*\s*\)\)[ \t]*"
)
#: Macros that define data, and the type of what they define.
_TYPES = {
    "DEFINE_MUTEX": "struct mutex",
    "DEFINE_SPINLOCK": "spinlock_t",
    "DEFINE_RAW_SPINLOCK": "raw_spinlock_t",
    "DEFINE_RWLOCK": "rwlock_t",
    "DEFINE_IDR": "struct idr",
    "DEFINE_IDA": "struct ida",
    "DEFINE_XARRAY": "struct xarray",
    "DEFINE_XARRAY_ALLOC": "struct xarray",
    "DEFINE_SEQLOCK": "seqlock_t",
    "DECLARE_RWSEM": "struct rw_semaphore",
    "DECLARE_WAIT_QUEUE_HEAD": "wait_queue_head_t",
    "DECLARE_COMPLETION": "struct completion",
    "LIST_HEAD": "struct list_head",
    "HLIST_HEAD": "struct hlist_head",
    "DEFINE_STATIC_KEY_FALSE": "struct static_key_false",
    "DEFINE_STATIC_KEY_TRUE": "struct static_key_true",
}
_MACRO_DATA = re.compile(r"(?:static\s+)?(\w+)\s*\(\s*(\w+)")
_PER_CPU = re.compile(r"(?:static\s+)?DEFINE_(PER_CPU\w*)\s*\((.*)\)[^()]*;", re.DOTALL)


class Reach(Enum):
    """How a livepatch reaches something that its file defined."""

    RELOCATION = "declare it"
    COPY = "copy it"


@dataclass(frozen=True)
class Place:
    """How a name of the original file is provided in the livepatch's file.

    :ivar annotation: behind the declaration, when the name alone is not enough.
    """

    reach: Reach
    annotation: str = ""


@dataclass(frozen=True)
class Excerpt:
    """A C file extracted for a livepatch.

    :ivar text: all of it.
    :ivar doubts: what the author should look at, one sentence each.
    """

    text: str
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A file of the kernel's source.

    :ivar path: relative to the tree.
    :ivar tree: the source tree.
    """

    path: str
    tree: Path

    @property
    def text(self) -> str:
        """The file's text."""
        return (self.tree / self.path).read_text(errors="replace")


def excerpt(
    source: Source,
    functions: Mapping[str, str],
    place: Callable[[str, bool], Place],
    *,
    heading: str,
    local_headers: bool,
    without: frozenset[str] = frozenset(),
) -> Excerpt:
    """Extract functions of a file.

    :param functions: name to new name.
    :param place: decides how a name of the file is provided; told whether it is static code.
    :param heading: the lines of the comment at the top.
    :param local_headers: whether to keep headers that are not under ``include/``.
    :param without: ``#include`` lines to leave out.
    """
    return _Excerpt(source, functions, place).write(heading, local_headers, without)


class _Excerpt:
    def __init__(
        self, source: Source, functions: Mapping[str, str], place: Callable[[str, bool], Place]
    ) -> None:
        self.source = source
        self.functions = dict(functions)
        self.place = place
        self.items = items(source.text)
        self.by_name: dict[str, list[int]] = {}
        for number, item in enumerate(self.items):
            for name in item.names:
                self.by_name.setdefault(name, []).append(number)
        self.chosen: dict[int, str] = {}  # item to the text that stands for it
        self.doubts: list[str] = []
        self.settled: set[str] = set()

    def write(self, heading: str, local_headers: bool, without: frozenset[str]) -> Excerpt:
        for number, item in enumerate(self.items):
            if item.kind is Kind.FUNCTION and item.names & self.functions.keys():
                self.settled |= item.names
                self.chosen[number] = _global(renamed(item.text, self.functions))
        self._settle(words("\n".join(self.chosen.values())))
        self._includes(local_headers, without)
        lines = [*_license(self.source.text), "/*"]
        lines += [f" * {line}".rstrip() for line in heading.splitlines()] + [" */"]
        lines += self._body()
        return Excerpt("\n".join(lines) + "\n", tuple(self.doubts))

    def _settle(self, needed: Iterable[str]) -> None:
        """Choose what is needed, and what that needs."""
        todo = sorted(needed)
        while todo:
            name = todo.pop()
            if name in self.settled or name not in self.by_name:
                continue
            self.settled.add(name)
            numbers = self.by_name[name]
            for number in numbers:
                self.settled |= self.items[number].names
            todo += sorted(words("\n".join(self._taken(name, numbers))))

    def _taken(self, name: str, numbers: list[int]) -> Iterator[str]:
        kinds = {self.items[number].kind for number in numbers}
        static = any(re.search(r"\bstatic\b", self.items[n].text[:200]) for n in numbers)
        reached = self.place(name, static and Kind.FUNCTION in kinds)
        if Kind.FUNCTION in kinds:
            yield from self._function(numbers, reached)
            return
        for number in numbers:
            item = self.items[number]
            text = item.text
            if item.kind is Kind.DATA:
                text = self._data(item, name, reached)
            elif item.kind is Kind.PROTOTYPE:
                text = _declared(item.text, reached)
            self.chosen[number] = text
            yield text

    def _function(self, numbers: list[int], reached: Place) -> Iterator[str]:
        declared = reached.reach is Reach.RELOCATION
        for number in numbers:
            item = self.items[number]
            text = item.text
            if item.kind is Kind.FUNCTION and declared:
                text = _declared(signature(item) + ";", reached)
            elif item.kind is Kind.PROTOTYPE and declared:
                continue
            self.chosen[number] = text
            yield text
        if declared:
            self._before_use(numbers)

    def _before_use(self, numbers: list[int]) -> None:
        """Move a declaration to where the file first declared the function."""
        first, defined = numbers[0], next(n for n in numbers if n in self.chosen)
        if first < defined and self.items[first].conditions == self.items[defined].conditions:
            self.chosen[first] = self.chosen.pop(defined)

    def _data(self, item: Item, name: str, reached: Place) -> str:
        constant = re.search(r"\bconst\b", item.text.partition("=")[0])
        sized_by_content = "[]" in item.text.partition("=")[0].replace(" ", "")
        if constant and (sized_by_content or reached.reach is Reach.COPY):
            return item.text
        if text := _declared_data(item, name, reached.annotation):
            if reached.reach is Reach.COPY:
                self.doubts.append(
                    f"{name} is not in the kernel's symbols: the build cannot find it"
                )
            return text
        self.doubts.append(
            f"{name} is copied: what the livepatch writes there the kernel does not see"
        )
        return item.text

    def _includes(self, local_headers: bool, without: frozenset[str]) -> None:
        directory = posixpath.dirname(self.source.path)
        last = max((n for n, i in enumerate(self.items) if i.kind is Kind.INCLUDE), default=-1)
        for number, item in enumerate(self.items):
            if item.kind is Kind.INCLUDE:
                text = _included(item.text, directory, self.source.tree, local_headers)
                if text and text not in without:
                    self.chosen[number] = text
            # What is defined before a header may be meant for it: pr_fmt, DEBUG.
            elif item.kind is Kind.MACRO and number < last and _is_for_headers(item):
                self.chosen[number] = item.text

    def _body(self) -> Iterator[str]:
        conditions: tuple[tuple[str, ...], ...] = ()
        before: Kind | None = None
        for number in sorted(self.chosen):
            item, text = self.items[number], self.chosen[number]
            yield from ["#endif"] * (len(conditions) if item.conditions != conditions else 0)
            if before is not None and (before is not item.kind or "\n" in text):
                yield ""
            if item.conditions != conditions:
                yield from (line for frame in item.conditions for line in frame)
            conditions, before = item.conditions, item.kind
            yield text
        yield from ["#endif"] * len(conditions)


def _license(text: str) -> list[str]:
    match = re.search(r"SPDX-License-Identifier:\s*(.+?)\s*(?:\*/)?$", text, re.MULTILINE)
    name = match[1] if match else "GPL-2.0"
    return [f"// SPDX-License-Identifier: {name}"]


def _global(text: str) -> str:
    """Make a function global, so that the livepatch's tables can name it."""
    head, brace, body = text.partition("{")
    return re.sub(r"\b(?:static|inline|__always_inline)\b[ \t]*", "", head) + brace + body


def _declared(text: str, place: Place) -> str:
    plain = _STORAGE.sub("", text).rstrip().removesuffix(";").rstrip()
    return f"extern {plain.removeprefix('extern ')}{place.annotation};"


def _declared_data(item: Item, name: str, annotation: str) -> str:
    """Write a declaration of what an item defines; empty where that is not known."""
    if match := _PER_CPU.match(item.text):
        return f"DECLARE_{match[1]}({match[2]});"
    match = _MACRO_DATA.match(item.text)
    if match and match[1] in _TYPES:
        return f"extern {_TYPES[match[1]]} {match[2]}{annotation};"
    if match and re.fullmatch(r"[A-Z][A-Z0-9_]+", match[1]):
        return ""
    if "{" in item.text.partition("=")[0]:  # a type and its variables
        return ""
    text = item.text.partition("=")[0].rstrip().removesuffix(";")
    declared = _STORAGE.sub("", text).strip()
    if item.names != frozenset([name]) and "," in declared:
        return f"extern {declared.removeprefix('extern ')};"
    return f"extern {declared.removeprefix('extern ')}{annotation};"


def _is_for_headers(item: Item) -> bool:
    return bool(item.names) and not item.names & {"CREATE_TRACE_POINTS"} and "define" in item.text


def _found(name: str, directory: str, tree: Path) -> str:
    """Find a header: beside its source, or where Makefiles let directories below look."""
    place = directory
    while place:
        for path in (posixpath.join(place, name), posixpath.join(place, "include", name)):
            if (tree / path).is_file():
                return posixpath.normpath(path)
        place = posixpath.dirname(place)
    return posixpath.normpath(posixpath.join(directory, name))


def _included(text: str, directory: str, tree: Path, local_headers: bool) -> str:
    """Rewrite an ``#include`` for a livepatch; empty to leave it out."""
    match = re.match(r'\s*#\s*include\s+"([^"]+)"', text)
    if not match:
        return text
    path = _found(match[1], directory, tree)
    if path.startswith("include/"):
        return f"#include <{path.removeprefix('include/')}>"
    if not local_headers:
        return ""
    return f'#include "{path}"' if (tree / path).is_file() else text
