"""Source files as patches leave them, with the origin of each line."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class SourceLine:
    """A line of a source file and where it comes from.

    :ivar text: with its line end.
    :ivar old: its number in the original file from 1, None when a patch added it.
    :ivar origin: ``patch:line`` of the patch that added it, empty for an old line.
    """

    text: bytes
    old: int | None
    origin: str = ""


@dataclass(frozen=True)
class PatchedFile:
    """A file of the source tree as the patches leave it.

    :ivar path: relative to the source tree, with ``/``.
    :ivar original: the file's bytes before; None when the file is new.
    :ivar lines: what it is made of afterwards.
    :ivar where: ``patch:line`` of the first patch's header for it.
    :ivar patches: the names of the patches that change it, in their order.
    """

    path: str
    original: bytes | None
    lines: tuple[SourceLine, ...]
    where: str
    patches: tuple[str, ...] = ()

    @cached_property
    def patched(self) -> bytes:
        """The file's bytes afterwards."""
        return b"".join(line.text for line in self.lines)

    def origin(self, number: int) -> str:
        """Find the ``patch:line`` that explains a line of the patched file.

        An old line is explained by the nearest line that a patch added, else by
        the patch's header for the file.

        :param number: the line's number in the patched file, from 1.
        """
        at = bisect_left(self._added, number)
        nearest = self._added[max(at - 1, 0) : at + 1]
        if not nearest:
            return self.where
        return self.lines[min(nearest, key=lambda i: abs(i - number)) - 1].origin

    def added(self, number: int) -> str:
        """Name the patch that added a line of the patched file; empty for an old one."""
        return self.lines[number - 1].origin.rpartition(":")[0] if number <= len(self.lines) else ""

    @cached_property
    def _added(self) -> list[int]:
        return [i for i, line in enumerate(self.lines, 1) if line.origin]


@dataclass(frozen=True)
class PatchedSource:
    """Changes that all patches together make to a source tree.

    :ivar files: the C files and headers that change, by path.
    :ivar makefiles: the Makefiles that put new C files into objects.
    :ivar notes: what was remarkable and no fault: offsets, files without code.
    :ivar cover_letters: the names of patches that are the cover letter of a series.
    """

    files: tuple[PatchedFile, ...]
    makefiles: tuple[PatchedFile, ...]
    notes: tuple[str, ...]
    cover_letters: frozenset[str] = frozenset()
