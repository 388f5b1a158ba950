"""Module.symvers."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.symbols.symvers import Export, Exports

NOW = """\
0x12345678\tkmalloc\tvmlinux\tEXPORT_SYMBOL\t
0x9abcdef0\tjbd2_journal_start\tfs/jbd2/jbd2\tEXPORT_SYMBOL_GPL\t
0x00000000\tdma_buf_get\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL\tDMA_BUF
"""


def symvers(directory: Path, text: str) -> Path:
    path = directory / "Module.symvers"
    path.write_text(text)
    return path


def test_exports(tmp_path: Path) -> None:
    exports = Exports.read(symvers(tmp_path, NOW))
    assert len(exports) == 3
    assert exports.find("kmalloc") == Export("kmalloc", "vmlinux", 0x12345678, "", False)
    assert exports.find("jbd2_journal_start") == Export(
        "jbd2_journal_start", "jbd2", 0x9ABCDEF0, "", True
    )
    assert exports.find("dma_buf_get") == Export("dma_buf_get", "dma_buf", 0, "DMA_BUF", True)
    assert exports.find("meminfo_proc_show") is None
    assert [e.symbol for e in exports.of("jbd2")] == ["jbd2_journal_start"]


def test_other_kernels_files(tmp_path: Path) -> None:
    """Without namespaces before v5.4, with the namespace third until v5.6."""
    old = "0x12345678\tkmalloc\tvmlinux\tEXPORT_SYMBOL\n"
    third = "0x12345678\tdma_buf_get\tDMA_BUF\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL\n"
    exports = Exports.read(symvers(tmp_path, old + third))
    assert exports.find("kmalloc") == Export("kmalloc", "vmlinux", 0x12345678, "", False)
    assert exports.find("dma_buf_get") == Export(
        "dma_buf_get", "dma_buf", 0x12345678, "DMA_BUF", True
    )


def test_no_exports(tmp_path: Path) -> None:
    assert len(Exports.read(symvers(tmp_path, ""))) == 0


@pytest.mark.parametrize(
    "line",
    [
        "",
        "kmalloc",
        "0x12345678\tkmalloc\tvmlinux",
        "0x1234567z\tkmalloc\tvmlinux\tEXPORT_SYMBOL\t",
        "0x12345678\t\tvmlinux\tEXPORT_SYMBOL\t",
        "0x12345678\tkmalloc\t\tEXPORT_SYMBOL\t",
        "0x12345678\tkmalloc\tvmlinux\tsomething\t",
        "0x12345678 kmalloc vmlinux EXPORT_SYMBOL",
    ],
)
def test_lines_that_are_refused(tmp_path: Path, line: str) -> None:
    path = symvers(tmp_path, f"{NOW}{line}\n{NOW}{line}\n")
    with pytest.raises(KlpError) as refusal:
        Exports.read(path)
    assert str(refusal.value) == "\n".join(
        f"{path}:{number}: is not a line of Module.symvers\n"
        "  Every line has a CRC, a symbol, an object, EXPORT_SYMBOL and a namespace.\n"
        "  Build or fetch the kernel's headers again."
        for number in (4, 8)
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "Module.symvers"
    with pytest.raises(KlpError) as refusal:
        Exports.read(path)
    assert str(refusal.value) == f"{path}: cannot be read: No such file or directory"
    path.write_bytes(b"\x7fELF\x80\xff")
    with pytest.raises(KlpError) as refusal:
        Exports.read(path)
    assert str(refusal.value) == f"{path}: is not a Module.symvers"
