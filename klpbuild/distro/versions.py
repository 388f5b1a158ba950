"""Compare package versions as Debian does (deb-version(7))."""

from __future__ import annotations

import re
from typing import TypeAlias

_Part: TypeAlias = tuple[tuple[tuple[int, ...], int], ...]
VersionKey: TypeAlias = tuple[int, _Part, _Part]

_END = ((0,), 0)


def _weight(character: str) -> int:
    if character == "~":  # sorts before everything, even the end
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _part(text: str) -> _Part:
    pieces = [
        ((*map(_weight, word), 0), int(number or 0))
        for word, number in re.findall(r"([^0-9]*)([0-9]*)", text)
    ]
    while pieces and pieces[-1] == _END:
        pieces.pop()
    return (*pieces, _END)


def version_key(version: str) -> VersionKey:
    """Make a sort key of a version: ``6.12.117-1~deb12u1`` comes before ``6.12.117-1``.

    :param version: ``[epoch:]upstream[-revision]``.
    """
    epoch, _, rest = version.rpartition(":")
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch or 0), _part(upstream if dash else rest), _part(revision if dash else "")
