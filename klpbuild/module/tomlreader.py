"""Read values of a TOML file, and collect what is wrong with them, each with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from klpbuild.errors import KlpError, Problem
from klpbuild.module.toml import TomlFile

_T = TypeVar("_T")

#: A file with more of them is no description at all.
_PROBLEMS_MAX = 100

_TYPES = {str: "a text", bool: "true or false", int: "a number", list: "a list", dict: "a table"}


def shown(value: object) -> str:
    """Format a value for a message, cut when it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


class TableReader:
    """Reads the tables of one file and collects what is wrong with them."""

    def __init__(self, file: TomlFile) -> None:
        self.file = file
        self.path = file.path
        self.problems: list[tuple[int, Problem]] = []

    def error(self) -> KlpError:
        """Make the error of all problems, in the order of the lines."""
        in_order = sorted(self.problems, key=lambda found: found[0])
        return KlpError.together(problem for _, problem in in_order)

    def known_keys(
        self, table: Mapping[str, Any], known: tuple[str, ...], what: str, line: int
    ) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                self.add_at(
                    self.file.line_of_key(key, line),
                    f"unknown key {shown(key)}" + (f" in {what}" if what else ""),
                    hint=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}.",
                )

    def value(
        self, table: Mapping[str, Any], key: str, kind: type[_T], default: _T, line: int = 0
    ) -> _T:
        """Return the value of a key, or the default when it is missing or of another type."""
        value = table.get(key, default)
        # bool is a subclass of int, and true is no position.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            at = self.file.line_of_value(key, value, line)
            self.add_at(at, f"{key} is not {_TYPES[kind]}: {shown(value)}")
            return default
        return value

    def texts(
        self, table: Mapping[str, Any], key: str, pattern: re.Pattern[str]
    ) -> tuple[str, ...]:
        texts = []
        for item in self.value(table, key, list, []):
            if isinstance(item, str) and pattern.fullmatch(item):
                texts.append(item)
            else:
                self.add(f"{key} holds {shown(item)}, which is not a text of one line", key)
        return tuple(texts)

    def add(self, what: str, key: str, text: str = "", *, why: str = "", hint: str = "") -> None:
        line = self.file.line_of_key(key) if key else 0
        if text:
            line = self.file.line_of(text, line)
        self.add_at(line, what, why=why, hint=hint)

    def add_at(self, line: int, what: str, *, why: str = "", hint: str = "") -> None:
        where = f"{self.path}:{line}" if line else str(self.path)
        self.problems.append((line, Problem(what, where, why, hint)))
        if len(self.problems) == _PROBLEMS_MAX:
            raise self.error()
