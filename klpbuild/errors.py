"""What klpbuild says when the user's input cannot be used.

`KlpError` is for the user: a patch, a kernel tree, a tool chain.  Every other
exception is a bug of klpbuild and keeps its traceback.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

#: Control characters, and bytes that are not UTF-8 (PEP 383); a message may have lines and tabs.
_UNPRINTABLE = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNPRINTABLE_IN_TEXT = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(name: str) -> str:
    """A name with an escape such as ``\\x1b`` for each character that is not printed as itself."""
    return _UNPRINTABLE.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    if "\udc80" <= match[0] <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(match[0]) - 0xDC00:02x}"
    return ascii(match[0])[1:-1]


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
        where = f"{printable(self.where)}: " if self.where else ""
        lines = [f"{where}{self.what}"]
        for text in (self.why, self.hint):
            lines += [f"  {line}" for line in text.splitlines()]
        return _UNPRINTABLE_IN_TEXT.sub(_escape, "\n".join(lines))


class KlpError(Exception):
    """One or more problems with the user's input.

    :ivar problems: at least one `Problem`, in the order found.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, where, why, hint),)
        super().__init__(what)

    @classmethod
    def together(cls, problems: Iterable[Problem]) -> Self:
        """One error that carries all the problems, each one once.

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
        """Note a problem and go on."""
        self._found.append(Problem(what, where, why, hint))

    def note(self, error: KlpError | None) -> None:
        """Note the problems of an error, if there is one, and go on."""
        if error is not None:
            self._found.extend(error.problems)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Turn a `KlpError` raised in the block into noted problems."""
        try:
            yield
        except KlpError as error:
            self.note(error)

    def check(self) -> None:
        """:raises KlpError: with all problems noted so far, if there are any."""
        if self._found:
            raise KlpError.together(self._found)


def explained(error: BaseException) -> KlpError | None:
    """The user's error for what a machine refuses: files, programs, memory, threads.

    :returns: None for what is a bug of klpbuild.
    """
    if isinstance(error, KlpError):
        return error
    if isinstance(error, MemoryError):
        return KlpError("there is not enough memory")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return KlpError("the system starts no further thread", hint="See `ulimit -u` and `-v`.")
    if not isinstance(error, OSError):
        return None
    what, where = error.strerror or str(error), str(error.filename or "")
    if traceback.extract_tb(error.__traceback__)[-1].name == "_execute_child":  # of subprocess
        return KlpError(f"{where} does not run: {what}", hint="Is it installed, and in PATH?")
    return KlpError(what[:1].lower() + what[1:], where=where)
