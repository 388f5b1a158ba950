"""Read a TOML file within bounds, and find the line that defines something."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klpbuild.errors import KlpError
from klpbuild.files.given import read_small_file

#: Larger than any description that people write; what is larger takes long to read.
SIZE_MAX = 1 << 16
#: How deep tables and lists may be in each other: a livepatch's description needs four.
_DEPTH_MAX = 8
#: More dots than any line of a description has outside of quotation marks.
_DOTS_MAX = 50
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
#: What TOML promises to hold.
_INTEGERS = range(-(2**63), 2**63)


@dataclass(frozen=True)
class TomlFile:
    """A TOML file.

    :ivar path: the file.
    :ivar lines: its lines.
    :ivar table: what it says.
    """

    path: Path
    lines: tuple[str, ...]
    table: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Read a file.

        :raises KlpError: when it cannot be read, is larger than `SIZE_MAX` or is not TOML, or
            nests tables or has numbers beyond what TOML promises.
        :raises FileNotFoundError: when there is none.
        """
        data = read_small_file(path, SIZE_MAX)
        try:
            text = data.decode()
            # A key of many thousand parts takes the reader many minutes.
            if any(_QUOTED.sub("", line).count(".") > _DOTS_MAX for line in text.splitlines()):
                raise _too_deep(path)
            table = tomllib.loads(text)
        except UnicodeDecodeError as error:
            raise KlpError("is not UTF-8", where=str(path)) from error
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"at line (\d+)", str(error))
            where = f"{path}:{line[1]}" if line else str(path)
            raise KlpError(f"is not TOML: {error}", where=where) from error
        except RecursionError as error:
            raise _too_deep(path) from error
        except ValueError as error:  # Python reads no number of thousands of digits
            raise _too_large(path) from error
        _check(table, path)
        return cls(path, tuple(text.splitlines()), table)

    def line_of_key(self, key: str, start: int = 0) -> int:
        """Find the line that gives a key a value, from a line on."""
        name = re.escape(key)
        pattern = re.compile(rf"(?:^|[\s{{,\"']){name}[\"']?\s*=|^\s*\[+{name}\]")
        return self._search(pattern, start)

    def line_of_value(self, key: str, value: object, start: int) -> int:
        """Find the line that gives a key this value, else any value, from a line on."""
        text = re.escape(str(value).lower() if isinstance(value, bool) else str(value))
        pattern = re.compile(rf"\b{re.escape(key)}[\"']?\s*=\s*[\"']?{text}(?!\w)")
        return self._search(pattern, start, otherwise=self.line_of_key(key, start))

    def line_of(self, text: str, start: int = 0, skip: int = 0) -> int:
        """Find the line that has a quoted text, from a line on, after `skip` others."""
        return self._search(re.compile(rf"[\"']{re.escape(text)}[\"']"), start, skip)

    def _search(
        self, pattern: re.Pattern[str], start: int, skip: int = 0, otherwise: int = 0
    ) -> int:
        first, found = max(start, 1), otherwise or max(start, 1)
        for number, line in enumerate(self.lines[first - 1 :], first):
            if pattern.search(line):
                found = number
                if skip == 0:
                    break
                skip -= 1
        return found


def _check(table: Mapping[str, Any], path: Path) -> None:
    """Refuse depth and numbers that TOML does not promise to hold.

    Keys with dots make deep tables without the reader's noticing, and numbers in hexadecimal
    digits may have any size; what is done with either later would fail.
    """
    level: list[object] = [table]
    for _ in range(_DEPTH_MAX):
        if any(isinstance(value, int) and value not in _INTEGERS for value in level):
            raise _too_large(path)
        level = [inner for value in level for inner in _within(value)]
    if level:
        raise _too_deep(path)


def _within(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _too_deep(path: Path) -> KlpError:
    return KlpError(f"nests tables and lists deeper than {_DEPTH_MAX}", where=str(path))


def _too_large(path: Path) -> KlpError:
    return KlpError("has a number of more than 64 bits", where=str(path))
