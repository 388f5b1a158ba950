"""Read the symbols of whole files, as `klpbuild.symbols.write` does in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from klpbuild.symbols.objects import read_symbols
from klpbuild.symbols.sources import vmlinux_symbols
from klpbuild.symbols.table import ObjectSymbols
from klpbuild.symbols.tables import read_tables


def read_vmlinux(path: Path, version: tuple[int, ...]) -> ObjectSymbols:
    """Read the symbols of vmlinux from the linked ELF file."""
    return vmlinux_symbols(read_tables(path), version)


def read_modules(paths: Sequence[Path]) -> Iterator[ObjectSymbols]:
    """Read the symbols of modules from their ``.ko`` files, in the order of the paths."""
    return read_symbols([read_tables(path) for path in paths])
