"""Read a quilt ``series`` file: which patches, in which order, and ``patch -p`` of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError, Problems, reading

#: Name of the file, as quilt has it.
SERIES = "series"
#: Number of directories above a patch in which its series may be.
_ABOVE = 4


@dataclass(frozen=True)
class Listed:
    """A patch that a series names.

    :ivar level: how many directories stand before the names in it, None if that is not said.
    """

    path: Path
    level: int | None = None


def read_series(series: Path) -> tuple[Listed, ...]:
    """Read a series file (quilt(1)): a patch on each line, with options; ``#`` begins a comment.

    :raises KlpError: for a patch that is not there, or an option other than ``-p``.
    """
    problems = Problems()
    found = []
    named: dict[str, str] = {}
    for where, words in _lines(series):
        if (first := named.setdefault(words[0], where)) != where:
            why = f"It is applied once, where {first} names it."
            problems.add(f"names {words[0]} again", where=where, why=why, hint="Take the line out.")
            continue
        with problems.collect():
            found.append(_listed(series, words, where))
    problems.check()
    return tuple(found)


def directories_of(series: Path) -> tuple[tuple[str, str], ...]:
    """Read the directories that a series file names, each with its place, if it names no patches.

    :raises KlpError: when it names a directory and something else, or options of one.
    """
    problems = Problems()
    lines = [*_lines(series)] if series.is_file() else []
    found = [(where, w) for where, w in lines if (series.parent / w[0]).is_dir()]
    for where, words in lines if found else ():
        if (where, words) not in found:
            problems.add(
                f"names {words[0]}, which is not a directory",
                where=where,
                why=f"Others of its lines do: {found[0][1][0]}.",
                hint="Put patches into a directory.",
            )
        elif words[1:]:
            problems.add(f"has the option {words[1]}", where=where, why="It is for patches.")
    problems.check()
    return tuple((words[0].rstrip("/"), where) for where, words in found)


def _lines(series: Path) -> Iterator[tuple[str, list[str]]]:
    """Read the words of each line that names a patch, with its place."""
    with reading(series):
        text = series.read_bytes().decode(errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        if words := re.sub(r"(^|\s)#.*", "", line).split():
            yield f"{series}:{number}", words


def _listed(series: Path, words: list[str], where: str) -> Listed:
    name, *options = words
    path, level = series.parent / name, None
    if name.startswith("/") or ".." in name.split("/"):
        raise KlpError(f"names {name}, which is not below the series", where=where)
    if not path.is_file():
        raise KlpError(f"names {name}, which is not there", where=where)
    for option in options:
        match = re.fullmatch(r"-p(ab|\d)", option)
        if match is None:
            raise KlpError(
                f"has the option {option}",
                where=where,
                why="A patch is applied as it is: only -p says how its names are read.",
            )
        level = 1 if match[1] == "ab" else int(match[1])
    return Listed(path, level)


def stated_level(patch: Path) -> int | None:
    """Read what a series beside a patch, or above it, says of the directories before its names.

    :raises KlpError: for an option other than ``-p``.
    """
    place = patch.absolute()
    for directory in place.parents[:_ABOVE]:
        series = directory / SERIES
        for where, words in _lines(series) if series.is_file() else ():
            if directory / words[0] == place:
                return _listed(series, words, where).level
    return None
