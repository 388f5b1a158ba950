"""Show errors: with colour and links on a terminal, as annotations in GitHub's actions."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from klpbuild.errors import Problem, printable

#: Choices of ``--color``.
WHEN = ("auto", "always", "never")

_COLOURS = {"error": "1;31", "warning": "1;33", "note": "1;36"}
_PLACE = re.compile(r"(?P<file>.+?):(?P<line>[1-9]\d*)(?P<rest>:.*)?", re.DOTALL)


def use_colour(when: str) -> None:
    """Choose when colour is used, by the variables that other programs obey, too.

    :param when: one of `WHEN`.
    """
    if when == "never":
        os.environ["NO_COLOR"] = "1"
    elif when == "always":
        os.environ.pop("NO_COLOR", None)
        os.environ["FORCE_COLOR"] = "1"


def has_colour(stream: TextIO) -> bool:
    """Tell whether a stream is coloured: a terminal, unless NO_COLOR or FORCE_COLOR is set."""
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(kind: str, text: str) -> str:
    """Colour a text as an ``error``, a ``warning`` or a ``note``."""
    return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m"


@dataclass(frozen=True)
class Place:
    """A line of a file.

    :ivar line: from 1; 0 for the file as a whole.
    """

    file: Path
    line: int = 0


def place_of(where: str) -> Place | None:
    """Find the file that a problem's place begins with, if there is one of that name."""
    match = _PLACE.fullmatch(where)
    text, line = (match["file"], int(match["line"])) if match else (where.partition(":")[0], 0)
    try:
        return Place(Path(text), line) if text and Path(text).is_file() else None
    except (OSError, ValueError):  # no file system takes such a name
        return None


def shown(problem: Problem, stream: TextIO | None = None, kind: str = "error") -> str:
    """Format a problem behind its kind; coloured, and its file a link, on a terminal.

    :param stream: where it goes; the standard error output if None.
    """
    text = str(problem)
    if not has_colour(stream or sys.stderr):
        return f"{kind}: {text}"
    where = printable(problem.where)
    if where and text.startswith(where):
        text = f"\x1b[1m{_linked(where)}\x1b[0m{text[len(where) :]}"
    return f"{coloured(kind, f'{kind}:')} {text}"


def _linked(where: str) -> str:
    """Make a place a link that a terminal opens by a click (the escape sequence OSC 8)."""
    place = place_of(where)
    if place is None:
        return where
    return f"\x1b]8;;{place.file.absolute().as_uri()}\x1b\\{where}\x1b]8;;\x1b\\"


def annotation(problem: Problem, kind: str = "error") -> str:
    """Format a problem as GitHub's actions show it beside the line of its file.

    :returns: empty, unless GITHUB_ACTIONS says that this runs there.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return ""
    properties = {"title": "klpbuild"}
    if (place := place_of(problem.where)) is not None:
        properties["file"] = os.path.relpath(place.file)
        properties |= {"line": str(place.line)} if place.line else {}
    written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{'notice' if kind == 'note' else kind} {written}::{_message(str(problem))}"


def _message(text: str) -> str:
    # https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def show(problem: Problem, program: str, kind: str = "error") -> None:
    """Write a problem to the standard error output.

    :param program: whose problem it is: ``klpbuild`` or ``scons``.
    """
    print(f"{program}: {shown(problem, kind=kind)}", file=sys.stderr, flush=True)
    if note := annotation(problem, kind):
        print(note, file=sys.stderr, flush=True)
