"""One damaged input of each kind that a reader once ended with a traceback or a hang at."""

from __future__ import annotations

import gzip
import json
import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from klpbuild.elf.btf import Btf
from klpbuild.elf.constants import EM, SHT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.tables import rela_dtype
from klpbuild.elf.writer import ElfObject, WritableSection
from klpbuild.errors import KlpError
from klpbuild.excerpt.btf import head
from klpbuild.patch.layout import layouts
from klpbuild.patch.linetable import line_units
from klpbuild.report import file as module_file
from klpbuild.report.file import read_file
from klpbuild.running.status import parse_status
from klpbuild.symbols.database import parse
from klpbuild.symbols.entries import EntryPoints
from klpbuild.symbols.exported import ExportedNames
from klpbuild.symbols.index import Index, build
from tests.check.kernels import make_kernel

INT, STRUCT, TYPEDEF, FUNC, PROTO = 1, 4, 8, 12, 13


def refusal(caught: pytest.ExceptionInfo[KlpError]) -> str:
    return str(caught.value)


def with_section(name: str, data: bytes) -> ElfFile:
    elf = ElfObject(EM.X86_64, "<")
    elf.add_section(WritableSection(name, SHT.PROGBITS, data=bytearray(data)))
    return ElfFile(elf.to_bytes(), "x.o")


def btf(*types: bytes) -> bytes:
    """Types by number from 1, and the strings '', 'a', 'b'."""
    body, strings = b"".join(types), b"\0a\0b\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings))
    return header + body + strings


def of_type(kind: int, other: int, name: int = 1, members: bytes = b"") -> bytes:
    return struct.pack("<III", name, kind << 24 | len(members) // 12, other) + members


@pytest.mark.parametrize(
    "types",
    [
        [of_type(TYPEDEF, 2), of_type(TYPEDEF, 1)],  # named after each other
        [of_type(STRUCT, 8, members=struct.pack("<III", 0, 1, 0))],  # in itself
        [of_type(STRUCT, 8, members=struct.pack("<III", 1, 99, 0))],  # of what is not there
        [of_type(STRUCT, 8, name=9999)],  # its name is not there
        [of_type(STRUCT, 8)[:7]],
    ],
)
def test_layouts(types: list[bytes]) -> None:
    with pytest.raises(KlpError) as caught:
        layouts(with_section(".BTF", btf(*types)))
    assert refusal(caught) == "x.o: has broken type information (BTF)"


def test_structures_in_structures_without_end() -> None:
    """Each holds the next one a thousand times: a member of the first is one of 10^12."""
    levels = [
        of_type(STRUCT, 8, 0, struct.pack("<III", 0, level + 2, 0) * 1000) for level in range(4)
    ]
    named = of_type(STRUCT, 8, 1, struct.pack("<III", 0, 1, 0))
    with pytest.raises(KlpError):
        layouts(with_section(".BTF", btf(*levels, of_type(STRUCT, 8, 0), named)))


def test_heads_of_functions() -> None:
    parameters = struct.pack("<II", 2, 1) * 3
    proto = struct.pack("<III", 0, PROTO << 24 | 3, 1) + parameters
    with pytest.raises(KlpError) as caught:
        head(Btf(btf(proto, of_type(FUNC, 1)), where="x"), "a", "new")
    assert refusal(caught) == "x: has broken type information (BTF)"


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", 2**31) + bytes(40),  # longer than its section
        struct.pack("<IHBBIBBBBBB", 40, 5, 8, 0, 9, 1, 1, 1, 1, 1, 1) + b"\xff" * 30,
        struct.pack("<IHBBIBBBBBB", 40, 5, 8, 0, 9, 1, 1, 1, 1, 1, 255) + bytes(30),
    ],
)
def test_line_tables(data: bytes) -> None:
    with pytest.raises(KlpError) as caught:
        line_units(with_section(".debug_line", data))
    assert refusal(caught) == "x.o: has broken debug information"


def test_entries_of_modules(tmp_path: Path) -> None:
    side = make_kernel(tmp_path)
    (module,) = side.kernel.modules
    data = bytearray(module.read_bytes())
    elf = ElfFile(bytes(data), "button.ko")
    table = elf.section(".rela__mcount_loc")
    assert table is not None and side.database is not None
    data[16:18] = (2).to_bytes(2, "little")  # no relocatable file: nothing is checked before
    rows = np.frombuffer(data, rela_dtype("<"), table.sh_size // 24, table.sh_offset)
    rows["r_sym"] = 9999
    module.write_bytes(data)
    entries = EntryPoints(side.database, modules=[module])
    with pytest.raises(KlpError) as caught:
        entries.has("button", "param_get_lid_init_state", 1)
    assert refusal(caught) == f"{module}: has a broken table of ftrace entries"


def test_an_index_whose_numbers_lead_nowhere() -> None:
    text = b"klp-convert-symbol-data.0.1\n*vmlinux\nfirst\nsecond\n"
    index = build(text, *parse(text, "x"))
    start = index.index(b"\n") + 1
    found = 0
    for at in range(start + 4, len(index)):
        for value in (0xFF, 0x7F, 0):
            body = bytearray(index[start + 4 :])
            body[at - start - 4] = value
            checksum = zlib.crc32(body).to_bytes(4, "little")
            try:
                damaged = Index(index[:start] + checksum + body, text)
            except ValueError:
                found += 1
                continue
            damaged.find("first")
            damaged.symbols(0)
    assert found > 100


def test_records_in_an_index_of_other_types() -> None:
    text = b"klp-convert-symbol-data.0.1\n*vmlinux\nfirst\n"
    index = build(text, *parse(text, "x"))
    start = index.index(b"\n") + 1
    size = int.from_bytes(index[start + 4 : start + 8], "little")
    header = json.loads(index[start + 8 : start + 8 + size])
    wrong: tuple[object, ...] = (
        None, [1], [[]], [[["x"], 0, 0, 0, 0, True]], [["x", "0", 0, 0, 0, True]],
    )  # fmt: skip
    for objects in wrong:
        encoded = json.dumps(header | {"objects": objects}).encode().ljust(size)
        body = len(encoded).to_bytes(4, "little") + encoded + index[start + 8 + size :]
        with pytest.raises(ValueError):
            Index(index[:start] + zlib.crc32(body).to_bytes(4, "little") + body, text)


def test_a_zero_byte_in_symvers(tmp_path: Path) -> None:
    path = tmp_path / "Module.symvers"
    path.write_bytes(b"0x0\ta\0b\tvmlinux\tEXPORT_SYMBOL\t\n")
    with pytest.raises(KlpError) as caught:
        ExportedNames.read(path)
    assert refusal(caught) == f"{path}: is not a Module.symvers"


def test_the_status_program_says_something_else() -> None:
    with pytest.raises(KlpError) as caught:
        parse_status("livepatch_x: asleep\n")
    assert refusal(caught) == "livepatch status: does not say how the livepatches are"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_small_file_that_becomes_a_large_one(
    tmp_path: Path, compress: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_file, "_SIZE_MAX", 1 << 20)
    assert callable(compress)
    path = tmp_path / "x.ko.gz"
    path.write_bytes(compress(bytes(8 << 20)))
    with pytest.raises(KlpError) as caught:
        read_file(path)
    assert refusal(caught) == f"{path}: is too large for a module"


def test_an_xz_file_that_asks_for_memory(tmp_path: Path) -> None:
    """Its dictionary is as large as it says, before the first byte comes out."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    path = tmp_path / "x.ko.xz"
    path.write_bytes(lzma.compress(b"x", filters=filters))
    with pytest.raises(KlpError) as caught:
        read_file(path)
    assert refusal(caught).splitlines()[0] == f"{path}: does not decompress as xz"
