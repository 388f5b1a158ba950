"""Define the errors of the user's input, and how they are shown.

`KlpError` is for the user: a patch, a kernel tree, a tool chain.  Every other
exception is a bug of klpbuild and keeps its traceback.
"""

from __future__ import annotations

import difflib
import struct
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Self

#: A longer line of a message quotes more of a file than helps anybody, such as one of 100 KB.
_LINE_MAX = 4000


def printable(text: str, keep: str = "") -> str:
    """Escape what a terminal would not show but obey, or could show as something else.

    Names of files, symbols and patches come from others; an escape sequence in one could
    rewrite the lines before it, and a line break could add a line that we never said.

    :param text: what is to be shown; control and format characters become ``\\x1b`` and the
        like, as do bytes that were not UTF-8.
    :param keep: characters that stay, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8 (PEP 383)
        return f"\\x{ord(char) - 0xDC00:02x}"
    return ascii(char)[1:-1]


def _shortened(line: str) -> str:
    if len(line) <= _LINE_MAX:
        return line
    return f"{line[: _LINE_MAX // 2]} ... {line[-_LINE_MAX // 2 :]}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, told so that it can be mended.

    :param what: the fault, one sentence without a full stop.
    :param where: ``file:line`` or ``object:section+0xoffset:symbol``; may be empty.
    :param why: the rule that makes it a fault; may be empty.
    :param hint: what to do; may be several lines, which are kept as they are.
    """

    what: str
    where: str = ""
    why: str = ""
    hint: str = ""

    def __str__(self) -> str:
        lines = [printable(f"{self.where}: {self.what}" if self.where else self.what)]
        for text in (self.why, self.hint):
            lines += ["  " + printable(line, keep="\t") for line in text.splitlines()]
        return "\n".join(map(_shortened, lines))


class KlpError(Exception):
    """One or more problems with the user's input.

    :ivar problems: at least one `Problem`, in the order found.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, where, why, hint),)
        super().__init__(what)

    @classmethod
    def together(cls, problems: Iterable[Problem]) -> Self:
        """Join problems into one error, each one once.

        :raises ValueError: when there is no problem.
        """
        unique = tuple(dict.fromkeys(problems))
        if not unique:
            raise ValueError("an error needs a problem")
        error = cls(unique[0].what)
        error.problems = unique
        return error

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Problems:
    """Collects problems, so that a user sees all of them in one run."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        """Record a problem and go on."""
        self._found.append(Problem(what, where, why, hint))

    def note(self, error: KlpError | None) -> None:
        """Record the problems of an error, if there is one, and go on."""
        if error is not None:
            self._found.extend(error.problems)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Record the problems of a `KlpError` that is raised in the block."""
        try:
            yield
        except KlpError as error:
            self.note(error)

    def check(self) -> None:
        """Raise an error with all problems noted so far, if there are any."""
        if self._found:
            raise KlpError.together(self._found)


def did_you_mean(word: str, known: Iterable[str], least: float = 0.6) -> str:
    """Ask whether the most similar of the known words was meant; empty if none is similar.

    :param least: how similar it must be, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    near = difflib.get_close_matches(word, list(known), 1, least)
    return f"Did you mean {printable(near[0])}?" if near else ""


@contextmanager
def named_by_path(paths: Iterable[Path]) -> Iterator[None]:
    """Let errors name files by their paths where they name them by the last part alone.

    :param paths: of files that are told apart by their names, as the patches of a livepatch.
    """
    known = {printable(path.name): printable(str(path)) for path in paths}
    try:
        yield
    except KlpError as error:
        found = []
        for problem in error.problems:
            name, colon, rest = problem.where.partition(":")
            where = f"{known[name]}{colon}{rest}" if name in known else problem.where
            found.append(replace(problem, where=where))
        error.problems = tuple(found)
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert an `OSError` in the block into the user's error that a file cannot be read."""
    try:
        yield
    except OSError as error:
        raise KlpError(f"cannot be read: {error.strerror}", where=str(path)) from error


@contextmanager
def broken(what: str, where: str) -> Iterator[None]:
    """Convert a reader's exceptions on a damaged file into the user's error.

    For readers that look into tables by numbers of the file: each number may lead nowhere.

    :param what: the fault, such as ``has broken debug information``.
    :param where: the file.
    """
    try:
        yield
    except (LookupError, ValueError, ArithmeticError, RecursionError, struct.error) as error:
        raise KlpError(what, where=where) from error


def explained(error: BaseException) -> KlpError | None:
    """Make the user's error for what a machine refuses: files, programs, memory, threads.

    :returns: None for what is a bug of klpbuild.
    """
    if isinstance(error, KlpError):
        return error
    no_room = isinstance(error, ImportError) and "failed to map segment" in str(error)
    if isinstance(error, MemoryError) or no_room:
        return KlpError("there is not enough memory", hint="See `ulimit -v`.")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return KlpError("the system starts no further thread", hint="See `ulimit -u` and `-v`.")
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        error = error.__context__  # Path.resolve() before Python 3.13, for links in a circle
    if not isinstance(error, OSError):
        return None
    what, where = error.strerror or str(error), str(error.filename or "")
    in_child = traceback.extract_tb(error.__traceback__)[-1].name == "_execute_child"
    if where and in_child:  # of subprocess; without a name no pipe could be opened
        return KlpError(f"{where} does not run: {what}", hint="Is it installed, and in PATH?")
    return KlpError(what[:1].lower() + what[1:], where=where)


def note(what: str, where: Path, why: str = "") -> None:
    """Show the user, once, a note on something that is no error."""
    _tell_once(str(Problem(what, str(where), why)))


def warn(what: str) -> None:
    """Warn the user, once, of what may go wrong."""
    _tell_once(printable(what), "warning")


@cache
def _tell_once(text: str, kind: str = "note") -> None:
    print(f"klpbuild: {kind}: {text}", file=sys.stderr, flush=True)
