"""Read Module.symvers: which symbols are exported, and by which object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.files.records import while_unchanged
from klpbuild.names import object_name

_EXPORT = "EXPORT_"


@dataclass(frozen=True)
class Export:
    """An exported symbol.

    :ivar symbol: its name.
    :ivar owner: ``vmlinux`` or the module's name.
    :ivar crc: its version checksum; 0 without CONFIG_MODVERSIONS.
    :ivar namespace: what a user must import; empty for most.
    :ivar gpl: whether only modules with a GPL-compatible licence may use it.
    """

    symbol: str
    owner: str
    crc: int
    namespace: str
    gpl: bool


class Exports:
    """The exported symbols of a kernel and its modules."""

    def __init__(self, lines: dict[str, list[str]]) -> None:
        self._lines = lines

    @classmethod
    @while_unchanged
    def read(cls, path: Path) -> Exports:
        """Read a Module.symvers.

        :raises KlpError: when it cannot be read, with every line at fault.
        """
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            raise KlpError(f"cannot be read: {error.strerror}", where=str(path)) from error
        except UnicodeDecodeError as error:
            raise KlpError("is not a Module.symvers", where=str(path)) from error
        problems = Problems()
        found: dict[str, list[str]] = {}
        for number, line in enumerate(lines, start=1):
            fields = line.split("\t")
            if _is_export(fields):
                found.setdefault(fields[1], fields)
            else:
                problems.add(
                    "is not a line of Module.symvers",
                    where=f"{path}:{number}",
                    why="Every line has a CRC, a symbol, an object, EXPORT_SYMBOL and a namespace.",
                    hint="Build or fetch the kernel's headers again.",
                )
        problems.check()
        return cls(found)

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Export]:
        return map(_export, self._lines.values())

    def find(self, symbol: str) -> Export | None:
        """Find the export of a name; modpost refuses two of one name."""
        fields = self._lines.get(symbol)
        return None if fields is None else _export(fields)

    def of(self, owner: str) -> tuple[Export, ...]:
        """List the exports of an object, in the file's order."""
        return tuple(e for e in self if e.owner == owner)


def _is_export(fields: list[str]) -> bool:
    """Tell whether these are CRC, symbol, object, kind and perhaps namespace.

    From v5.4 to v5.6 the namespace stood third (scripts/mod/modpost.c, write_dump).
    """
    try:
        int(fields[0], 16)
        symbol, owner, kind = fields[1:4]
    except ValueError:
        return False
    known = kind.startswith(_EXPORT) or (len(fields) == 5 and fields[4].startswith(_EXPORT))
    return known and bool(symbol and owner)


def _export(fields: list[str]) -> Export:
    crc, symbol, owner, kind = fields[:4]
    namespace = fields[4] if len(fields) > 4 else ""
    if not kind.startswith(_EXPORT):
        namespace, owner, kind = fields[2:]
    return Export(symbol, object_name(owner), int(crc, 16), namespace, "GPL" in kind)
