"""Make a shadow tree: links to the source tree, in which only the patched files are real.

The source tree itself is never written to: directories on the way to a patched
file are real, everything else is a symbolic link into it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from klpbuild.patch.csource import LITERAL
from klpbuild.patch.patched import PatchedFile, SourceLine


def make_shadow(
    directory: Path,
    source: Path,
    files: Iterable[PatchedFile],
    real: Iterable[str] = (),
    *,
    directives: bool = True,
) -> None:
    """Make a shadow of a source tree with patched files in it.

    A path that leads through a link and back, ``link/../x.h``, finds the original.  So
    directories below that of a patched header are real, and others that are named.

    :param directory: where; of what is there stays what fits, for links take long to make.
    :param source: the source tree.
    :param files: the patched files.
    :param real: further directories that must be real, relative to the source tree.
    :param directives: whether to keep ``__LINE__`` of old lines, see `with_line_directives`.
    """
    changed = {file.path: file for file in files}
    wanted = [*(PurePosixPath(path).parent for path in changed), *map(PurePosixPath, real)]
    opened = {str(directory) for each in wanted for directory in (each, *each.parents)}
    headers = {str(PurePosixPath(path).parent) for path in changed if path.endswith(".h")}
    directory.parent.mkdir(parents=True, exist_ok=True)
    _fill(directory, source.resolve(), "", _Plan(frozenset(changed), opened, headers), False)
    for path, file in changed.items():
        is_code = path.endswith((".c", ".h")) and file.original is not None
        text = with_line_directives(file.lines) if directives and is_code else file.patched
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink() or place.is_dir():
            _remove(place)
        if not place.is_file() or place.read_bytes() != text:
            place.write_bytes(text)


@dataclass(frozen=True)
class _Plan:
    """Paths relative to the tree: changed files, directories above them, directories of headers."""

    changed: frozenset[str]
    opened: set[str]
    headers: set[str]


def _fill(place: Path, original: Path, path: str, plan: _Plan, below_header: bool) -> None:
    """Make a real directory, with links to what need not be real, and with nothing else in it.

    :param path: of the directory with a slash behind it, empty for the tree.
    """
    if place.is_symlink() or not place.is_dir():
        _remove(place)
        place.mkdir()
    below_header = below_header or (path.rstrip("/") or ".") in plan.headers
    with os.scandir(place) as entries:
        former = {entry.name: entry for entry in entries}
    with os.scandir(original) as entries:
        for entry in entries:
            name, old = path + entry.name, former.pop(entry.name, None)
            if name in plan.changed:
                continue
            if (below_header or name in plan.opened) and entry.is_dir(follow_symlinks=False):
                _fill(place / entry.name, original / entry.name, f"{name}/", plan, below_header)
            else:
                link = place / entry.name
                if old is None or not old.is_symlink() or str(link.readlink()) != entry.path:
                    _remove(link)
                    link.symlink_to(entry.path)
    for name in former:
        if path + name not in plan.changed:
            _remove(place / name)


def _remove(place: Path) -> None:
    """Remove a file, a link or a directory, if there is one."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def with_line_directives(lines: Sequence[SourceLine]) -> bytes:
    """Insert ``#line`` into a patched file where needed, so that old lines keep their numbers.

    ``__LINE__`` is in the tables of WARN and BUG and in names of variables; without
    this, a line added at the top of a file would change every function below.  The
    directive stands only where the preprocessor takes it for one: not in a comment,
    a continued line or the arguments of a macro.
    """
    out: list[bytes] = []
    number = 1
    scanner = _Scanner()
    numbers = [line.old for line in lines]
    steps = (at for at in range(1, len(lines)) if numbers[at] != (numbers[at - 1] or 0) + 1)
    last = max(steps, default=0)
    for at, line in enumerate(lines):
        if at > last and number == line.old:  # and so it stays
            return b"".join([*out, *(rest.text for rest in lines[at:])])
        if line.old is not None and line.old != number and scanner.at_line_start:
            out.append(b"#line %d\n" % line.old)
            number = line.old
        out.append(line.text)
        number += 1
        scanner.read(line.text)
    return b"".join(out)


_PIECES = re.compile(rb"/\*|//|%b|[(){}]" % LITERAL)


class _Scanner:
    """Tracks comments, continued lines and parentheses from line to line."""

    def __init__(self) -> None:
        self._comment = False
        self._continued = False
        self._directive = False
        self._depth = 0

    @property
    def at_line_start(self) -> bool:
        """Whether a directive may stand before the next line."""
        return not (self._comment or self._continued or self._depth)

    def read(self, text: bytes) -> None:
        bare = text.rstrip(b"\r\n")
        directive = not self._comment and not self._continued and bare.lstrip()[:1] == b"#"
        if bare[:1] in (b"{", b"}") and not self._comment:
            # A function begins or ends: whatever #if made of the parentheses is over.
            self._depth = 0
        position, depth = 0, self._depth
        while position < len(bare):
            if self._comment:
                end = bare.find(b"*/", position)
                if end < 0:
                    break
                self._comment, position = False, end + 2
                continue
            match = _PIECES.search(bare, position)
            if match is None:
                break
            position = match.end()
            if match[0] == b"/*":
                self._comment = True
            elif match[0] == b"//":
                break
            elif match[0] == b"(":
                depth += 1
            elif match[0] == b")":
                depth = max(depth - 1, 0)
        self._directive = directive or (self._continued and self._directive)
        if not self._directive:
            self._depth = depth
        self._continued = bare.endswith(b"\\")
