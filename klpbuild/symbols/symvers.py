"""Module.symvers: what is exported, and by whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError, Problems
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

    def __init__(self, exports: dict[str, Export]) -> None:
        self._exports = exports

    @classmethod
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
        exports: dict[str, Export] = {}
        for number, line in enumerate(lines, start=1):
            with problems.collect():
                export = _parse(line, f"{path}:{number}")
                exports.setdefault(export.symbol, export)
        problems.check()
        return cls(exports)

    def __len__(self) -> int:
        return len(self._exports)

    def find(self, symbol: str) -> Export | None:
        """The export of a name; modpost refuses two of one name."""
        return self._exports.get(symbol)

    def of(self, owner: str) -> tuple[Export, ...]:
        """What an object exports, in the file's order."""
        return tuple(e for e in self._exports.values() if e.owner == owner)


def _parse(line: str, where: str) -> Export:
    """CRC, symbol, object, kind and namespace, with tabs between.

    From v5.4 to v5.6 the namespace stood third (scripts/mod/modpost.c, write_dump).
    """
    fields = line.split("\t")
    try:
        crc = int(fields[0], 16)
        symbol, owner, kind, *rest = fields[1:]
        namespace = rest[0] if rest else ""
        if not kind.startswith(_EXPORT):
            namespace, owner, kind = fields[2:]
        if not (symbol and owner and kind.startswith(_EXPORT)):
            raise ValueError
    except ValueError:
        raise KlpError(
            "is not a line of Module.symvers",
            where=where,
            why="Every line has a CRC, a symbol, an object, EXPORT_SYMBOL and a namespace.",
            hint="Build or fetch the kernel's headers again.",
        ) from None
    return Export(symbol, object_name(owner), crc, namespace, "GPL" in kind)
