"""What is exported, in the index: the symbols that Module.symvers means, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klpbuild.errors import KlpError
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.exported import ExportedNames
from klpbuild.symbols.symvers import Exports
from klpbuild.symbols.table import ObjectSymbols
from klpbuild.symbols.write import write_objects
from tests.symbols.test_symbols_klp import described

NOW = """\
0x12345678\tkmalloc\tvmlinux\tEXPORT_SYMBOL\t
0x9abcdef0\tjbd2_journal_start\tfs/jbd2/jbd2\tEXPORT_SYMBOL_GPL\t
0x00000000\tdma_buf_get\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL\tDMA_BUF
"""


def symvers(directory: Path, text: str) -> Path:
    path = directory / "Module.symvers"
    path.write_text(text)
    return path


def as_exports(path: Path) -> list[tuple[str, str]]:
    return [(export.symbol, export.owner) for export in Exports.read(path)]


def as_names(path: Path) -> list[tuple[str, str]]:
    exported = ExportedNames.read(path)
    return list(zip(exported.names.text.decode().splitlines(), exported.owners, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "",
        NOW,
        NOW.rstrip("\n"),
        "0x12345678\tkmalloc\tvmlinux\tEXPORT_SYMBOL\n",
        "0x12345678\tdma_buf_get\tDMA_BUF\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL\n",
        "0x12345678\tEXPORT_x\tEXPORT_X\tdrivers/x\tEXPORT_SYMBOL_GPL\n" + NOW,
    ],
)
def test_the_names_are_those_of_the_exports(tmp_path: Path, text: str) -> None:
    path = symvers(tmp_path, text)
    assert as_names(path) == as_exports(path)


FIELD = st.sampled_from(
    ["0x1", "kmalloc", "vmlinux", "fs/a-b", "EXPORT_SYMBOL", "EXPORT_", "", "x"]
)


@given(st.lists(st.lists(FIELD, max_size=6).map("\t".join), max_size=4).map("\n".join))
@settings(deadline=None)
def test_lines_that_are_no_exports(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """What `Exports` takes is taken in the same way."""
    path = symvers(tmp_path_factory.mktemp("symvers"), text)
    try:
        expected = as_exports(path)
    except KlpError:
        return
    assert set(expected) <= set(as_names(path))


def test_a_broken_file(tmp_path: Path) -> None:
    path = symvers(tmp_path, NOW + "kmalloc\n")
    with pytest.raises(KlpError) as refusal:
        ExportedNames.read(path)
    assert str(refusal.value).splitlines()[0] == f"{path}:4: is not a line of Module.symvers"
    path.unlink()
    with pytest.raises(KlpError, match=r"Module\.symvers: cannot be read: No such file"):
        ExportedNames.read(path)


def with_kinds(object: str, **kinds: str) -> ObjectSymbols:
    """An object with these symbols, each of a kind as nm prints it."""
    symbols = described(object, list(kinds))
    symbols.rows["kind"] = [kind.encode() for kind in kinds.values()]
    return symbols


def test_the_index_says_what_is_exported(tmp_path: Path) -> None:
    exported = ExportedNames.read(symvers(tmp_path, NOW))
    objects = [
        with_kinds("vmlinux", kmalloc="T", dma_buf_get="T", kfree="T"),
        with_kinds("jbd2", jbd2_journal_start="T", kmalloc="t"),
        with_kinds("dma_buf", dma_buf_get="W"),
        with_kinds("other", dma_buf_get="t", jbd2_journal_start="T"),
    ]
    path = tmp_path / "symbols.klp"
    write_objects(path, objects, exported)
    database = SymbolDatabase.read(path)

    def exporters(name: str) -> list[tuple[str, str | None]]:
        return [(c.object, c.exported_by) for c in database.candidates(name)]

    assert exporters("kmalloc") == [("vmlinux", "vmlinux"), ("jbd2", None)]
    assert exporters("kfree") == [("vmlinux", None)]
    assert exporters("jbd2_journal_start") == [("jbd2", "jbd2"), ("other", None)]
    assert exporters("dma_buf_get") == [("vmlinux", None), ("dma_buf", "dma_buf"), ("other", None)]


def test_a_local_symbol_of_an_exported_name(tmp_path: Path) -> None:
    """Of two in the owner it is the global one; of two with one hash the one of the name."""
    lines = "0x1\tshow\tvmlinux\tEXPORT_SYMBOL\t\n0x1\tlock_twolock_one\tvmlinux\tEXPORT_SYMBOL\t\n"
    symbols = described("vmlinux", ["show", "show", "lock_onelock_two", "lock_twolock_one"])
    symbols.rows["kind"] = [b"t", b"T", b"T", b"T"]
    path = tmp_path / "symbols.klp"
    write_objects(path, [symbols], ExportedNames.read(symvers(tmp_path, lines)))
    database = SymbolDatabase.read(path)
    assert [c.exported_by for c in database.candidates("show")] == [None, "vmlinux"]
    assert [c.exported_by for c in database.candidates("lock_onelock_two")] == [None]
    assert [c.exported_by for c in database.candidates("lock_twolock_one")] == ["vmlinux"]
